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

    /// What the model wrote at each validation, one object a row of the sample.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples.jsonl")
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
            if !is_whole(&text) {
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

/// Whether a `run.toml` was not cut off. Half a file can be valid TOML, and the keys that are missing would have their
/// defaults.
fn is_whole(text: &str) -> bool {
    // Files from before there was a last line have no key `tensorboard`, and end with `data_licence` or a table.
    let is_old =
        |table: toml::Table| !table.contains_key("tensorboard") && table.contains_key("data_licence");
    text.lines().next_back() == Some(LAST_LINE) || text.parse().is_ok_and(is_old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoraChoice;

    #[test]
    fn a_run_toml_that_was_cut_off_anywhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path());
        let config = TrainConfig {
            model: "base".into(),
            data: vec!["rows.jsonl".into()],
            out: dir.path().to_path_buf(),
            lr: 0.005,
            lora: Some(LoraChoice::default()),
            ..TrainConfig::default()
        };
        run.write_config(&config).unwrap();
        assert_eq!(run.read_config().unwrap(), config);
        let whole = std::fs::read_to_string(run.config()).unwrap();
        for length in 0..whole.len() - 1 {
            std::fs::write(run.config(), &whole[..length]).unwrap();
            let error = run.read_config().unwrap_err().to_string();
            assert!(
                error.contains("run.toml") && error.contains("Put it back"),
                "{error}"
            );
        }
        // As it was written before there was a last line.
        let old = config.to_toml().unwrap().replace("tensorboard = true\n", "");
        std::fs::write(run.config(), old).unwrap();
        assert_eq!(run.read_config().unwrap(), config);
    }

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
