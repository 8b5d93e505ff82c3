//! Encoded rows, in memory or in files.
//!
//! ```text
//!  KEY/tokens   all ids, one after the other, four bytes each
//!  KEY/rows     where each row begins, its lengths and its checksum, twenty bytes a row
//!  KEY/index    counts, fingerprint, checksum of `rows`
//! ```
//!
//! The files are mapped. What is in them is never believed: the index and the table of rows are checked when a store is
//! opened, a row's tokens when they are asked for, every time.

mod build;
mod cache;
mod index;
mod row;
mod scratch;
mod words;

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

pub(crate) use build::Builder;
pub use cache::TokenCache;
pub(crate) use cache::{CacheEntry, Identity};
pub(crate) use index::{Index, Skipped};

use crate::encode::Example;
use crate::error::{DataError, Result};
use scratch::Scratch;
use words::Words;

const TOKENS: &str = "tokens";
const ROWS: &str = "rows";
const INDEX: &str = "index";

/// Rows of token ids.
#[derive(Debug, Default)]
pub(crate) struct TokenStore {
    ids: Words,
    rows: Words,
    index: Index,
    /// The directory of the files, when there are any.
    place: Option<PathBuf>,
    /// Files that go when the store goes.
    _scratch: Option<Scratch>,
}

impl TokenStore {
    /// Opens a directory; an index, a table or a length that is not what was written is an error.
    fn open(dir: &Path) -> std::io::Result<Self> {
        let index = Index::read(&dir.join(INDEX))?;
        let store = Self::map(dir, index)?;
        if index::table_hash(&dir.join(ROWS))? != store.index.rows_sha256 {
            let reason = "the table of rows is not the one that was written";
            return Err(Error::new(ErrorKind::InvalidData, reason));
        }
        Ok(store)
    }

    /// Maps the files of a directory.
    fn map(dir: &Path, index: Index) -> std::io::Result<Self> {
        Ok(Self {
            ids: Words::map(&dir.join(TOKENS), index.tokens)?,
            rows: Words::map(&dir.join(ROWS), index.rows.saturating_mul(row::WORDS as u64))?,
            index,
            place: Some(dir.to_path_buf()),
            _scratch: None,
        })
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// A row; empty when there is none of that number.
    pub fn example(&self, row: usize) -> Result<Example<'_>> {
        if row as u64 >= self.index.rows {
            return Ok(Example {
                ids: &[],
                prompt_len: 0,
            });
        }
        let start = row.saturating_mul(row::WORDS);
        let entry = self.rows.get().get(start..start.saturating_add(row::WORDS));
        let read = entry.and_then(|entry| row::read(entry, self.ids.get()));
        read.ok_or_else(|| self.damaged(row))
    }

    /// Without its index the entry is none, and the next run tokenises anew.
    fn damaged(&self, row: usize) -> DataError {
        if let Some(place) = &self.place
            && let Err(error) = std::fs::remove_file(place.join(INDEX))
        {
            tracing::debug!(path = %place.display(), %error, "the index was not removed");
        }
        DataError::DamagedTokens {
            path: self.place.clone().unwrap_or_else(|| "memory".into()),
            row,
        }
    }
}
