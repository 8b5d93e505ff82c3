//! Encoded rows, however many.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::chat_format::ChatFormat;
use crate::encode::{Encoder, Example, Target};
use crate::error::{DataError, Result, RowError};
use crate::mixture::Share;
use crate::order::Order;
use crate::reader::{OnBadRow, ReadOptions, RowReader, SkipLog};
use crate::record::Record;
use crate::store::{Builder, CacheEntry, Identity, Index, Skipped, TokenCache, TokenStore};

/// Rows, and bytes of text, that are encoded in one parallel go.
const CHUNK_ROWS: usize = 2048;
const CHUNK_BYTES: usize = 8 << 20;

/// Time between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_secs(2);

/// How files become a [`Dataset`].
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// How rows are read.
    pub read: ReadOptions,
    /// What to do with rows that are longer than the encoder allows.
    pub on_long_row: OnBadRow,
    /// Where the tokens of many rows are kept.
    pub cache: TokenCache,
}

/// How far the tokenising of files has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Rows so far.
    pub rows: u64,
    /// Tokens so far.
    pub tokens: u64,
    /// Time since the beginning.
    pub seconds: f64,
}

/// All rows of some files, encoded: four bytes a token, in memory when they are few and in mapped files otherwise.
///
/// A copy is another handle of the same rows.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    store: Arc<TokenStore>,
    files: Vec<PathBuf>,
    skipped: SkipLog,
    target: Target,
}

impl Dataset {
    /// Reads and encodes files, or takes what an earlier run made of them from the cache.
    ///
    /// The order of the rows is that of the files and of the rows in them. [`Encoder::with_target`] makes other rows of the
    /// same files.
    ///
    /// # Errors
    /// When a file cannot be read, a row cannot be used, or no row is left.
    pub fn load(files: &[PathBuf], encoder: &Encoder, options: &LoadOptions) -> Result<Self> {
        Self::load_with(files, encoder, options, &mut |_| {})
    }

    /// As [`load`](Self::load), and tells every two seconds how far the tokenising has come.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(
        files: &[PathBuf],
        encoder: &Encoder,
        options: &LoadOptions,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Self> {
        let entry = options.cache.entry(files, &identity(encoder, options))?;
        let store = match entry.as_ref().and_then(CacheEntry::open) {
            Some(store) => store,
            None => tokenise(files, encoder, options, entry.as_ref(), on_progress)?,
        };
        let skipped = skip_log(store.index(), files);
        if store.index().rows == 0 {
            return Err(DataError::Empty {
                files: files.to_vec(),
                skipped: skipped.count(),
            });
        }
        if let Some(first) = skipped.first().first() {
            tracing::warn!(rows = skipped.count(), %first, "rows left out");
        }
        Ok(Self {
            store: Arc::new(store),
            files: files.to_vec(),
            skipped,
            target: encoder.target(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.store.index().rows as usize
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row; empty when there is none of that number.
    ///
    /// # Errors
    /// When the row's tokens were damaged on the disk; the cache forgets them, and the next run tokenises anew.
    pub fn example(&self, row: usize) -> Result<Example<'_>> {
        self.store.example(row)
    }

    /// What the rows are.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Tokens of all rows, as [`Target::counts`] counts them.
    pub fn tokens(&self) -> usize {
        let index = self.store.index();
        self.target.tokens_of(index.rows, index.tokens) as usize
    }

    /// Those of them that carry loss.
    pub fn target_tokens(&self) -> usize {
        self.store.index().target_tokens as usize
    }

    /// The largest id, to be held against a model's vocabulary.
    pub fn largest_id(&self) -> u32 {
        self.store.index().largest_id
    }

    /// Rows that were left out.
    pub fn skipped(&self) -> &SkipLog {
        &self.skipped
    }

    /// `sha256:` and the hash of all tokens and prompt lengths in their order.
    pub fn fingerprint(&self) -> String {
        self.store.index().fingerprint.clone()
    }

    /// The files and how many rows each gave, in their order.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = (&Path, u64)> {
        let rows = self.store.index().sources.iter().copied();
        self.files.iter().map(PathBuf::as_path).zip(rows)
    }

    /// The order in which the rows are taken: each once in an epoch, or, with a weight for each file, that share of the
    /// rows from each ([`Order::mixture`]).
    ///
    /// # Errors
    /// When the weights are not one for each file, or a file to be drawn from gave no row.
    pub fn order(&self, seed: u64, shuffle: bool, weights: Option<&[f64]>) -> Result<Order> {
        let Some(weights) = weights.filter(|_| self.files.len() > 1) else {
            return Ok(Order::new(seed, self.len(), shuffle));
        };
        if weights.len() != self.files.len() {
            let reason = format!("{} weights for {} files", weights.len(), self.files.len());
            return Err(DataError::Mixture { reason });
        }
        let mut shares = Vec::with_capacity(weights.len());
        for ((file, rows), &weight) in self.sources().zip(weights) {
            if rows == 0 {
                let reason = format!("{} gave no row to draw from", file.display());
                return Err(DataError::Mixture { reason });
            }
            shares.push(Share { rows, weight });
        }
        Order::mixture(seed, &shares, shuffle)
    }
}

/// All that decides what the files' bytes become. The version of the program is part of it: a reader that was mended gives
/// other rows of the same bytes.
fn identity(encoder: &Encoder, options: &LoadOptions) -> Identity {
    let tokenizer = encoder.tokenizer();
    let chat = encoder.chat().map_or_else(String::new, ChatFormat::fingerprint);
    Identity(format!(
        "{} {} {} {} {:?} {} {:?} {:?}{chat}",
        env!("CARGO_PKG_VERSION"),
        tokenizer.hash(),
        tokenizer.eos_id(),
        encoder.template().fingerprint(),
        encoder.target(),
        encoder.max_length(),
        options.on_long_row,
        options.read,
    ))
}

fn skip_log(index: &Index, files: &[PathBuf]) -> SkipLog {
    let errors = |skipped: &[Skipped]| {
        let error = |skipped: &Skipped| RowError {
            path: files.get(skipped.source).cloned().unwrap_or_default(),
            line: skipped.line,
            row: skipped.row,
            reason: skipped.reason.clone(),
        };
        skipped.iter().map(error).collect()
    };
    SkipLog::of(
        index.unsuitable,
        index.bad,
        errors(&index.first_skipped),
        errors(&index.first_bad),
    )
}

/// Appends the first rows that a file left out, as far as they are remembered.
fn remember(kept: &mut Vec<Skipped>, source: usize, errors: &[RowError]) {
    let room = SkipLog::REMEMBERED - kept.len();
    kept.extend(errors.iter().take(room).map(|row| Skipped {
        source,
        line: row.line,
        row: row.row,
        reason: row.reason.clone(),
    }));
}

/// Reads and encodes files into a store.
fn tokenise(
    files: &[PathBuf],
    encoder: &Encoder,
    options: &LoadOptions,
    entry: Option<&CacheEntry>,
    on_progress: &mut dyn FnMut(Progress),
) -> Result<TokenStore> {
    let cache = &options.cache;
    let large = entry.filter(|entry| entry.source_bytes() > cache.in_memory_bytes);
    let _lock = large.and_then(CacheEntry::lock);
    // Whoever held the lock may have done the work.
    if let Some(store) = large.and_then(CacheEntry::open) {
        return Ok(store);
    }
    let in_memory_bytes = if large.is_some() { 0 } else { cache.in_memory_bytes };
    let now = Instant::now();
    let mut work = Work {
        encoder,
        on_long_row: options.on_long_row,
        on_bad_row: options.read.on_bad_row,
        builder: Builder::new(cache, entry, in_memory_bytes),
        skipped: SkipLog::default(),
        started: now,
        reported: now,
        on_progress,
    };
    let mut sources = Vec::with_capacity(files.len());
    let mut skipped = SkipLog::default();
    let (mut first_skipped, mut first_bad) = (Vec::new(), Vec::new());
    for (source, file) in files.iter().enumerate() {
        let before = work.builder.counts().0;
        work.file(file, &options.read)?;
        sources.push(work.builder.counts().0 - before);
        let of_file = std::mem::take(&mut work.skipped);
        skipped.extend(&of_file);
        remember(&mut first_skipped, source, of_file.first());
        remember(&mut first_bad, source, of_file.first_bad());
    }
    work.builder.finish(|index| {
        index.sources = sources;
        index.unsuitable = skipped.unsuitable();
        index.bad = skipped.bad();
        index.first_skipped = first_skipped;
        index.first_bad = first_bad;
    })
}

struct Work<'a> {
    encoder: &'a Encoder,
    on_long_row: OnBadRow,
    on_bad_row: OnBadRow,
    builder: Builder<'a>,
    skipped: SkipLog,
    started: Instant,
    reported: Instant,
    on_progress: &'a mut dyn FnMut(Progress),
}

type Encoded = Result<(Vec<u32>, usize)>;

impl Work<'_> {
    fn file(&mut self, file: &Path, options: &ReadOptions) -> Result<()> {
        let encoder = self.encoder;
        let mut reader = RowReader::open(file, options.clone())?;
        let mut records = next_chunk(&mut reader)?;
        while !records.is_empty() {
            // Rows are parsed by one thread while the others encode those before them.
            let (encoded, next) = rayon::join(
                || -> Vec<Encoded> { records.par_iter().map(|record| encoder.encode(record)).collect() },
                || next_chunk(&mut reader),
            );
            self.take(&records, encoded)?;
            self.report();
            records = next?;
        }
        self.skipped.extend(reader.skipped());
        Ok(())
    }

    fn take(&mut self, records: &[Record], encoded: Vec<Encoded>) -> Result<()> {
        for (record, encoded) in records.iter().zip(encoded) {
            match encoded {
                Ok((ids, prompt_len)) => {
                    let row = Example {
                        ids: &ids,
                        prompt_len,
                    };
                    self.builder.push(row, self.encoder.target())?;
                }
                Err(DataError::BadRow(error)) if self.on_bad_row == OnBadRow::Skip => {
                    self.skipped.push(error);
                }
                Err(DataError::TooLong {
                    prompt_tokens,
                    target_tokens,
                    max_length,
                    ..
                }) if self.on_long_row == OnBadRow::Skip => {
                    let reason = format!(
                        "{prompt_tokens} prompt and {target_tokens} correction tokens do not fit into {max_length}"
                    );
                    self.skipped.push(record.origin.error(reason));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn report(&mut self) {
        if self.reported.elapsed() < REPORT_EVERY {
            return;
        }
        self.reported = Instant::now();
        let (rows, stored) = self.builder.counts();
        let tokens = self.encoder.target().tokens_of(rows, stored);
        let seconds = self.started.elapsed().as_secs_f64();
        tracing::info!(rows, tokens, seconds, "tokenising");
        (self.on_progress)(Progress {
            rows,
            tokens,
            seconds,
        });
    }
}

fn next_chunk(reader: &mut RowReader<'_>) -> Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let mut bytes = 0;
    while records.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
        let Some(record) = reader.next() else {
            break;
        };
        let record = record?;
        bytes += record.question.len() + record.answer.len();
        bytes += record.correction.as_ref().map_or(0, String::len);
        records.push(record);
    }
    Ok(records)
}
