//! Rows as JSON lines, and files known by their hashes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{EvalError, Result};
use crate::row::{Known, OfOutcome, Outcome};

/// Writes rows, a JSON line each: all of them, or what was there stays.
pub(crate) fn write_rows<T: Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    let mut text = String::new();
    for (number, row) in (1..).zip(rows) {
        let line = serde_json::to_string(row);
        text += &line.map_err(|error| EvalError::row(path, number, error.to_string()))?;
        text.push('\n');
    }
    write_whole(path, &text)
}

/// Reads rows; `what` is what each should be. Blank lines are no rows.
pub(crate) fn read_rows<T: DeserializeOwned>(path: &Path, what: &str) -> Result<Vec<T>> {
    Ok(read_rows_hashed(path, what)?.0)
}

/// Reads rows, and gives `sha256:` and the hash of the bytes they were read from.
pub(crate) fn read_rows_hashed<T: DeserializeOwned>(path: &Path, what: &str) -> Result<(Vec<T>, String)> {
    let mut file = Hashing::open(path)?;
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(file.by_ref().lines()) {
        let line = line.map_err(EvalError::io("read", path))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(&line)
            .map_err(|error| EvalError::row(path, number, format!("it is no {what}: {error}")))?;
        rows.push(row);
    }
    Ok((rows, file.into_inner().hash()))
}

/// A file that is hashed as it is read: its hash is that of what was read, whoever writes to it meanwhile.
pub(crate) struct Hashing {
    file: File,
    hash: Sha256,
}

impl Hashing {
    pub(crate) fn open(path: &Path) -> Result<BufReader<Self>> {
        let file = File::open(path).map_err(EvalError::io("read", path))?;
        let hash = Sha256::new();
        Ok(BufReader::with_capacity(1 << 16, Self { file, hash }))
    }

    /// `sha256:` and the hash of what was read so far.
    pub(crate) fn hash(self) -> String {
        named(self.hash)
    }
}

impl Read for Hashing {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }
}

/// Rows of these outcomes that an earlier run of a step wrote, without those that are made anew. The file need not be there.
pub(crate) fn kept<T: DeserializeOwned + OfOutcome>(
    path: &Path,
    what: &str,
    outcomes: &[Outcome],
    is_anew: impl Fn(&T) -> bool,
) -> Result<Vec<T>> {
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<T> = read_rows(path, what)?;
    let known = Known::of(outcomes);
    rows.retain(|row| known.has(row) && !is_anew(row));
    Ok(rows)
}

/// Writes a file: whole, or what was there stays.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    aligner_report::kit::write_whole(path, text).map_err(EvalError::io("write", path))
}

/// `sha256:` and the hash of a file's bytes.
pub(crate) fn hash_of(path: &Path) -> Result<String> {
    let mut file = Hashing::open(path)?;
    std::io::copy(&mut file, &mut std::io::sink()).map_err(EvalError::io("read", path))?;
    Ok(file.into_inner().hash())
}

/// A hash as it is written.
pub(crate) fn named(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest
        .iter()
        .fold("sha256:".into(), |text, byte| text + &format!("{byte:02x}"))
}
