//! The layout of a run directory, and the lock that keeps a second process out.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Result, TrainError};

/// Paths inside a run directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    root: PathBuf,
}

/// Held while a process trains in a run directory; released when dropped, also by a crash.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunDir {
    /// The run at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("run.toml")
    }

    /// One object a step.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    /// What the model wrote at each validation, one object a row of the sample.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples.jsonl")
    }

    /// Checkpoints to resume from.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The model of the best validation.
    pub fn best(&self) -> PathBuf {
        self.root.join("best")
    }

    /// The model at the end of the run.
    pub fn finished(&self) -> PathBuf {
        self.root.join("final")
    }

    /// Creates the directory and locks it.
    ///
    /// # Errors
    /// When it cannot be created, or another process holds the lock.
    pub fn lock(&self) -> Result<RunLock> {
        std::fs::create_dir_all(&self.root).map_err(TrainError::io("create", &self.root))?;
        let path = self.root.join(".lock");
        let file = File::create(&path).map_err(TrainError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(RunLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(TrainError::Locked(self.root.clone())),
            Err(TryLockError::Error(error)) => Err(TrainError::io("lock", &path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_locked_out_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path().join("run"));
        let lock = run.lock().unwrap();
        assert!(matches!(run.lock(), Err(TrainError::Locked(_))));
        drop(lock);
        run.lock().unwrap();
    }
}
