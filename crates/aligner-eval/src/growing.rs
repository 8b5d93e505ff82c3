//! A file that grows row by row, and is gone on with by the run that comes behind one that was killed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{EvalError, Result};

/// Rows as JSON lines, each handed to the system as soon as it is written: a process that is killed loses at most the row it was
/// at, and half a line is cut off when the file is opened again.
#[derive(Debug)]
pub(crate) struct Growing {
    file: File,
    path: PathBuf,
    rows: u64,
    /// Bytes of the rows that are written.
    end: u64,
}

impl Growing {
    /// Opens a file, or begins it; `check` sees each whole row that is there, with the number of those before it.
    ///
    /// # Errors
    /// When the file cannot be read or written, another process writes it, a row is damaged, or `check` refuses one. The file is
    /// left as it was then.
    pub fn open<T: DeserializeOwned>(
        path: &Path,
        mut check: impl FnMut(u64, T) -> Result<(), String>,
    ) -> Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(EvalError::io("write", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = "is being written by another process; wait for it, or end it";
                return Err(EvalError::file(path, reason));
            }
            // Some file systems know no locks.
            Err(TryLockError::Error(error)) => tracing::debug!(%error, path = %path.display(), "not locked"),
        }
        let mut growing = Self {
            file,
            path: path.to_path_buf(),
            rows: 0,
            end: 0,
        };
        growing.read(&mut check)?;
        growing.cut().map_err(EvalError::io("write", path))?;
        Ok(growing)
    }

    /// Rows that are written.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// An error of the row that is next.
    pub fn error(&self, reason: impl Into<String>) -> EvalError {
        EvalError::row(&self.path, self.rows + 1, reason)
    }

    /// Writes a row.
    ///
    /// # Errors
    /// When it cannot be written; what was written of it is taken back.
    pub fn append<T: Serialize>(&mut self, row: &T) -> Result<()> {
        let mut line = serde_json::to_vec(row).map_err(|error| self.error(error.to_string()))?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            if let Err(error) = self.cut() {
                tracing::debug!(%error, path = %self.path.display(), "half a row is left; the next run cuts it off");
            }
            return Err(EvalError::io("write", &self.path)(error));
        }
        self.rows += 1;
        self.end += line.len() as u64;
        Ok(())
    }

    fn read<T: DeserializeOwned>(
        &mut self,
        check: &mut impl FnMut(u64, T) -> Result<(), String>,
    ) -> Result<()> {
        let failed = || EvalError::io("read", &self.path);
        let mut lines = BufReader::new(self.file.try_clone().map_err(failed())?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line).map_err(failed())?;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            let row = serde_json::from_slice(&line).map_err(|error| {
                self.error(format!(
                    "is damaged ({error}); delete this row and those behind it, and they are made anew"
                ))
            })?;
            check(self.rows, row).map_err(|reason| self.error(reason))?;
            self.rows += 1;
            self.end += read as u64;
        }
    }

    /// Cuts off what is behind the last whole row, and goes on there.
    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.seek(SeekFrom::Start(self.end)).map(drop)
    }
}

/// Rows that take long to make, beside the file that they will be in: kept one by one under `FILE.unfinished` with the settings that made
/// them, until all are there.
///
/// ```
/// use aligner_eval::Unfinished;
/// # let dir = tempfile::tempdir()?;
/// let path = dir.path().join("rows.jsonl");
/// let settings = serde_json::json!({"seed": 7});
/// let mut rows = Unfinished::<u32>::open(&path, &settings, |_, _| true)?;
/// rows.push(1)?;
/// drop(rows); // As a process that is killed does.
/// let mut rows = Unfinished::open(&path, &settings, |index, row: &u32| index == 0 && *row == 1)?;
/// rows.push(2)?;
/// assert_eq!(rows.rows(), [1, 2]);
/// rows.discard()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Unfinished<T> {
    file: Growing,
    rows: Vec<T>,
}

impl<T: Serialize + DeserializeOwned> Unfinished<T> {
    /// Opens the rows that an earlier run left, or begins; `is_asked` says whether the row at a place is of what is asked for now.
    ///
    /// # Errors
    /// When the file cannot be read or written, another process writes it, a row is damaged, or rows are there of other settings
    /// or other questions.
    pub fn open(path: &Path, settings: &Value, is_asked: impl Fn(usize, &T) -> bool) -> Result<Self> {
        let part = part_of(path);
        let other = "is of another run; delete the file to begin anew";
        let mut rows = Vec::new();
        let mut file = Growing::open(&part, |index, value: Value| {
            if index == 0 {
                return match value.get("settings") == Some(settings) {
                    true => Ok(()),
                    false => Err(format!("was made with other settings, or {other}")),
                };
            }
            let row: T = serde_json::from_value(value).map_err(|error| format!("{error}: it {other}"))?;
            if !is_asked(rows.len(), &row) {
                return Err(other.into());
            }
            rows.push(row);
            Ok(())
        })?;
        if file.rows() == 0 {
            file.append(&serde_json::json!({"settings": settings}))?;
        }
        Ok(Self { file, rows })
    }

    /// Keeps a row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, row: T) -> Result<()> {
        self.file.append(&row)?;
        self.rows.push(row);
        Ok(())
    }

    /// The rows so far.
    pub fn rows(&self) -> &[T] {
        &self.rows
    }

    /// Writes the rows to the file that they are for, and forgets how they came there.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn finish(self, path: &Path) -> Result<()> {
        crate::files::write_rows(path, &self.rows)?;
        self.discard()
    }

    /// Deletes what was kept, once it is somewhere else.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn discard(self) -> Result<()> {
        std::fs::remove_file(&self.file.path).map_err(EvalError::io("delete", &self.file.path))
    }
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".unfinished");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_another_run_and_files_of_somebody_else_are_left_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let part = dir.path().join("rows.jsonl.unfinished");
        let settings = json!({"seed": 7});
        let open = |settings: &Value, asked: u32| {
            Unfinished::<u32>::open(&path, settings, |_, row| *row == asked).map(|rows| rows.rows.len())
        };
        let mut rows = Unfinished::<u32>::open(&path, &settings, |_, _| true).unwrap();
        rows.push(1).unwrap();
        drop(rows);
        let whole = std::fs::read_to_string(&part).unwrap();
        assert!(
            open(&json!({"seed": 8}), 1)
                .unwrap_err()
                .to_string()
                .contains("other settings")
        );
        assert!(open(&settings, 2).unwrap_err().to_string().contains("row 2"));
        assert_eq!(std::fs::read_to_string(&part).unwrap(), whole);
        // Half a row is cut off; what is no row of ours is not.
        std::fs::write(&part, format!("{whole}1")).unwrap();
        assert_eq!(open(&settings, 1).unwrap(), 1);
        assert_eq!(std::fs::read_to_string(&part).unwrap(), whole);
        std::fs::write(&part, "somebody's download\nin two lines\n").unwrap();
        assert!(open(&settings, 1).unwrap_err().to_string().contains("row 1"));
        assert!(std::fs::read_to_string(&part).unwrap().starts_with("somebody"));
    }

    #[test]
    fn one_process_writes_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let first = Unfinished::<u32>::open(&path, &json!(1), |_, _| true).unwrap();
        let error = Unfinished::<u32>::open(&path, &json!(1), |_, _| true).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
        first.finish(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
