//! What can go wrong with a model directory or a device.

use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// An error of this crate: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// The configuration lacks a field, or a field has a value that cannot be used.
    #[error("config.json: {field}: {reason}")]
    Config {
        /// The field as `config.json` spells it.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The architecture is not one this crate can run.
    #[error("architecture {found:?} is not supported; supported are: {}", supported.join(", "))]
    Architecture {
        /// The architecture named in `config.json`.
        found: String,
        /// The architectures this crate can run.
        supported: Vec<&'static str>,
    },
    /// A model that scores answers where one is needed that writes them.
    #[error("{found} is a model that scores answers, and one is needed that writes them")]
    IsScoreModel {
        /// The architecture named in `config.json`.
        found: String,
    },
    /// A model that writes where one is needed that scores answers.
    #[error(
        "{found} is a model that writes answers, and one is needed that scores them (…ForSequenceClassification or \
         Safe-RLHF's …ForScore)"
    )]
    NoScoreModel {
        /// The architecture named in `config.json`.
        found: String,
    },
    /// A directory holds no weights.
    #[error(
        "{} has neither model.safetensors nor pytorch_model.bin, nor an index of shards beside its name (*.index.json)",
        .0.display()
    )]
    NoWeights(PathBuf),
    /// A model is to be written where one is already.
    #[error("{} holds a model already; choose another directory, or --overwrite it", .0.display())]
    ModelExists(PathBuf),
    /// A model is to be written into a directory that holds something else.
    #[error("{} is neither empty nor a model directory; choose another", .0.display())]
    NoModelDirectory(PathBuf),
    /// A weight file is damaged or hostile.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors that the configuration asks for are not in the weight files.
    #[error("{} tensors are missing from {}: {}", names.len(), path.display(), some(names))]
    MissingTensors {
        /// The directory.
        path: PathBuf,
        /// The tensors' names.
        names: Vec<String>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} in {} has shape {got:?}, the configuration asks for {expected:?}", path.display())]
    Shape {
        /// The file or directory.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape the configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// An adapter does not fit the model, or is of a kind that this crate does not run.
    #[error("adapter: {0}")]
    Adapter(String),
    /// A control vector does not fit the model.
    #[error("control vector: {0}")]
    Steering(String),
    /// A model cannot be written in the form that was asked for.
    #[error("cannot export: {0}")]
    Export(String),
    /// A tensor cannot be held in fewer bits.
    #[error("cannot quantise: {0}")]
    Quantize(String),
    /// A device was named that this build does not contain, or that is not there.
    #[error("device {device:?} is not available: {reason}")]
    Device {
        /// The device as it was asked for.
        device: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The device failed while it computed or was read.
    #[error("the device failed: {0}")]
    Execution(String),
}

impl ModelError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn weights(path: &Path, reason: impl Into<String>) -> Self {
        Self::Weights {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Config {
            field,
            reason: reason.into(),
        }
    }
}

/// The first names of a list, so that a message about hundreds of tensors stays readable.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(", … ({} more)", names.len() - SHOWN));
    }
    text
}
