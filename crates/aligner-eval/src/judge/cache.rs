//! Replies that were paid for.
//!
//! A line of JSON each, added as they come: `{"key":…,"judge":…,"said":…}`. A line that has no end, as a kill leaves it, is
//! dropped. A reply that could not be read is kept too: whoever wants it asked again removes its line.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{EvalError, Result};

/// How every line begins.
const START: &[u8] = br#"{"key":""#;

/// A reply that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub said: String,
    /// Whether it was cut at the limit of its length.
    pub is_cut: bool,
}

/// Replies by the hash of their request.
pub(super) type Replies = HashMap<String, Kept>;

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    key: String,
    judge: String,
    said: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

/// A file of replies that this process alone adds to.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    file: File,
    pub replies: Replies,
}

impl Cache {
    /// Opens a file, or makes it.
    ///
    /// # Errors
    /// When it cannot be read or written, is another kind of file, or another run has it.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(EvalError::io("write", parent))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(EvalError::io("write", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(EvalError::file(
                    path,
                    "another run adds to it: wait for its end, or stop it",
                ));
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(error)) => tracing::debug!(%error, "the judge's cache is not locked"),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(EvalError::io("read", path))?;
        let (replies, whole_bytes) = parse(path, &bytes)?;
        if whole_bytes < bytes.len() {
            tracing::info!(path = %path.display(), "the last line has no end and is dropped");
            file.set_len(whole_bytes as u64)
                .map_err(EvalError::io("write", path))?;
        }
        let path = path.to_path_buf();
        Ok(Self { path, file, replies })
    }

    /// The replies of a file, which stays as it is and need not be there.
    pub fn look(path: &Path) -> Result<Replies> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(parse(path, &bytes)?.0),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Replies::new()),
            Err(error) => Err(EvalError::io("read", path)(error)),
        }
    }

    /// Adds a reply: to the file first, in one piece.
    pub fn add(&mut self, key: &str, judge: &str, kept: Kept) -> Result<()> {
        let line = Line {
            key: key.to_string(),
            judge: judge.to_string(),
            said: kept.said.clone(),
            cut: kept.is_cut,
        };
        let mut bytes = serde_json::to_vec(&line)
            .map_err(|error| EvalError::file(&self.path, format!("a reply cannot be written: {error}")))?;
        bytes.push(b'\n');
        self.file
            .write_all(&bytes)
            .map_err(EvalError::io("write", &self.path))?;
        self.replies.insert(line.key, kept);
        Ok(())
    }
}

/// The replies, and how many bytes their lines have.
fn parse(path: &Path, bytes: &[u8]) -> Result<(Replies, usize)> {
    let whole_bytes = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let (whole, torn) = bytes.split_at(whole_bytes);
    let mut replies = Replies::new();
    for (line, number) in whole.split(|byte| *byte == b'\n').zip(1..) {
        if line.is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(line).map_err(|error| {
            let reason = format!("it is no reply of a judge: {error}; remove the line, or name another file");
            EvalError::row(path, number, reason)
        })?;
        let kept = Kept {
            said: line.said,
            is_cut: line.cut,
        };
        replies.insert(line.key, kept);
    }
    // What is dropped must be ours: a wrong path must not cost somebody the end of another file.
    let is_ours = torn.starts_with(START) || START.starts_with(torn) || torn.iter().all(|byte| *byte == 0);
    if !is_ours {
        let reason = "its last line is no reply of a judge: is this the cache? name another file";
        return Err(EvalError::file(path, reason));
    }
    Ok((replies, whole_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(said: &str) -> Kept {
        Kept {
            said: said.into(),
            is_cut: said.len() > 3,
        }
    }

    #[test]
    fn a_file_cut_anywhere_loses_its_last_line_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/cache.jsonl");
        let mut cache = Cache::open(&path).unwrap();
        for (key, said) in [("a1", "one"), ("b2", "two\n\"quoted\""), ("c3", "drei — ü")] {
            cache.add(key, "m", kept(said)).unwrap();
        }
        drop(cache);
        let bytes = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
        for length in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let lines = ends.iter().filter(|end| **end < length).count();
            assert_eq!(Cache::look(&path).unwrap().len(), lines, "{length}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), length as u64);
            let mut cache = Cache::open(&path).unwrap();
            assert_eq!(cache.replies.len(), lines, "{length}");
            cache.add("d4", "m", kept("four")).unwrap();
            drop(cache);
            let replies = Cache::look(&path).unwrap();
            assert_eq!(replies.len(), lines + 1);
            assert_eq!(replies["d4"], kept("four"));
        }
    }

    #[test]
    fn a_wrong_file_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outcomes.jsonl");
        for (text, expected) in [
            ("{\"id\": 1}\n", "row 1"),
            ("{\"id\": 1}", "its last line"),
            (
                "{\"key\":\"a\",\"judge\":\"m\",\"said\":\"x\"}\nnonsense\n",
                "row 2",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Cache::open(&path).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("outcomes.jsonl"),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn two_runs_do_not_share_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache.jsonl");
        let first = Cache::open(&path).unwrap();
        assert!(
            Cache::open(&path)
                .unwrap_err()
                .to_string()
                .contains("another run")
        );
        drop(first);
        Cache::open(&path).unwrap();
    }
}
