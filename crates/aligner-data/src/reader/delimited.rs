//! CSV and TSV as RFC 4180 has them: a header, quoted fields, line feeds within quotes.

use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use super::source::{Found, Input, Row};

pub(super) struct DelimitedRows<'a> {
    reader: csv::Reader<BufReader<Metered<'a>>>,
    meter: Arc<Meter>,
    max_bytes: usize,
    header: Vec<String>,
    record: ByteRecord,
    ended: bool,
}

/// What passed by. The parser keeps a field until its quote is closed, however far that is.
#[derive(Debug, Default)]
struct Meter {
    /// Bytes that the current row may still take.
    left: AtomicUsize,
    quotes: AtomicUsize,
    ended: AtomicBool,
    last: AtomicU8,
    /// What stood before the first line feed.
    before_line_feed: AtomicU8,
}

impl Meter {
    fn pass(&self, bytes: &[u8]) {
        let quotes = bytes.iter().filter(|&&byte| byte == b'"').count();
        self.quotes.fetch_add(quotes, Relaxed);
        self.left.fetch_sub(bytes.len(), Relaxed);
        self.ended.store(bytes.is_empty(), Relaxed);
        let last = self.last.load(Relaxed);
        if self.before_line_feed.load(Relaxed) == 0
            && let Some(at) = bytes.iter().position(|&byte| byte == b'\n')
        {
            let before = at.checked_sub(1).map_or(last, |at| bytes[at]);
            self.before_line_feed.store(before, Relaxed);
        }
        self.last.store(bytes.last().copied().unwrap_or(last), Relaxed);
    }

    /// Whether the parser, when it has read a row, has read the line feed behind it: of a return and a line feed it leaves
    /// the latter to the next row.
    fn row_takes_line_feed(&self) -> bool {
        let is_cut = self.ended.load(Relaxed) && self.last.load(Relaxed) != b'\n';
        self.before_line_feed.load(Relaxed) != b'\r' && !is_cut
    }
}

struct Metered<'a> {
    input: Input<'a>,
    meter: Arc<Meter>,
}

/// How an input says that the row does not end.
#[derive(Debug, thiserror::Error)]
#[error("the row is too long")]
struct TooLong;

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.meter.left.load(Relaxed);
        if left == 0 {
            return Err(std::io::Error::other(TooLong));
        }
        let length = buffer.len().min(left);
        let read = self.input.read(&mut buffer[..length])?;
        self.meter.pass(&buffer[..read]);
        Ok(read)
    }
}

impl<'a> DelimitedRows<'a> {
    /// Reads the header; the error is the reason why there is none.
    pub fn new(input: Input<'a>, delimiter: u8, max_bytes: usize) -> Result<Self, String> {
        let meter = Arc::new(Meter::default());
        meter.left.store(max_bytes, Relaxed);
        let input = Metered {
            input,
            meter: Arc::clone(&meter),
        };
        let mut reader = ReaderBuilder::new()
            .delimiter(delimiter)
            // Rows of another length are named by us, and those behind them are read.
            .flexible(true)
            .from_reader(BufReader::new(input));
        let header = reader
            .byte_headers()
            .map_err(|error| format!("its header cannot be read: {error}"))?;
        let header: Vec<String> = header
            .iter()
            .map(|name| String::from_utf8(name.to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|_| "its header is not valid UTF-8")?;
        let doubled = header
            .iter()
            .enumerate()
            .find(|(index, name)| header[..*index].contains(name));
        if let Some((_, name)) = doubled {
            return Err(format!("its header names the column {name:?} twice"));
        }
        if header.is_empty() {
            return Err("is empty".into());
        }
        Ok(Self {
            reader,
            meter,
            max_bytes,
            header,
            record: ByteRecord::new(),
            ended: false,
        })
    }

    pub fn next_row(&mut self) -> std::io::Result<Option<Found>> {
        if self.ended {
            return Ok(None);
        }
        self.meter.left.store(self.max_bytes, Relaxed);
        let line = self.reader.position().line();
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => Ok(Some(self.row())),
            Ok(false) => Ok(None),
            Err(error) => {
                self.ended = true;
                let reason = error.to_string();
                match error.into_kind() {
                    ErrorKind::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<TooLong>()) => {
                        let reason = format!(
                            "is longer than {} bytes (is a quote not closed?); what follows cannot be read",
                            self.max_bytes
                        );
                        Ok(Some(Err((line, reason))))
                    }
                    ErrorKind::Io(error) => Err(error),
                    _ => Ok(Some(Err((line, reason)))),
                }
            }
        }
    }

    fn row(&self) -> Found {
        let line = self.line();
        if self.swallowed_the_rest() {
            return Err((
                line,
                "a quoted field is not closed before the end of the file".into(),
            ));
        }
        if self.record.len() != self.header.len() {
            let (found, named) = (self.record.len(), self.header.len());
            return Err((line, format!("has {found} fields where the header names {named}")));
        }
        let mut raw = Map::new();
        for (name, field) in self.header.iter().zip(&self.record) {
            match std::str::from_utf8(field) {
                Ok(text) => raw.insert(name.clone(), Value::String(text.to_string())),
                Err(_) => return Err((line, format!("`{name}` is not valid UTF-8"))),
            };
        }
        Ok(Row { line, raw })
    }

    /// Line in which the row that was read starts. The parser's own is that behind the row before it, blank lines and half
    /// of a line's end not counted.
    fn line(&self) -> u64 {
        let within = self
            .record
            .iter()
            .flatten()
            .filter(|&&byte| byte == b'\n')
            .count();
        let behind = within as u64 + u64::from(self.meter.row_takes_line_feed());
        self.reader.position().line().saturating_sub(behind).max(1)
    }

    /// Whether the last row goes over lines and a quote has no counterpart: what should be rows is in one field.
    fn swallowed_the_rest(&self) -> bool {
        self.meter.ended.load(Relaxed)
            && self.meter.quotes.load(Relaxed) % 2 == 1
            && self.record.iter().any(|field| field.contains(&b'\n'))
    }
}
