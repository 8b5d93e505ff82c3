//! The layout of a run directory, and the lock that keeps a second process out.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};

/// Ends `run.toml`, so that half of one is not taken for a whole.
const LAST_LINE: &str = "# end of run.toml";

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

    /// Event files for TensorBoard.
    pub fn tensorboard(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    /// Reads the configuration of a run that is there already.
    ///
    /// # Errors
    /// When the file cannot be read or was damaged; the message says what can be done.
    pub fn read_config(&self) -> Result<TrainConfig> {
        let path = self.config();
        let read = || -> Result<TrainConfig> {
            let text = std::fs::read_to_string(&path).map_err(TrainError::io("read", &path))?;
            let mut config = TrainConfig::from_toml(&text, &path.display().to_string())?;
            // Half a file can be valid TOML: the keys that are missing would have their defaults.
            if text.lines().next_back() != Some(LAST_LINE) {
                let reason = format!("its last line is not `{LAST_LINE}`: it was cut off");
                return Err(TrainError::config(path.display().to_string(), reason));
            }
            // The run may have been moved.
            config.out.clone_from(&self.root);
            config.validate()?;
            Ok(config)
        };
        let reason = match read() {
            Ok(config) => return Ok(config),
            Err(TrainError::Config { origin, reason }) if Path::new(&origin) == path => reason,
            Err(TrainError::Config { origin, reason }) => format!("{origin} {reason}"),
            Err(TrainError::Io { source, .. }) if source.kind() == ErrorKind::InvalidData => {
                source.to_string()
            }
            Err(other) => return Err(other),
        };
        Err(TrainError::config(
            path.display().to_string(),
            format!(
                "{}\nThe file says what the run was started with. Put it back as it was (weights and state are in {} and \
                 are not touched), or start a new run with another --out.",
                reason.trim_end(),
                self.checkpoints().display()
            ),
        ))
    }

    /// Writes the configuration: whole, or as it was before.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_config(&self, config: &TrainConfig) -> Result<()> {
        let (path, part) = (self.config(), self.root.join("run.toml.part"));
        let text = config.to_toml()? + "\n" + LAST_LINE + "\n";
        let written = File::create(&part).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(TrainError::io("write", &path))
    }

    /// Checkpoints to resume from.
    pub fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoints")
    }

    /// The model with the lowest validation loss.
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
