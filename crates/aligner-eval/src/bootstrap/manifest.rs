//! `manifest.json`: what rows were made of.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::counts::Counts;
use super::format::BootstrapFormat;
use super::lineage::{Ancestor, LicenceNote, Source, licences};
use super::options::Filters;
use super::select::Rows;
use crate::error::{EvalError, Result};
use crate::files::named;

/// The name of the file.
pub(super) const FILE: &str = "manifest.json";
const KIND: &str = "aligner-bootstrap";
const FORMAT_VERSION: u32 = 1;

/// What rows were made of. There is no time in it: the same input gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootstrapManifest {
    /// `aligner-bootstrap`.
    pub kind: String,
    /// Version of this file's format.
    pub format_version: u32,
    /// How the rows look.
    pub format: BootstrapFormat,
    /// 1 for rows of a model that learned from no correction yet.
    pub round: u32,
    /// `sha256:` and the hash of the manifest of the round before.
    pub parent: Option<String>,
    /// The rounds before, the first round first.
    pub lineage: Vec<Ancestor>,
    /// The files that were read.
    pub inputs: Vec<HashedFile>,
    /// The upstreams whose answers were corrected.
    pub upstreams: Vec<String>,
    /// The Aligners that corrected, with the licence of the data each was trained on.
    pub aligners: Vec<Source>,
    /// The data sets of the questions.
    pub datasets: Vec<Source>,
    /// Every licence of this round and those before.
    pub licences: Vec<LicenceNote>,
    /// Which corrections were good enough.
    pub filters: Filters,
    /// Share of the questions for validation.
    pub valid_share: f64,
    /// The seed.
    pub seed: u64,
    /// How many corrections became rows.
    pub counts: Counts,
    /// The files of rows beside this one.
    pub files: Vec<HashedFile>,
    /// What to know before training on them.
    pub warnings: Vec<String>,
    /// The program that wrote it.
    pub created_by: String,
}

/// A file, and what tells whether it is still the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedFile {
    /// Its name, without where it lies.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// `sha256:` and the hash of its bytes.
    pub sha256: String,
}

impl HashedFile {
    /// A file that gave `rows`, and the hash of what was read of it: of the same reading, as a second one might find others.
    pub fn of(path: &Path, rows: usize, sha256: String) -> Self {
        let name = path.file_name().unwrap_or_default();
        Self {
            file: name.to_string_lossy().into_owned(),
            rows: rows as u64,
            sha256,
        }
    }
}

impl BootstrapManifest {
    pub(super) fn of(rows: &Rows<'_>, inputs: &[HashedFile], files: Vec<HashedFile>) -> Self {
        let (options, lineage) = (&rows.options, &rows.lineage);
        let round = lineage.next_round();
        Self {
            kind: KIND.into(),
            format_version: FORMAT_VERSION,
            format: options.format,
            round,
            parent: lineage.0.last().map(|parent| parent.manifest.clone()),
            lineage: lineage.0.clone(),
            inputs: inputs.to_vec(),
            upstreams: rows.upstreams.clone(),
            aligners: rows.aligners.clone(),
            datasets: rows.datasets.clone(),
            licences: licences(lineage, round, &rows.aligners, &rows.datasets),
            filters: options.filters.clone(),
            valid_share: options.valid_share,
            seed: options.seed,
            counts: rows.counts.clone(),
            files,
            warnings: rows.warnings.clone(),
            created_by: concat!("aligner-eval ", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// Reads a manifest, or that of a directory.
    ///
    /// # Errors
    /// When it cannot be read, is something else, is newer than this program, or its rounds do not follow one another.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::read_hashed(path)?.0)
    }

    /// The manifest, and `sha256:` with the hash of its bytes.
    pub(super) fn read_hashed(path: &Path) -> Result<(Self, String)> {
        let path: PathBuf = if path.is_dir() {
            path.join(FILE)
        } else {
            path.to_path_buf()
        };
        let bytes = std::fs::read(&path).map_err(EvalError::io("read", &path))?;
        let no_manifest = |cause: String| {
            let reason = format!("is no manifest of rows to train an upstream on: {cause}");
            EvalError::file(&path, reason)
        };
        let head: Head = serde_json::from_slice(&bytes).map_err(|cause| no_manifest(cause.to_string()))?;
        if head.kind != KIND {
            return Err(no_manifest(format!("its kind is {:?}, not {KIND:?}", head.kind)));
        }
        if head.format_version > FORMAT_VERSION {
            let found = head.format_version;
            let reason = format!("has format version {found}; this program reads up to {FORMAT_VERSION}");
            return Err(EvalError::file(&path, reason));
        }
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|cause| no_manifest(cause.to_string()))?;
        manifest
            .check_rounds()
            .map_err(|reason| EvalError::file(&path, reason))?;
        Ok((manifest, named(Sha256::new_with_prefix(&bytes))))
    }

    /// The rounds before count from 1 up to this one, and the last of them is the parent.
    fn check_rounds(&self) -> Result<(), &'static str> {
        let rounds = self.lineage.iter().map(|ancestor| ancestor.round);
        if !rounds.chain([self.round]).eq(1..=self.lineage.len() as u32 + 1) {
            return Err("its rounds do not count from 1: it was changed");
        }
        if self.lineage.last().map(|last| &last.manifest) != self.parent.as_ref() {
            return Err("its parent is not the last round before it: it was changed");
        }
        Ok(())
    }
}

/// What tells whether the rest can be read.
#[derive(Deserialize)]
struct Head {
    kind: String,
    format_version: u32,
}
