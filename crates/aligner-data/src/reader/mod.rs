//! Rows from JSON, CSV and Parquet, plain or gzipped, in constant memory.

mod delimited;
mod footer;
mod json;
mod objects;
mod parquet;
mod skip;
mod source;
mod split;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{DataError, Result};
use crate::format::beavertails::{Groups, Made};
use crate::format::{Format, Prefer};
use crate::record::{Columns, Fields, Origin, Reason, Record};
pub use skip::SkipLog;
use source::{Row, Source};

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
    /// What the rows are; `None`: told by the columns of the first.
    pub format: Option<Format>,
    /// Which of two responses is the correction, in PKU-SafeRLHF rows.
    pub prefer: Prefer,
}

/// An iterator over the records of a file.
///
/// How rows lie in the file is told by its content: gzip and Parquet by their magic numbers, a JSON array by its bracket,
/// JSON lines otherwise; only CSV and TSV are told by the name, `.csv` or `.tsv`, also with `.gz` behind it. What the rows
/// are is told by the columns of the first ([`Format`]). One row gives one record, or none, with a reason in
/// [`skipped`](Self::skipped). A row may take up to [`RowReader::MAX_ROW_BYTES`]; nothing else is kept in memory but a
/// batch of a Parquet file's rows, and the rows of one prompt of BeaverTails.
///
/// ```
/// use aligner_data::{ReadOptions, RowReader};
/// let rows = br#"{"question": "2 + 2?", "answer": "5", "correction": "4"}"#;
/// let mut reader = RowReader::from_reader("rows.jsonl", &rows[..], ReadOptions::default()).unwrap();
/// assert_eq!(reader.next().unwrap().unwrap().correction.as_deref(), Some("4"));
/// assert!(reader.next().is_none());
/// ```
pub struct RowReader<'a> {
    source: Source<'a>,
    path: Arc<Path>,
    options: ReadOptions,
    /// The first row, which was read to tell the format.
    first: Option<(Map<String, Value>, Origin)>,
    groups: Groups,
    ready: VecDeque<Result<Record>>,
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
    /// When it cannot be read, or is empty or binary, or the columns are mapped in a way its format does not know.
    pub fn open(path: &Path, options: ReadOptions) -> Result<Self> {
        let io = || DataError::io("read", path);
        let file = File::open(path).map_err(io())?;
        if file.metadata().map_err(io())?.is_dir() {
            return Err(format_error(path, "is a directory; name the files in it"));
        }
        let path: Arc<Path> = path.into();
        let source = Source::of_file(&path, file)?;
        Self::new(path, source, options)
    }
}

impl<'a> RowReader<'a> {
    /// The longest row that is read, in bytes.
    pub const MAX_ROW_BYTES: usize = 16 << 20;

    /// Reads from anything; `name` stands for the file in messages, and says whether it is CSV. Parquet, which is read from
    /// its end, is taken into memory; [`open`](Self::open) does not do that.
    ///
    /// # Errors
    /// When it cannot be read, or is empty or binary, or the columns are mapped in a way its format does not know.
    pub fn from_reader(
        name: impl AsRef<Path>,
        read: impl Read + Send + 'a,
        options: ReadOptions,
    ) -> Result<Self> {
        let path: Arc<Path> = name.as_ref().into();
        let source = Source::of_reader(&path, Box::new(read))?;
        Self::new(path, source, options)
    }

    fn new(path: Arc<Path>, source: Source<'a>, options: ReadOptions) -> Result<Self> {
        if let Some(format) = options.format {
            format.check_columns(&options.columns)?;
        }
        Ok(Self {
            source,
            path,
            options,
            first: None,
            groups: Groups::default(),
            ready: VecDeque::new(),
            skipped: SkipLog::default(),
            row: 0,
            done: false,
        })
    }

    /// The rows that were left out so far.
    pub fn skipped(&self) -> &SkipLog {
        &self.skipped
    }

    /// The rows of the file that were read so far, those that were left out included.
    pub fn rows_read(&self) -> u64 {
        self.row
    }

    /// What the rows are: as was said, or told by the first row, which is read for it; `None` when there is no row.
    ///
    /// # Errors
    /// When no row can be read, or the first one's columns are of no known format.
    pub fn format(&mut self) -> Result<Option<Format>> {
        if self.options.format.is_none() && !self.done {
            let told = self.read_first();
            // Behind an error nothing is read.
            self.done = !matches!(told, Ok(true));
            told?;
        }
        Ok(self.options.format)
    }

    /// Reads the first row and tells the format by it; whether there is one.
    fn read_first(&mut self) -> Result<bool> {
        let Some((raw, origin)) = self.next_row()? else {
            return Ok(false);
        };
        self.format_of(&raw)?;
        self.first = Some((raw, origin));
        Ok(true)
    }

    /// Says which fields rows must have, once their format is known and before records are asked for.
    pub(crate) fn require(&mut self, fields: Fields) {
        self.options.fields = fields;
    }

    fn format_of(&mut self, raw: &Map<String, Value>) -> Result<Format> {
        if let Some(format) = self.options.format {
            return Ok(format);
        }
        let format =
            Format::detect(raw, &self.options.columns).map_err(|reason| format_error(&self.path, &reason))?;
        format.check_columns(&self.options.columns)?;
        tracing::debug!(path = %self.path.display(), %format, "format told by the first row");
        self.options.format = Some(format);
        Ok(format)
    }

    /// The next row that is an object.
    fn next_row(&mut self) -> Result<Option<(Map<String, Value>, Origin)>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while let Some(found) = self.source.next_row(&self.path)? {
            let row = self.row;
            self.row += 1;
            let origin = |line| Origin {
                path: Arc::clone(&self.path),
                line,
                row,
            };
            match found {
                Ok(Row { line, raw }) => return Ok(Some((raw, origin(line)))),
                Err((line, reason)) => {
                    let origin = origin(line);
                    self.leave_out(&origin, Reason::Bad(reason))?;
                }
            }
        }
        Ok(None)
    }

    /// Counts a row that gives no record, or stops at it.
    fn leave_out(&mut self, origin: &Origin, reason: Reason) -> Result<()> {
        match reason {
            Reason::Unsuitable(reason) => {
                let error = origin.error(reason);
                tracing::debug!(%error, "row left out");
                self.skipped.push_unsuitable(error);
                Ok(())
            }
            Reason::Bad(reason) => {
                let error = origin.error(reason);
                if self.options.on_bad_row == OnBadRow::Stop {
                    return Err(DataError::BadRow(error));
                }
                tracing::debug!(%error, "row left out");
                self.skipped.push(error);
                Ok(())
            }
        }
    }

    /// Makes records of the next row.
    fn advance(&mut self) -> Result<()> {
        let Some((raw, origin)) = self.next_row()? else {
            self.done = true;
            let made = self.groups.finish();
            return self.take(made);
        };
        let format = self.format_of(&raw)?;
        if format == Format::BeaverTails && self.options.fields != Fields::Pair {
            let made = self.groups.add(raw, origin);
            return self.take(made);
        }
        match format.parts(&raw, &self.options) {
            Ok(parts) => self.ready.push_back(Ok(parts.into_record(raw, origin))),
            Err(reason) => self.leave_out(&origin, reason)?,
        }
        Ok(())
    }

    fn take(&mut self, made: Vec<Made>) -> Result<()> {
        for made in made {
            match made {
                Ok(record) => self.ready.push_back(Ok(record)),
                Err((origin, reason)) => self.leave_out(&origin, reason)?,
            }
        }
        Ok(())
    }
}

impl Iterator for RowReader<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.done {
                return None;
            }
            if let Err(error) = self.advance() {
                self.done = true;
                // Records made before the error come before it.
                self.ready.push_back(Err(error));
            }
        }
    }
}

fn format_error(path: &Path, reason: &str) -> DataError {
    DataError::Format {
        path: PathBuf::from(path),
        reason: reason.to_string(),
    }
}
