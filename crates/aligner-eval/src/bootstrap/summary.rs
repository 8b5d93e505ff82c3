//! What was written, in words.

use std::fmt;
use std::path::{Path, PathBuf};

use super::counts::Counts;
use super::format::BootstrapFormat;
use super::manifest::{BootstrapManifest, HashedFile};

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Where.
    pub dir: PathBuf,
    /// How the rows look.
    pub format: BootstrapFormat,
    /// The round.
    pub round: u32,
    /// The upstreams whose answers were corrected.
    pub upstreams: Vec<String>,
    /// How many corrections became rows, and why others did not.
    pub counts: Counts,
    /// The files of rows.
    pub files: Vec<HashedFile>,
    /// What to know before training on them.
    pub warnings: Vec<String>,
}

impl Summary {
    pub(super) fn of(dir: &Path, manifest: BootstrapManifest) -> Self {
        Self {
            dir: dir.to_path_buf(),
            format: manifest.format,
            round: manifest.round,
            upstreams: manifest.upstreams,
            counts: manifest.counts,
            files: manifest.files,
            warnings: manifest.warnings,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, round, .. } = self;
        let (kept, input) = (self.counts.kept, self.counts.input);
        writeln!(
            f,
            "round {round} of {}: {kept} of {input} corrections, as {format}",
            self.upstreams.join(", ")
        )?;
        for (reason, count) in &self.counts.dropped {
            writeln!(f, "  {count:>8}  {}", reason.text())?;
        }
        for file in &self.files {
            let path = self.dir.join(&file.file);
            writeln!(f, "{} rows in {}", file.rows, path.display())?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
