//! Rows of questions, answers and corrections for later training and evaluation, in files that turn over.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::sync::mpsc::{Sender, channel};

use crate::config::ShadowConfig;
use crate::error::{Result, ServeError};

/// Rows that wait to be written at most.
const WAITING: usize = 1024;

/// Where rows are handed over; a thread of its own writes them.
#[derive(Debug, Clone)]
pub(crate) struct Shadow(Sender<Value>);

impl Shadow {
    /// Opens the file and begins to write.
    pub fn open(config: ShadowConfig) -> Result<Self> {
        let mut file = Rotating::open(config)?;
        let (sender, mut rows) = channel::<Value>(WAITING);
        std::thread::spawn(move || {
            while let Some(row) = rows.blocking_recv() {
                if let Err(error) = file.write(&row) {
                    tracing::error!("{error}");
                }
            }
        });
        Ok(Self(sender))
    }

    /// Hands a row over; `false` when too many wait.
    pub fn write(&self, row: Value) -> bool {
        self.0.try_send(row).is_ok()
    }
}

/// A file of lines that is renamed when it is full.
struct Rotating {
    config: ShadowConfig,
    file: File,
    bytes: u64,
}

impl Rotating {
    fn open(config: ShadowConfig) -> Result<Self> {
        let (file, bytes) = append_to(&config.path).map_err(|source| ServeError::Shadow {
            path: config.path.clone(),
            source,
        })?;
        Ok(Self { config, file, bytes })
    }

    fn write(&mut self, row: &Value) -> Result<()> {
        let line = format!("{row}\n");
        self.try_write(line.as_bytes())
            .map_err(|source| ServeError::Shadow {
                path: self.config.path.clone(),
                source,
            })
    }

    /// One call writes a line, so that a reader never sees half of one.
    fn try_write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.config.max_bytes {
            self.turn_over()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// `rows.jsonl` becomes `rows.jsonl.1`, that `rows.jsonl.2`, and the last one goes.
    fn turn_over(&mut self) -> std::io::Result<()> {
        let path = &self.config.path;
        if self.config.max_files == 0 {
            std::fs::remove_file(path)?;
        }
        for number in (1..=self.config.max_files).rev() {
            let from = match number {
                1 => path.clone(),
                _ => numbered(path, number - 1),
            };
            if from.exists() {
                std::fs::rename(from, numbered(path, number))?;
            }
        }
        (self.file, self.bytes) = append_to(path)?;
        Ok(())
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(format!(".{number}"));
    name.into()
}

/// Opens a file for its owner alone: it holds what users wrote.
fn append_to(path: &Path) -> std::io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_turn_over_and_no_row_is_cut() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("rows.jsonl");
        let config = ShadowConfig {
            max_bytes: 100,
            max_files: 2,
            ..ShadowConfig::new(&path)
        };
        for round in 0..2 {
            let mut file = Rotating::open(config.clone()).expect("a file");
            for row in 0..10 {
                let value = serde_json::json!({"row": round * 10 + row, "text": "some text of a row"});
                file.write(&value).expect("room");
            }
        }
        let mut rows = Vec::new();
        for path in [numbered(&path, 2), numbered(&path, 1), path.clone()] {
            let text = std::fs::read_to_string(&path).expect("a file");
            assert!(text.len() <= 100, "{path:?}");
            for line in text.lines() {
                rows.push(serde_json::from_str::<Value>(line).expect("a row")["row"].clone());
            }
        }
        assert_eq!(rows.last(), Some(&Value::from(19)));
        assert!(
            rows.windows(2).all(|pair| pair[0].as_u64() < pair[1].as_u64()),
            "{rows:?}"
        );
        assert!(!numbered(&path, 3).exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_told_at_the_start() {
        let error = Shadow::open(ShadowConfig::new("/nonexistent/rows.jsonl")).expect_err("no place");
        assert!(error.to_string().contains("/nonexistent/rows.jsonl"));
    }
}
