//! `metrics.jsonl`: one object a step. `samples.jsonl` is kept the same way.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::evaluation::TextMetrics;
use crate::plan::StageKind;

/// Which rows a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// One optimizer step.
    Train,
    /// One pass over the validation rows.
    Valid,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Optimizer steps done, this one included.
    pub step: u64,
    /// Passes over the stage's rows, as a fraction.
    pub epoch: f64,
    /// Which rows.
    pub split: Split,
    /// The stage of the step, or of the last one before a validation.
    #[serde(default)]
    pub stage: StageKind,
    /// Mean loss of a target token, or of a pair, in nats.
    pub loss: f64,
    /// Learning rate of the step; absent in validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Norm of the whole gradient before clipping; absent in validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Tokens that are not padding.
    pub tokens: u64,
    /// Tokens that carry loss; of pairs, those of both answers behind what the two begin with.
    pub target_tokens: u64,
    /// `tokens / seconds`
    pub tokens_per_second: f64,
    /// Duration.
    pub seconds: f64,
    /// Time for which the step had to wait for its rows, not part of its duration; absent in validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_wait_seconds: Option<f64>,
    /// The most memory the process has held so far; 0 where the system does not say.
    pub peak_rss_bytes: u64,
    /// What the model wrote on a sample of the validation rows; absent in training, and where there is no sample.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextMetrics>,
    /// How well pairs of answers are told apart; absent in training, and of objectives without pairs.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairMetrics>,
}

/// How well the held-out pairs of answers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairMetrics {
    /// Share of the pairs whose chosen answer is ahead.
    pub pair_accuracy: f64,
    /// Mean of how far it is ahead.
    pub pair_margin: f64,
    /// Of a cost model, share of the labelled answers whose cost has the sign of its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_accuracy: Option<f64>,
}

/// The file, open for appending.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl MetricsLog {
    /// Opens the file for a run that stands where the file had `bytes` bytes: later lines are steps that will be taken
    /// again, and are cut off.
    ///
    /// # Errors
    /// When the file cannot be opened or cut.
    pub fn open(path: &Path, bytes: u64) -> Result<Self> {
        let io = || TrainError::io("write", path);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(io())?;
        let length = file.metadata().map_err(io())?.len();
        // A shorter file lost lines that cannot be had again; the run itself is whole.
        if length < bytes {
            tracing::warn!(path = %path.display(), lost_bytes = bytes - length, "metrics of earlier steps are missing");
        }
        file.set_len(bytes.min(length)).map_err(io())?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            bytes: bytes.min(length),
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        let io = || TrainError::io("write", &self.path);
        let mut line = serde_json::to_vec(record).map_err(|error| io()(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(io())?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Brings the file to the disk, so that a checkpoint does not survive a power failure that its records do not.
    ///
    /// # Errors
    /// When the system says it could not.
    pub fn sync(&self) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.file.sync_data().map_err(TrainError::io("sync", &self.path))
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The most memory this process has held, in bytes; 0 where the system does not say.
pub fn peak_rss_bytes() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return 0;
    };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord {
            step,
            epoch: 0.5,
            split: Split::Train,
            stage: StageKind::Warmup,
            loss: 1.0,
            lr: Some(1e-4),
            grad_norm: Some(2.0),
            tokens: 10,
            target_tokens: 4,
            tokens_per_second: 5.0,
            seconds: 2.0,
            data_wait_seconds: Some(0.0),
            peak_rss_bytes: 0,
            text: None,
            pairs: None,
        }
    }

    #[test]
    fn text_metrics_are_fields_of_the_line_or_absent() {
        let with = StepRecord {
            text: Some(TextMetrics {
                copy_rate: 0.5,
                edit_ratio: 0.25,
                copy_retention: 1.0,
                exact_match: 0.125,
                eval_seconds: 2.0,
            }),
            ..record(1)
        };
        let line = serde_json::to_value(&with).unwrap();
        assert_eq!(
            (&line["copy_rate"], &line["stage"]),
            (&0.5.into(), &"warmup".into())
        );
        assert_eq!(serde_json::from_value::<StepRecord>(line).unwrap(), with);
        let line = serde_json::to_value(record(1)).unwrap();
        assert!(line.get("copy_rate").is_none() && line.get("text").is_none());
        assert_eq!(serde_json::from_value::<StepRecord>(line).unwrap(), record(1));
    }

    #[test]
    fn pairs_stand_in_the_record_where_there_are_any() {
        for sign_accuracy in [None, Some(0.25)] {
            let pairs = PairMetrics {
                pair_accuracy: 0.75,
                pair_margin: -0.5,
                sign_accuracy,
            };
            let with = StepRecord {
                pairs: Some(pairs),
                ..record(1)
            };
            let line = serde_json::to_value(&with).unwrap();
            assert_eq!(line["pair_accuracy"], 0.75);
            assert_eq!(line.get("sign_accuracy").is_some(), sign_accuracy.is_some());
            assert_eq!(serde_json::from_value::<StepRecord>(line).unwrap(), with);
        }
    }

    #[test]
    fn steps_after_the_checkpoint_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, 0).unwrap();
        log.append(&record(1)).unwrap();
        let at_checkpoint = log.bytes();
        log.append(&record(2)).unwrap();
        std::fs::write(
            &path,
            [std::fs::read(&path).unwrap(), b"{\"step\":3,".to_vec()].concat(),
        )
        .unwrap();
        let mut log = MetricsLog::open(&path, at_checkpoint).unwrap();
        log.append(&record(2)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<StepRecord>(line).unwrap().step)
            .collect();
        assert_eq!(steps, [1, 2]);
    }

    #[test]
    fn a_file_shorter_than_the_checkpoint_says_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, 1_000).unwrap();
        log.append(&record(7)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), log.bytes());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peak_memory_is_known() {
        assert!(peak_rss_bytes() > 1 << 20);
    }
}
