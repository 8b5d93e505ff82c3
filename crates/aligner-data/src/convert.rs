//! Rows of any format, written as question/answer/correction rows.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::error::{DataError, Result};
use crate::format::Format;
use crate::reader::{ReadOptions, RowReader, SkipLog};
use crate::record::{Fields, Record};

/// How rows are converted.
#[derive(Debug, Clone, Default)]
pub struct ConvertOptions {
    /// How they are read; which fields they must have follows from their format.
    pub read: ReadOptions,
    /// Only that many rows are written.
    pub limit: Option<u64>,
    /// Rows without a correction get their answer as one, for a warm-up on identity; those whose answer is blank are left
    /// out.
    pub identity: bool,
    /// Whether a file that is there is replaced.
    pub overwrite: bool,
}

/// What [`convert_files`] did.
#[derive(Debug, Clone, Default)]
pub struct ConvertReport {
    /// The files and what their rows are; `None` for one without rows.
    pub files: Vec<(PathBuf, Option<Format>)>,
    /// Rows that were read.
    pub read: u64,
    /// Rows that were written.
    pub written: u64,
    /// Those of them that have a correction.
    pub with_correction: u64,
    /// Rows that were left out.
    pub skipped: SkipLog,
}

/// Writes the rows of some files as JSON lines with `question`, `answer`, `correction` and, where there are earlier turns,
/// `chat_history`; gzipped when the name ends in `.gz`. The file is written beside its place and renamed when it is whole;
/// a link to a file stays one. A pipe or a device that is there is written to as it is.
///
/// # Errors
/// When a file cannot be read or written, is there already, a row is bad and `read` says to stop, or no row is left.
pub fn convert_files(files: &[PathBuf], out: &Path, options: &ConvertOptions) -> Result<ConvertReport> {
    if out.exists() && !is_stream(out) && !options.overwrite {
        return Err(DataError::Exists(out.to_path_buf()));
    }
    let mut report = ConvertReport::default();
    let mut output = Output::create(out)?;
    for file in files {
        convert_file(file, &mut output, options, &mut report)?;
    }
    if report.written == 0 {
        return Err(DataError::Empty {
            files: files.to_vec(),
            skipped: report.skipped.count(),
        });
    }
    output.finish()?;
    Ok(report)
}

fn convert_file(
    file: &Path,
    output: &mut Output,
    options: &ConvertOptions,
    report: &mut ConvertReport,
) -> Result<()> {
    // Opened once: it may be a pipe.
    let mut reader = RowReader::open(file, options.read.clone())?;
    let format = reader.format()?;
    reader.require(match format {
        Some(format) if format.has_correction() => Fields::Triple,
        _ => Fields::Pair,
    });
    report.files.push((file.to_path_buf(), format));
    while options.limit.is_none_or(|limit| report.written < limit) {
        let Some(record) = reader.next() else { break };
        let record = record?;
        if options.identity && record.correction.is_none() && record.answer.trim().is_empty() {
            let reason = "the answer is empty, and it would be the correction";
            report.skipped.push_unsuitable(record.origin.error(reason));
            continue;
        }
        let row = row(record, options.identity);
        report.with_correction += u64::from(row.contains_key("correction"));
        report.written += 1;
        output.write(&row)?;
    }
    report.read += reader.rows_read();
    report.skipped.extend(reader.skipped());
    Ok(())
}

fn row(record: Record, identity: bool) -> Map<String, Value> {
    let mut row = Map::new();
    let correction = record
        .correction
        .or_else(|| identity.then(|| record.answer.clone()));
    row.insert("question".into(), record.question.into());
    row.insert("answer".into(), record.answer.into());
    if let Some(correction) = correction {
        row.insert("correction".into(), correction.into());
    }
    if !record.chat_history.is_empty() {
        let turns = record.chat_history.iter();
        let turns = turns.map(|turn| json!([turn.question, turn.answer])).collect();
        row.insert("chat_history".into(), turns);
    }
    row
}

/// Whether what is there is no file that could be replaced: a pipe, a terminal, a device.
fn is_stream(out: &Path) -> bool {
    out.metadata().is_ok_and(|found| !found.is_file())
}

/// A file that is written beside its place; it goes away again when it is not finished.
struct Output {
    place: PathBuf,
    /// `None`: the place is written to as it is.
    beside: Option<PathBuf>,
    writer: Option<Writer>,
}

enum Writer {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
}

impl Output {
    fn create(out: &Path) -> Result<Self> {
        let is_stream = is_stream(out);
        // What a link points to is replaced, not the link.
        let place = if out.is_symlink() && !is_stream {
            out.canonicalize().map_err(DataError::io("follow", out))?
        } else {
            out.to_path_buf()
        };
        let beside = (!is_stream).then(|| {
            let name = place.file_name().unwrap_or_default().to_string_lossy();
            place.with_file_name(format!(".{name}.{}.partial", std::process::id()))
        });
        let path = beside.as_ref().unwrap_or(&place);
        let file = BufWriter::new(File::create(path).map_err(DataError::io("write", path))?);
        let is_gzip = out
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let writer = if is_gzip {
            Writer::Gzip(GzEncoder::new(file, Compression::default()))
        } else {
            Writer::Plain(file)
        };
        Ok(Self {
            place,
            beside,
            writer: Some(writer),
        })
    }

    fn write(&mut self, row: &Map<String, Value>) -> Result<()> {
        let io = DataError::io("write", self.beside.as_ref().unwrap_or(&self.place));
        let written = match &mut self.writer {
            Some(Writer::Plain(file)) => line(file, row),
            Some(Writer::Gzip(file)) => line(file, row),
            None => Ok(()),
        };
        written.map_err(io)
    }

    fn finish(mut self) -> Result<()> {
        let io = || DataError::io("write", self.beside.as_ref().unwrap_or(&self.place));
        let file = match self.writer.take() {
            Some(Writer::Plain(file)) => file,
            Some(Writer::Gzip(file)) => file.finish().map_err(io())?,
            None => return Ok(()),
        };
        let file = file.into_inner().map_err(|error| io()(error.into_error()))?;
        let Some(beside) = &self.beside else {
            return Ok(());
        };
        file.sync_all().map_err(io())?;
        std::fs::rename(beside, &self.place).map_err(DataError::io("write", &self.place))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // Nothing is left when it was renamed.
            let _ = std::fs::remove_file(beside);
        }
    }
}

fn line(file: &mut impl Write, row: &Map<String, Value>) -> std::io::Result<()> {
    serde_json::to_writer(&mut *file, row)?;
    file.write_all(b"\n")
}
