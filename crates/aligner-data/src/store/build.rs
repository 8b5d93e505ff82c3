//! Takes rows one after the other: into memory as long as they are few, then into files.

use std::fs::File;
use std::io::{BufWriter, Write};

use super::index::{Fingerprint, Index};
use super::scratch::Scratch;
use super::words::{Words, each_block};
use super::{CacheEntry, INDEX, ROWS, TOKENS, TokenCache, TokenStore, row};
use crate::encode::{Example, Target};
use crate::error::{DataError, Result};

/// A store in the making.
pub(crate) struct Builder<'a> {
    cache: &'a TokenCache,
    entry: Option<&'a CacheEntry>,
    in_memory_bytes: u64,
    sink: Sink,
    index: Index,
}

enum Sink {
    Memory { ids: Vec<u32>, rows: Vec<u32> },
    Files(Files),
}

struct Files {
    scratch: Scratch,
    ids: BufWriter<File>,
    rows: BufWriter<File>,
}

impl<'a> Builder<'a> {
    /// Rows of up to `in_memory_bytes` stay in memory; more go to the cache's `entry`, or where they are gone in the end.
    pub fn new(cache: &'a TokenCache, entry: Option<&'a CacheEntry>, in_memory_bytes: u64) -> Self {
        Self {
            cache,
            entry,
            in_memory_bytes,
            sink: Sink::Memory {
                ids: Vec::new(),
                rows: Vec::new(),
            },
            index: Index::default(),
        }
    }

    /// Rows and tokens so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.index.rows, self.index.tokens)
    }

    /// Takes a row, of which `target` says what it is.
    pub fn push(&mut self, row: Example<'_>, target: Target) -> Result<()> {
        let Example { ids, prompt_len } = row;
        let counts = target.counts(row);
        let entry = row::entry(self.index.tokens, prompt_len, ids);
        let index = &mut self.index;
        index.rows += 1;
        index.tokens += ids.len() as u64;
        index.target_tokens += counts.targets as u64;
        index.largest_id = ids.iter().copied().fold(index.largest_id, u32::max);
        let bytes = 4 * (index.tokens + index.rows * row::WORDS as u64);
        match &mut self.sink {
            Sink::Memory { ids: all, rows } => {
                all.extend_from_slice(ids);
                rows.extend_from_slice(&entry);
                if bytes > self.in_memory_bytes {
                    self.spill()?;
                }
                Ok(())
            }
            Sink::Files(files) => files.write(ids, &entry),
        }
    }

    /// Moves what is in memory to files.
    fn spill(&mut self) -> Result<()> {
        let scratch = self.cache.scratch(self.entry)?;
        let mut files = Files::create(scratch)?;
        if let Sink::Memory { ids, rows } = &self.sink {
            files.write(ids, rows)?;
        }
        self.sink = Sink::Files(files);
        Ok(())
    }

    /// The store; `about` fills in what the builder does not know.
    pub fn finish(self, about: impl FnOnce(&mut Index)) -> Result<TokenStore> {
        let Self {
            cache,
            entry,
            sink,
            mut index,
            ..
        } = self;
        about(&mut index);
        let mut fingerprint = Fingerprint::default();
        let files = match sink {
            Sink::Memory { ids, rows } => {
                fingerprint.rows(&rows);
                fingerprint.ids(&ids);
                (index.fingerprint, index.rows_sha256) = fingerprint.finish();
                return Ok(TokenStore {
                    ids: Words::Owned(ids),
                    rows: Words::Owned(rows),
                    index,
                    ..TokenStore::default()
                });
            }
            Sink::Files(files) => files,
        };
        let scratch = files.close()?;
        let dir = scratch.path().to_path_buf();
        let io = |action, name: &str| {
            let path = dir.join(name);
            move |source| DataError::Io { action, path, source }
        };
        // Lengths come before tokens in the fingerprint, so it takes a second look, at a file that is still in memory.
        each_block(&dir.join(ROWS), |words| fingerprint.rows(words)).map_err(io("read", ROWS))?;
        each_block(&dir.join(TOKENS), |words| fingerprint.ids(words)).map_err(io("read", TOKENS))?;
        (index.fingerprint, index.rows_sha256) = fingerprint.finish();
        index.write(&dir.join(INDEX)).map_err(io("write", INDEX))?;
        cache.keep(scratch, entry, index)
    }
}

impl Files {
    fn create(scratch: Scratch) -> Result<Self> {
        let create = |name: &str| {
            let path = scratch.path().join(name);
            let file = File::create(&path).map_err(DataError::io("create", &path))?;
            Ok::<_, DataError>(BufWriter::with_capacity(1 << 20, file))
        };
        Ok(Self {
            ids: create(TOKENS)?,
            rows: create(ROWS)?,
            scratch,
        })
    }

    fn write(&mut self, ids: &[u32], entries: &[u32]) -> Result<()> {
        let written = self.ids.write_all(bytemuck::cast_slice(ids));
        written
            .and_then(|()| self.rows.write_all(bytemuck::cast_slice(entries)))
            .map_err(DataError::io("write", self.scratch.path()))
    }

    /// All is on the disk.
    fn close(self) -> Result<Scratch> {
        let Self { scratch, ids, rows } = self;
        for file in [ids, rows] {
            let file = file.into_inner().map_err(std::io::IntoInnerError::into_error);
            file.and_then(|file| file.sync_all())
                .map_err(DataError::io("write", scratch.path()))?;
        }
        Ok(scratch)
    }
}
