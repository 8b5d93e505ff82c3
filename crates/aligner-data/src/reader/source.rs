//! How rows lie in a file: JSON, CSV or Parquet, perhaps gzipped.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use super::delimited::DelimitedRows;
use super::json::JsonRows;
use super::parquet::{MAGIC, ParquetRows};
use super::{RowReader, format_error};
use crate::error::{DataError, Result};

/// A row as it lies in the file.
pub(super) struct Row {
    /// Where it starts, counted from 1.
    pub line: u64,
    pub raw: Map<String, Value>,
}

/// A row, or the line and reason of a damaged one.
pub(super) type Found = Result<Row, (u64, String)>;

pub(super) type Input<'a> = Box<dyn BufRead + Send + 'a>;

const BUFFER: usize = 1 << 16;

/// A file's rows one after the other.
pub(super) enum Source<'a> {
    Json(JsonRows<'a>),
    Delimited(Box<DelimitedRows<'a>>),
    Parquet(ParquetRows),
}

impl Source<'static> {
    /// The rows of a file, which is not read into memory whatever it is.
    pub fn of_file(path: &Arc<Path>, mut file: File) -> Result<Self> {
        let mut head = Vec::with_capacity(MAGIC.len());
        let io = || DataError::io("read", path);
        Read::by_ref(&mut file)
            .take(MAGIC.len() as u64)
            .read_to_end(&mut head)
            .map_err(io())?;
        if head == MAGIC {
            return ParquetRows::of_file(path, file).map(Self::Parquet);
        }
        // A pipe cannot go back.
        if file.rewind().is_ok() {
            return Self::of_reader(path, Box::new(file));
        }
        Self::of_reader(path, Box::new(std::io::Cursor::new(head).chain(file)))
    }
}

impl<'a> Source<'a> {
    pub fn of_reader(path: &Arc<Path>, read: Box<dyn Read + Send + 'a>) -> Result<Self> {
        let io = || DataError::io("read", path);
        let mut input: Input<'a> = Box::new(BufReader::with_capacity(BUFFER, read));
        if input.fill_buf().map_err(io())?.starts_with(&[0x1f, 0x8b]) {
            input = Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input)));
        }
        let head = input.fill_buf().map_err(io())?;
        match head {
            [] => return Err(format_error(path, "is empty")),
            [0x50, 0x4b, 3, 4, ..] => return Err(format_error(path, "is a zip archive; unpack it first")),
            head if head.starts_with(MAGIC) => return ParquetRows::of_reader(path, input).map(Self::Parquet),
            head if head.iter().take(512).any(|&byte| byte == 0) => {
                let reason = "is not a text file; rows are read from JSON, CSV and Parquet";
                return Err(format_error(path, reason));
            }
            _ => {}
        }
        let first = head.iter().find(|byte| !byte.is_ascii_whitespace());
        let looks_like_json = matches!(first, Some(b'{' | b'['));
        let reason = |reason: String| format_error(path, &reason);
        match delimiter(path) {
            Some(delimiter) if !looks_like_json => {
                let rows = DelimitedRows::new(input, delimiter, RowReader::MAX_ROW_BYTES).map_err(reason)?;
                Ok(Self::Delimited(Box::new(rows)))
            }
            _ => JsonRows::new(input, RowReader::MAX_ROW_BYTES)
                .map(Self::Json)
                .map_err(reason),
        }
    }

    /// The next row, or `None` at the end.
    pub fn next_row(&mut self, path: &Path) -> Result<Option<Found>> {
        match self {
            Self::Json(rows) => rows.next_row().map_err(DataError::io("read", path)),
            Self::Delimited(rows) => rows.next_row().map_err(DataError::io("read", path)),
            Self::Parquet(rows) => rows.next_row().map_err(|reason| format_error(path, &reason)),
        }
    }
}

/// What stands between the columns, where the name says that the file is delimited text.
fn delimiter(path: &Path) -> Option<u8> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" => Some(b','),
        "tsv" => Some(b'\t'),
        _ => None,
    }
}
