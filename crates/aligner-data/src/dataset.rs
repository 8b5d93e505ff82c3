//! Encoded rows in memory.

use std::path::PathBuf;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::encode::{Encoder, Example};
use crate::error::{DataError, Result};
use crate::reader::{OnBadRow, ReadOptions, RowReader, SkipLog};
use crate::record::Record;

/// Rows that are encoded in one parallel go.
const CHUNK: usize = 1024;

/// All rows of some files, encoded: four bytes a token.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    ids: Vec<u32>,
    rows: Vec<Span>,
    skipped: SkipLog,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    prompt_len: u32,
    len: u32,
}

impl Dataset {
    /// Reads and encodes files; rows longer than the encoder allows are errors or left out, as `on_long_row` says.
    ///
    /// # Errors
    /// When a file cannot be read, a row cannot be used, or no row is left.
    pub fn load(
        files: &[PathBuf],
        encoder: &Encoder,
        options: &ReadOptions,
        on_long_row: OnBadRow,
    ) -> Result<Self> {
        let mut dataset = Self::default();
        for file in files {
            let mut reader = RowReader::open(file, options.clone())?;
            loop {
                let records: Vec<Record> = reader.by_ref().take(CHUNK).collect::<Result<_>>()?;
                if records.is_empty() {
                    break;
                }
                dataset.extend(&records, encoder, on_long_row)?;
            }
            dataset.skipped.extend(reader.skipped());
        }
        if dataset.rows.is_empty() {
            return Err(DataError::Empty {
                files: files.to_vec(),
                skipped: dataset.skipped.count(),
            });
        }
        if dataset.skipped.count() > 0 {
            tracing::warn!(rows = dataset.skipped.count(), first = %dataset.skipped.first()[0], "rows left out");
        }
        Ok(dataset)
    }

    fn extend(&mut self, records: &[Record], encoder: &Encoder, on_long_row: OnBadRow) -> Result<()> {
        let encoded: Vec<Result<(Vec<u32>, usize)>> =
            records.par_iter().map(|record| encoder.encode(record)).collect();
        for (record, encoded) in records.iter().zip(encoded) {
            match encoded {
                Ok((ids, prompt_len)) => self.push(&ids, prompt_len),
                Err(error @ DataError::TooLong { .. }) if on_long_row == OnBadRow::Skip => {
                    let DataError::TooLong {
                        prompt_tokens,
                        target_tokens,
                        max_length,
                        ..
                    } = error
                    else {
                        continue;
                    };
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

    fn push(&mut self, ids: &[u32], prompt_len: usize) {
        self.rows.push(Span {
            start: self.ids.len(),
            prompt_len: prompt_len as u32,
            len: ids.len() as u32,
        });
        self.ids.extend_from_slice(ids);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A row; empty when there is none of that number.
    pub fn example(&self, row: usize) -> Example<'_> {
        match self.rows.get(row) {
            Some(span) => Example {
                ids: &self.ids[span.start..span.start + span.len as usize],
                prompt_len: span.prompt_len as usize,
            },
            None => Example {
                ids: &[],
                prompt_len: 0,
            },
        }
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens that carry loss.
    pub fn target_tokens(&self) -> usize {
        self.rows
            .iter()
            .map(|span| (span.len - span.prompt_len) as usize)
            .sum()
    }

    /// The largest id, to be held against a model's vocabulary.
    pub fn largest_id(&self) -> u32 {
        self.ids.iter().copied().max().unwrap_or(0)
    }

    /// Rows that were left out.
    pub fn skipped(&self) -> &SkipLog {
        &self.skipped
    }

    /// `sha256:` and the hash of all tokens and prompt lengths in their order.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for span in &self.rows {
            hash.update(span.prompt_len.to_le_bytes());
            hash.update(span.len.to_le_bytes());
        }
        for chunk in self.ids.chunks(1 << 16) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|id| id.to_le_bytes()).collect();
            hash.update(&bytes);
        }
        hash.finalize()
            .iter()
            .fold("sha256:".into(), |text, byte| text + &format!("{byte:02x}"))
    }
}
