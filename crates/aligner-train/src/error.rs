//! What can stop a training run.

use std::path::{Path, PathBuf};

use aligner_data::DataError;
use aligner_model::ModelError;

/// The result of this crate's functions.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;

/// An error of this crate: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Reading rows, templates or tokenizers failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Reading or writing a model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A run configuration is not valid.
    #[error("{origin}: {reason}")]
    Config {
        /// The file or flag it came from.
        origin: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The output directory belongs to another run.
    #[error("{} already holds a run; continue it with --resume, or choose another --out", .0.display())]
    RunExists(PathBuf),
    /// There is nothing to resume.
    #[error("{} holds no run to resume ({reason})", path.display())]
    NothingToResume {
        /// The directory asked for.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// Another process is training in the same directory.
    #[error("another process is training in {}; wait for it or choose another --out", .0.display())]
    Locked(PathBuf),
    /// Every checkpoint of a run is damaged.
    #[error(
        "no usable checkpoint in {}: {}; put the damaged files back from a copy, or remove that directory to start the run \
         from its beginning",
        path.display(),
        damaged.join("; ")
    )]
    NoUsableCheckpoint {
        /// The directory of checkpoints.
        path: PathBuf,
        /// What is wrong with each.
        damaged: Vec<String>,
    },
    /// The data of a resumed run are not the data it was started with.
    #[error("the {what} changed since the run was started: it was {recorded}, now it is {found}")]
    Changed {
        /// What changed.
        what: &'static str,
        /// Its fingerprint in the checkpoint.
        recorded: String,
        /// Its fingerprint now.
        found: String,
    },
    /// The loss or the gradient is not a finite number.
    #[error(
        "the {quantity} of step {step} is {value}: the run stopped and its last good state was saved; lower --lr, or look \
         at the rows of this step (positions {first_row}..{} of epoch {epoch})", first_row + rows
    )]
    NotFinite {
        /// `loss` or `gradient norm`.
        quantity: &'static str,
        /// The step, counted from 1.
        step: u64,
        /// The value.
        value: f64,
        /// The epoch, counted from 0.
        epoch: u64,
        /// Position of the step's first row in the epoch's order.
        first_row: u64,
        /// Rows in the step.
        rows: u64,
    },
    /// A device failed.
    #[error("the device {device} failed in step {step}: {reason}")]
    Device {
        /// The device, and its place where there are several.
        device: String,
        /// The step, counted from 1.
        step: u64,
        /// The cause.
        reason: String,
    },
    /// The validation hook failed.
    #[error(
        "correcting the validation sample failed after step {step}: {source}; `--eval-sample 0` does without"
    )]
    Evaluation {
        /// Optimizer steps done.
        step: u64,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The device failed while the time of a step was measured.
    #[error("the time of a step cannot be measured: {0}")]
    Probe(String),
    /// burn-train reported an error.
    #[error("training stopped: {0}")]
    Learner(String),
}

impl TrainError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn config(origin: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config {
            origin: origin.into(),
            reason: reason.into(),
        }
    }
}
