//! Where the records of a run go: `metrics.jsonl`, and TensorBoard's event files.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Result, TrainError};
use crate::metrics::{MetricsLog, StepRecord};
use crate::repair::repair;
use crate::run_dir::RunDir;
use crate::tensorboard::EventFile;

/// Both, open for a run that goes on from a step.
#[derive(Debug)]
pub(crate) struct Records {
    log: MetricsLog,
    path: PathBuf,
    events: Option<EventFile>,
}

impl Records {
    /// Opens the files of a run that stands behind step `step`, where `metrics.jsonl` had `bytes` bytes.
    ///
    /// # Errors
    /// When `metrics.jsonl` cannot be opened. Event files are for watching alone: without them there is a warning.
    pub fn open(run: &RunDir, step: u64, bytes: u64, tensorboard: bool) -> Result<Self> {
        let path = run.metrics();
        let log = MetricsLog::open(&path, repair(&path, step, bytes)?)?;
        // A run that starts validates first: step 0 has a record of its own.
        let next_step = if step == 0 { 0 } else { step + 1 };
        let events = tensorboard.then(|| open_events(&run.tensorboard(), next_step));
        Ok(Self {
            log,
            path,
            events: events.flatten(),
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// When `metrics.jsonl` cannot be written.
    pub fn append(&mut self, record: &StepRecord) -> Result<()> {
        self.log.append(record)?;
        if let Some(events) = &mut self.events
            && let Ok(Value::Object(fields)) = serde_json::to_value(record)
            && let Err(error) = events.append(&fields)
        {
            tracing::warn!(%error, "TensorBoard's event file cannot be written; it ends here, metrics.jsonl goes on");
            self.events = None;
        }
        Ok(())
    }

    /// Brings `metrics.jsonl` to the disk, so that a checkpoint does not survive a power failure that its records do not.
    ///
    /// # Errors
    /// When the system says it could not.
    pub fn sync(&self) -> Result<()> {
        if self.log.bytes() == 0 {
            return Ok(());
        }
        File::open(&self.path)
            .and_then(|file| file.sync_data())
            .map_err(TrainError::io("sync", &self.path))
    }

    /// Length of `metrics.jsonl`.
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }
}

fn open_events(dir: &Path, next_step: u64) -> Option<EventFile> {
    EventFile::create(dir, next_step)
        .inspect_err(|error| {
            tracing::warn!(%error, dir = %dir.display(), "no event files for TensorBoard; metrics.jsonl is written");
        })
        .ok()
}
