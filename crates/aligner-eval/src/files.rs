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
    let file = BufReader::new(File::open(path).map_err(EvalError::io("read", path))?);
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(file.lines()) {
        let line = line.map_err(EvalError::io("read", path))?;
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(&line)
            .map_err(|error| EvalError::row(path, number, format!("it is no {what}: {error}")))?;
        rows.push(row);
    }
    Ok(rows)
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
    let failed = || EvalError::io("read", path);
    let mut file = File::open(path).map_err(failed())?;
    let (mut hash, mut bytes) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut bytes).map_err(failed())? {
            0 => return Ok(named(hash)),
            count => hash.update(&bytes[..count]),
        }
    }
}

/// A hash as it is written.
pub(crate) fn named(hash: Sha256) -> String {
    let digest = hash.finalize();
    digest
        .iter()
        .fold("sha256:".into(), |text, byte| text + &format!("{byte:02x}"))
}
