//! Where the records of a run go: `metrics.jsonl`, and TensorBoard's event files.

use std::io;
use std::path::PathBuf;

use serde_json::Value;

use crate::error::Result;
use crate::metrics::{MetricsLog, StepRecord};
use crate::repair::repair;
use crate::run_dir::RunDir;
use crate::tensorboard::EventFile;

/// Both, open for a run that goes on from a step.
#[derive(Debug)]
pub(crate) struct Records {
    log: MetricsLog,
    path: PathBuf,
    events: Events,
}

#[derive(Debug)]
enum Events {
    Off,
    /// Opened with the first record: a run that has nothing left to do writes no file.
    Due {
        dir: PathBuf,
        next_step: u64,
    },
    Open(EventFile),
}

impl Records {
    /// Opens the files of a run that stands behind step `step`, where `metrics.jsonl` had `bytes` bytes.
    ///
    /// # Errors
    /// When `metrics.jsonl` cannot be opened.
    pub fn open(run: &RunDir, step: u64, bytes: u64, tensorboard: bool) -> Result<Self> {
        let path = run.metrics();
        let log = MetricsLog::open(&path, repair(&path, step, bytes)?)?;
        // A run that starts validates first: step 0 has a record of its own.
        let next_step = if step == 0 { 0 } else { step + 1 };
        let events = if tensorboard {
            Events::Due {
                dir: run.tensorboard(),
                next_step,
            }
        } else {
            Events::Off
        };
        Ok(Self { log, path, events })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// When `metrics.jsonl` cannot be written.
    pub fn append(&mut self, record: &StepRecord) -> Result<()> {
        self.log.append(record)?;
        // The file is for watching alone: a run does not end because of it.
        if let Err(error) = self.events.append(record) {
            tracing::warn!(
                "cannot write {} for TensorBoard: {error}; metrics.jsonl goes on",
                self.path.with_file_name("tensorboard").display()
            );
            self.events = Events::Off;
        }
        Ok(())
    }

    /// Brings `metrics.jsonl` to the disk, so that a checkpoint does not survive a power failure that its records do not.
    ///
    /// # Errors
    /// When the system says it could not.
    pub fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    /// Length of `metrics.jsonl`.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }
}

impl Events {
    fn append(&mut self, record: &StepRecord) -> io::Result<()> {
        if let Self::Due { dir, next_step } = self {
            *self = Self::Open(EventFile::create(dir, *next_step)?);
        }
        match (self, serde_json::to_value(record)?) {
            (Self::Open(events), Value::Object(fields)) => events.append(&fields),
            _ => Ok(()),
        }
    }
}
