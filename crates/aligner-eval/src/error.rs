//! What can go wrong.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// A result of this crate.
pub type Result<T, E = EvalError> = std::result::Result<T, E>;

/// What can go wrong in an evaluation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `write` or `delete`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A row cannot be used.
    #[error("{path}: row {row}: {reason}")]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, counted from 1.
        row: u64,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A file as a whole cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A judge's endpoint gives no answer that can be used.
    #[error("{url}: {row}: {reason}")]
    Judge {
        /// The endpoint.
        url: String,
        /// What was asked about.
        row: String,
        /// What happened, in the server's words where it has some.
        reason: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Rows that `aligner-data` reads.
    #[error(transparent)]
    Data(#[from] aligner_data::DataError),
}

impl EvalError {
    /// Wraps an error of the file system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// A row that cannot be used; `row` counts from 1.
    pub(crate) fn row(path: &Path, row: u64, reason: impl Into<String>) -> Self {
        Self::Row {
            path: path.to_path_buf(),
            row,
            reason: reason.into(),
        }
    }

    /// A file that cannot be used.
    pub(crate) fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}
