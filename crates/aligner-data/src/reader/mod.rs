//! Rows from JSON arrays and JSON lines, plain or gzipped, in constant memory.

mod split;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use crate::error::{DataError, Result, RowError};
use crate::record::{Columns, Fields, Origin, Record};
use split::{Chunk, Splitter};

/// What to do with a row that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnBadRow {
    /// Stop with an error that names the row.
    #[default]
    Stop,
    /// Leave it out, count it, and remember the first hundred.
    Skip,
}

/// How rows are read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Which column holds which field.
    pub columns: Columns,
    /// Which fields a row must have.
    pub fields: Fields,
    /// What to do with a bad row.
    pub on_bad_row: OnBadRow,
}

/// Rows that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkipLog {
    count: u64,
    first: Vec<RowError>,
}

impl SkipLog {
    /// Rows whose reasons are remembered; all are counted.
    pub const REMEMBERED: usize = 100;

    /// How many rows were left out.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first of them, with the reasons.
    pub fn first(&self) -> &[RowError] {
        &self.first
    }

    pub(crate) fn of(count: u64, first: Vec<RowError>) -> Self {
        Self { count, first }
    }

    pub(crate) fn push(&mut self, error: RowError) {
        self.count += 1;
        if self.first.len() < Self::REMEMBERED {
            self.first.push(error);
        }
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.count += other.count;
        let room = Self::REMEMBERED - self.first.len();
        self.first.extend(other.first.iter().take(room).cloned());
    }
}

/// An iterator over the rows of a file.
///
/// The format is told by the content, not by the name: gzip by its magic number, a JSON array by its bracket, JSON lines
/// otherwise. A row may take up to [`RowReader::MAX_ROW_BYTES`]; nothing else is kept in memory.
///
/// ```
/// use aligner_data::{ReadOptions, RowReader};
/// let rows = br#"{"question": "2 + 2?", "answer": "5", "correction": "4"}"#;
/// let mut reader = RowReader::from_reader("rows.jsonl", &rows[..], ReadOptions::default()).unwrap();
/// assert_eq!(reader.next().unwrap().unwrap().correction.as_deref(), Some("4"));
/// assert!(reader.next().is_none());
/// ```
pub struct RowReader<'a> {
    splitter: Splitter<Box<dyn BufRead + Send + 'a>>,
    path: Arc<Path>,
    options: ReadOptions,
    skipped: SkipLog,
    row: u64,
    done: bool,
}

impl std::fmt::Debug for RowReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader")
            .field("path", &self.path)
            .field("row", &self.row)
            .finish_non_exhaustive()
    }
}

impl RowReader<'static> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read, or is empty or binary.
    pub fn open(path: &Path, options: ReadOptions) -> Result<Self> {
        let io = || DataError::io("read", path);
        let file = File::open(path).map_err(io())?;
        if file.metadata().map_err(io())?.is_dir() {
            return Err(format_error(path, "is a directory; name the files in it"));
        }
        Self::from_reader(path, file, options)
    }
}

impl<'a> RowReader<'a> {
    /// The longest row that is read, in bytes.
    pub const MAX_ROW_BYTES: usize = 16 << 20;

    /// Reads from anything; `name` stands for the file in messages.
    ///
    /// # Errors
    /// When it cannot be read, or is empty or binary.
    pub fn from_reader(
        name: impl AsRef<Path>,
        read: impl Read + Send + 'a,
        options: ReadOptions,
    ) -> Result<Self> {
        let path: Arc<Path> = name.as_ref().into();
        let input = decompressed(&path, Box::new(BufReader::with_capacity(1 << 16, read)))?;
        let splitter =
            Splitter::new(input, Self::MAX_ROW_BYTES).map_err(|reason| format_error(&path, &reason))?;
        Ok(Self {
            splitter,
            path,
            options,
            skipped: SkipLog::default(),
            row: 0,
            done: false,
        })
    }

    /// The rows that were left out so far.
    pub fn skipped(&self) -> &SkipLog {
        &self.skipped
    }

    /// The row in a chunk of the file, or why it cannot be used.
    fn record(&mut self, chunk: Result<Chunk, (u64, String)>) -> Result<Record, RowError> {
        let row = self.row;
        self.row += 1;
        let origin = |line| Origin {
            path: Arc::clone(&self.path),
            line,
            row,
        };
        let chunk = chunk.map_err(|(line, reason)| origin(line).error(reason))?;
        let origin = origin(chunk.line);
        let raw: Map<String, Value> = match serde_json::from_slice(&chunk.bytes) {
            Ok(Value::Object(raw)) => raw,
            Ok(_) => return Err(origin.error("is not an object")),
            Err(error) => return Err(origin.error(json_reason(&error, &chunk.bytes))),
        };
        let read = self
            .options
            .columns
            .record(raw, self.options.fields, origin.clone());
        read.map_err(|reason| origin.error(reason))
    }
}

fn json_reason(error: &serde_json::Error, bytes: &[u8]) -> String {
    if std::str::from_utf8(bytes).is_err() {
        return "is not valid UTF-8".to_string();
    }
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let advice = if what.contains("hex escape") {
        " (a \\u escape that is cut, or half of a surrogate pair)"
    } else {
        ""
    };
    format!("is not valid JSON: {what}{advice} at column {}", error.column())
}

impl Iterator for RowReader<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            let chunk = match self.splitter.next_chunk() {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    self.done = true;
                    return Some(Err(DataError::io("read", &self.path)(error)));
                }
            };
            match self.record(chunk) {
                Ok(record) => return Some(Ok(record)),
                Err(error) if self.options.on_bad_row == OnBadRow::Skip => {
                    tracing::debug!(%error, "row left out");
                    self.skipped.push(error);
                }
                Err(error) => {
                    self.done = true;
                    return Some(Err(DataError::BadRow(error)));
                }
            }
        }
        self.done = true;
        None
    }
}

fn format_error(path: &Path, reason: &str) -> DataError {
    DataError::Format {
        path: PathBuf::from(path),
        reason: reason.to_string(),
    }
}

fn decompressed<'a>(
    path: &Path,
    mut input: Box<dyn BufRead + Send + 'a>,
) -> Result<Box<dyn BufRead + Send + 'a>> {
    let head = input.fill_buf().map_err(DataError::io("read", path))?;
    match head {
        [] => Err(format_error(path, "is empty")),
        [0x1f, 0x8b, ..] => Ok(Box::new(BufReader::with_capacity(
            1 << 16,
            MultiGzDecoder::new(input),
        ))),
        [0x50, 0x4b, 3, 4, ..] => Err(format_error(path, "is a zip archive; unpack it first")),
        [b'P', b'A', b'R', b'1', ..] => Err(format_error(path, "is a Parquet file; rows are read from JSON")),
        head if head.iter().take(512).any(|&byte| byte == 0) => Err(format_error(
            path,
            "is not a text file; rows are read from JSON arrays or JSON lines",
        )),
        _ => Ok(input),
    }
}
