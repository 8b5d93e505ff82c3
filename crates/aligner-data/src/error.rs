//! What can be wrong with rows, templates and tokenizers.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// One row that cannot be used: where it is and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The file.
    pub path: PathBuf,
    /// Line of the decompressed file in which the row starts, counted from 1.
    pub line: u64,
    /// The row, counted from 0.
    pub row: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: row {}: {}",
            self.path.display(),
            self.line,
            self.row,
            self.reason
        )
    }
}

/// An error of this crate: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A row cannot be used.
    #[error("{0} (use --on-bad-row skip to leave such rows out and count them)")]
    BadRow(RowError),
    /// A file has no rows that could be read.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        reason: String,
    },
    /// A row's prompt and correction are longer than the model is to see.
    #[error(
        "{row}: {prompt_tokens} prompt and {target_tokens} correction tokens do not fit into {max_length} (raise \
         --max-length, or use --on-long-row skip to leave such rows out and count them)"
    )]
    TooLong {
        /// The row.
        row: String,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the correction, the end of sequence included.
        target_tokens: usize,
        /// The limit.
        max_length: usize,
    },
    /// There is nothing to train on or to check.
    #[error("no usable row in {}{}", paths(.files), left_out(*.skipped))]
    Empty {
        /// The files that were read.
        files: Vec<PathBuf>,
        /// Rows that were left out.
        skipped: u64,
    },
    /// The tokens of a row are not those that were stored.
    #[error(
        "the stored tokens of row {row} in {} are damaged; they are forgotten, and the next run tokenises the rows anew",
        path.display()
    )]
    DamagedTokens {
        /// The directory of the stored tokens.
        path: PathBuf,
        /// The row, counted from 0 over all files.
        row: usize,
    },
    /// Data sets cannot be mixed as asked.
    #[error("mixture of data: {reason}")]
    Mixture {
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A prompt template cannot be used.
    #[error("template {id:?}: {reason}")]
    Template {
        /// Its name.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A column mapping cannot be used.
    #[error("column mapping {text:?}: {reason}")]
    Columns {
        /// The mapping.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no format of that name.
    #[error("{name:?} is not a format of rows; formats are {}", known.join(", "))]
    UnknownFormat {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// A chat cannot be written as a model was made for.
    #[error(
        "{found} {reason}; chat formats are {}: name the one that the model was made for",
        crate::ChatFormat::names().collect::<Vec<_>>().join(", ")
    )]
    ChatFormat {
        /// What was asked for or found.
        found: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A preference that rows do not have.
    #[error("{0:?} is not a preference; preferences are safer, better")]
    Prefer(String),
    /// A file is there already.
    #[error("{} exists already; --overwrite replaces it", .0.display())]
    Exists(PathBuf),
    /// A tokenizer cannot be used.
    #[error("tokenizer in {}: {reason}", path.display())]
    Tokenizer {
        /// Its directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An `aligner.json` cannot be used.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn tokenizer(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Tokenizer {
            path: path.to_path_buf(),
            reason: reason.to_string(),
        }
    }
}

fn paths(files: &[PathBuf]) -> String {
    files
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn left_out(rows: u64) -> String {
    if rows == 0 {
        String::new()
    } else {
        format!(" ({rows} rows were left out)")
    }
}
