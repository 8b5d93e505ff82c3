//! `aligner.json`: what makes a model directory an Aligner.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::template::PromptTemplate;

/// The name of the file.
const FILE: &str = "aligner.json";
const FORMAT_VERSION: u32 = 1;

/// What a model was trained for and with; it stands beside the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlignerManifest {
    /// Version of this file's format.
    pub format_version: u32,
    /// The prompt template the model was trained on.
    pub template: PromptTemplate,
    /// The template's fingerprint.
    pub template_fingerprint: String,
    /// Hash of the `tokenizer.json` the model was trained with.
    pub tokenizer_hash: String,
    /// The model it was trained from: its directory's name, or `org/name@commit` when it came from the Hugging Face Hub.
    pub base_model: String,
    /// The stages of its training, oldest first.
    pub stages: Vec<Stage>,
    /// Licence of the training data, where it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_licence: Option<String>,
    /// The program that wrote it.
    pub created_by: String,
}

/// One stage of a model's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// `warmup`: question and answer to the same answer; `correction`: question and answer to correction.
    pub kind: String,
    /// Optimizer steps.
    pub steps: u64,
    /// Training rows.
    pub rows: u64,
    /// Those of them whose target is a text of their own prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub identity_rows: u64,
    /// Fingerprint of the encoded rows.
    pub data_fingerprint: String,
    /// Highest learning rate, where it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// The files of the rows, in their order; of a warm-up on a share of the rows, the files they were chosen from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<StageSource>,
}

/// A file of training rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageSource {
    /// Its name, without where it lay.
    pub file: String,
    /// Rows that it gave.
    pub rows: u64,
    /// Its weight among the rows that were drawn, where the files were weighted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

// Serde hands out references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl AlignerManifest {
    /// A manifest for a model trained on `template`, without stages.
    pub fn new(template: PromptTemplate, tokenizer_hash: &str, base_model: &str) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            template_fingerprint: template.fingerprint(),
            template,
            tokenizer_hash: tokenizer_hash.to_string(),
            base_model: base_model.to_string(),
            stages: Vec::new(),
            data_licence: None,
            created_by: concat!("aligner ", env!("CARGO_PKG_VERSION")).to_string(),
        }
    }

    /// Reads `dir/aligner.json`; `None` when there is none.
    ///
    /// # Errors
    /// When the file is damaged, newer than this program, or its template was changed by hand.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DataError::io("read", &path)(error)),
        };
        let error = |reason: String| DataError::Manifest {
            path: path.clone(),
            reason,
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|cause| error(cause.to_string()))?;
        if manifest.format_version > FORMAT_VERSION {
            let reason = format!(
                "has format version {}; this program reads up to {FORMAT_VERSION}",
                manifest.format_version
            );
            return Err(error(reason));
        }
        let found = manifest.template.fingerprint();
        if found != manifest.template_fingerprint {
            let recorded = &manifest.template_fingerprint;
            let reason = format!(
                "the template's text has fingerprint {found}, but {recorded} is recorded: it was changed"
            );
            return Err(error(reason));
        }
        Ok(Some(manifest))
    }

    /// Writes `dir/aligner.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path: PathBuf = dir.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|cause| DataError::Manifest {
            path: path.clone(),
            reason: cause.to_string(),
        })?;
        std::fs::write(&path, text + "\n").map_err(DataError::io("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_round_trips_and_a_changed_template_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(AlignerManifest::read(dir.path()).unwrap(), None);
        let manifest = AlignerManifest::new(PromptTemplate::default(), "sha256:00", "base");
        manifest.write(dir.path()).unwrap();
        assert_eq!(AlignerManifest::read(dir.path()).unwrap(), Some(manifest));
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace("##Correction", "##Fix");
        std::fs::write(&path, text).unwrap();
        assert!(
            AlignerManifest::read(dir.path())
                .unwrap_err()
                .to_string()
                .contains("was changed")
        );
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = AlignerManifest::new(PromptTemplate::default(), "", "");
        manifest.format_version = 2;
        manifest.write(dir.path()).unwrap();
        assert!(
            AlignerManifest::read(dir.path())
                .unwrap_err()
                .to_string()
                .contains("format version 2")
        );
    }
}
