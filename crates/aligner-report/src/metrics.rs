//! `metrics.jsonl` as curves and sums.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::lines::objects;
use crate::series::Series;

/// Curves that are kept; a file with more kinds of numbers than this is not one of ours.
const MOST_SERIES: usize = 64;
const MOST_STAGES: usize = 32;
/// Validations that are listed.
const LISTED: usize = 12;

/// What the records of a run say.
#[derive(Debug, Default)]
pub struct Metrics {
    series: BTreeMap<(String, String), Series>,
    /// Where each stage begins, and what it is called.
    pub stages: Vec<(f64, String)>,
    /// The last validations, as they were recorded.
    pub validations: VecDeque<Map<String, Value>>,
    /// How many there were.
    pub validation_count: u64,
    /// The lowest validation loss and its step.
    pub best: Option<(f64, u64)>,
    /// The last step.
    pub step: u64,
    /// Passes over the rows.
    pub epoch: f64,
    /// Tokens of all training steps.
    pub tokens: u64,
    /// Time of all training steps.
    pub seconds: f64,
    /// The most memory.
    pub peak_bytes: f64,
    /// Lines that could not be read.
    pub damaged: u64,
}

impl Metrics {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let mut metrics = Self::default();
        let mut foreign = 0;
        let damaged = objects(path, |record| foreign += u64::from(!metrics.take(record)))?;
        metrics.damaged = damaged + foreign;
        Ok(metrics)
    }

    /// Takes a record; `false`: it is none.
    fn take(&mut self, record: Map<String, Value>) -> bool {
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let number = |key: &str| record.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let Some(step) = record.get("step").and_then(Value::as_u64) else {
            return false;
        };
        let split = text("split").unwrap_or("train").to_string();
        self.step = self.step.max(step);
        self.peak_bytes = self.peak_bytes.max(number("peak_rss_bytes"));
        self.stage(step, record.get("stage"));
        for (name, value) in &record {
            if let (true, Some(value)) = (name != "step", value.as_f64()) {
                let key = (split.clone(), name.clone());
                if self.series.len() < MOST_SERIES || self.series.contains_key(&key) {
                    self.series.entry(key).or_default().push(step as f64, value);
                }
            }
        }
        if split == "train" {
            self.epoch = number("epoch");
            self.tokens += number("tokens") as u64;
            self.seconds += number("seconds");
        } else if split == "valid" {
            let loss = record.get("loss").and_then(Value::as_f64);
            if let Some(loss) = loss.filter(|loss| self.best.is_none_or(|(best, _)| *loss < best)) {
                self.best = Some((loss, step));
            }
            self.validation_count += 1;
            if self.validations.len() == LISTED {
                self.validations.pop_front();
            }
            self.validations.push_back(record);
        }
        true
    }

    fn stage(&mut self, step: u64, stage: Option<&Value>) {
        let name = match stage {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return,
        };
        let is_new = self.stages.last().is_none_or(|(_, last)| *last != name);
        if is_new && self.stages.len() < MOST_STAGES {
            self.stages.push((step as f64, name));
        }
    }

    /// A curve; nothing where there is none.
    pub fn series(&self, split: &str, name: &str) -> Option<&Series> {
        let series = self.series.get(&(split.to_string(), name.to_string()));
        series.filter(|series| !series.is_empty())
    }

    /// All curves.
    pub fn all(&self) -> impl Iterator<Item = (&str, &str, &Series)> {
        let all = self.series.iter();
        all.map(|((split, name), series)| (split.as_str(), name.as_str(), series))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_curves_stages_and_sums() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(
            &path,
            r#"{"step":0,"split":"valid","stage":"warmup","loss":4.0}
{"step":1,"split":"train","stage":"warmup","loss":3.0,"tokens":10,"seconds":0.5,"novel":7,"epoch":0.1}
nonsense
{"no":"step"}
{"step":2,"split":"train","stage":"correction","loss":2.0,"tokens":12,"seconds":0.5,"epoch":0.2}
{"step":2,"split":"valid","stage":"correction","loss":2.5,"copy_rate":0.25,"peak_rss_bytes":5}
"#,
        )
        .unwrap();
        let metrics = Metrics::read(&path).unwrap();
        assert_eq!(
            metrics.series("train", "loss").unwrap().points(),
            [(1.0, 3.0), (2.0, 2.0)]
        );
        assert_eq!(metrics.series("train", "novel").unwrap().last(), Some(7.0));
        assert!(metrics.series("train", "copy_rate").is_none());
        assert_eq!(
            metrics.stages,
            [(0.0, "warmup".to_string()), (2.0, "correction".to_string())]
        );
        assert_eq!(
            (metrics.step, metrics.tokens, metrics.seconds, metrics.damaged),
            (2, 22, 1.0, 2)
        );
        assert_eq!(
            (metrics.best, metrics.validation_count, metrics.epoch),
            (Some((2.5, 2)), 2, 0.2)
        );
    }
}
