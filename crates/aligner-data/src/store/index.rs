//! What is known of stored rows without looking at them, and the fingerprint that comes of a look at all.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::row;
use super::words::each_block;

/// The first line of the file; a store of another version, or of a machine with another byte order, is not read.
const HEADER: &str = if cfg!(target_endian = "little") {
    "aligner tokens 2, little-endian"
} else {
    "aligner tokens 2, big-endian"
};

/// The longest index that is read: a hundred rows that were left out, each with a reason, take much less.
const MAX_BYTES: u64 = 64 << 20;

/// `index`: a header, the SHA-256 of what follows, and the rest as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub rows: u64,
    pub tokens: u64,
    pub target_tokens: u64,
    pub largest_id: u32,
    /// `sha256:…` of all tokens and prompt lengths.
    pub fingerprint: String,
    /// Of the table of rows.
    pub rows_sha256: String,
    /// Rows of each source file.
    pub sources: Vec<u64>,
    /// Rows that were left out because they hold no pair of answers.
    pub unsuitable: u64,
    /// Rows that were left out for another reason.
    pub bad: u64,
    /// The first of both.
    pub first_skipped: Vec<Skipped>,
    /// The first bad ones.
    pub first_bad: Vec<Skipped>,
}

/// A row that was left out; its file by number, because the same content may lie elsewhere another time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub source: usize,
    pub line: u64,
    pub row: u64,
    pub reason: String,
}

impl Index {
    pub fn write(&self, path: &Path) -> Result<()> {
        let body = serde_json::to_string(self)?;
        let mut file = std::fs::File::create(path)?;
        let sum = hex(Sha256::digest(body.as_bytes()).as_ref());
        file.write_all(format!("{HEADER}\n{sum}\n{body}").as_bytes())?;
        file.sync_all()
    }

    pub fn read(path: &Path) -> Result<Self> {
        let invalid = |reason: &str| Error::new(ErrorKind::InvalidData, reason);
        let mut text = String::new();
        std::fs::File::open(path)?
            .take(MAX_BYTES)
            .read_to_string(&mut text)?;
        let mut parts = text.splitn(3, '\n');
        if parts.next() != Some(HEADER) {
            return Err(invalid("its header is not one of this version"));
        }
        let (Some(sum), Some(body)) = (parts.next(), parts.next()) else {
            return Err(invalid("it is cut"));
        };
        if sum != hex(Sha256::digest(body.as_bytes()).as_ref()) {
            return Err(invalid("its checksum does not match"));
        }
        Ok(serde_json::from_str(body)?)
    }
}

/// Takes the table of rows, then the tokens.
#[derive(Default)]
pub(super) struct Fingerprint {
    table: Sha256,
    all: Sha256,
}

impl Fingerprint {
    /// Takes entries of the table.
    pub fn rows(&mut self, words: &[u32]) {
        self.table.update(bytemuck::cast_slice::<u32, u8>(words));
        for entry in words.chunks_exact(row::WORDS) {
            self.all.update(entry[2].to_le_bytes());
            self.all.update(entry[3].to_le_bytes());
        }
    }

    /// Takes tokens.
    pub fn ids(&mut self, words: &[u32]) {
        if cfg!(target_endian = "little") {
            self.all.update(bytemuck::cast_slice::<u32, u8>(words));
        } else {
            words.iter().for_each(|id| self.all.update(id.to_le_bytes()));
        }
    }

    /// The fingerprint of the rows, and the hash of the table.
    pub fn finish(self) -> (String, String) {
        let all = hex(self.all.finalize().as_ref());
        (format!("sha256:{all}"), hex(self.table.finalize().as_ref()))
    }
}

/// The hash of a table of rows in a file.
pub(super) fn table_hash(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    each_block(path, |words| {
        hash.update(bytemuck::cast_slice::<u32, u8>(words));
    })?;
    Ok(hex(hash.finalize().as_ref()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
