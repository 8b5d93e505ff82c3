//! A tiny model with its rows, and runs over them, shared by the tests of this crate.
#![allow(dead_code)]

pub mod writer;

use std::path::{Path, PathBuf};

use aligner_data::synthetic::CorrectionTask;
use aligner_train::{
    Event, Interrupter, Observer, Outcome, RunDir, RunOptions, Split, StepRecord, TrainConfig, WarmupChoice,
    fine_tune,
};

/// A tiny model, rows, and a configuration of twelve steps over them.
pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let task = CorrectionTask::new(5);
        let train = task.train(100);
        aligner_lab::tiny_model(&train, &lab.path("base"));
        aligner_lab::write_rows(&train, &lab.path("train.jsonl"));
        aligner_lab::write_rows(&task.held_out(10), &lab.path("valid.jsonl"));
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self, out: &str) -> TrainConfig {
        TrainConfig {
            model: self.path("base"),
            data: vec![self.path("train.jsonl")],
            valid: vec![self.path("valid.jsonl")],
            out: self.path(out),
            steps: Some(12),
            micro_batch: 4,
            accumulate: 2,
            lr: 5e-3,
            max_length: 256,
            save_every: 4,
            eval_every: 6,
            warmup: WarmupChoice::off(),
            ..TrainConfig::default()
        }
    }
}

/// Stops the run after a number of steps.
struct StopAfter {
    steps: u64,
    interrupter: Interrupter,
}

impl Observer for StopAfter {
    fn on_event(&mut self, event: &Event<'_>) {
        if let Event::Recorded(record) = event
            && record.split == Split::Train
            && record.step == self.steps
        {
            self.interrupter.stop(Some("test"));
        }
    }
}

pub fn stopped_after(steps: u64) -> RunOptions {
    let interrupter = Interrupter::new();
    let observer = StopAfter {
        steps,
        interrupter: interrupter.clone(),
    };
    RunOptions {
        observer: Some(Box::new(observer)),
        interrupter,
        ..RunOptions::default()
    }
}

pub fn records(run: &Path) -> Vec<StepRecord> {
    let text = std::fs::read_to_string(RunDir::new(run).metrics()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What must be equal to the last bit: steps, losses, rates, norms.
pub fn essence(run: &Path) -> Vec<String> {
    let bits = |value: Option<f64>| value.map(f64::to_bits);
    records(run)
        .iter()
        .map(|r| {
            format!(
                "{} {:?} {:?} {} {:?} {:?} {:?}",
                r.step,
                r.split,
                r.stage,
                r.loss.to_bits(),
                bits(r.lr),
                bits(r.grad_norm),
                r.text
                    .map(|text| (text.edit_ratio.to_bits(), text.exact_match.to_bits()))
            )
        })
        .collect()
}

pub fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).unwrap()
}

pub fn run(config: &TrainConfig) -> Outcome {
    fine_tune(config, RunOptions::default()).unwrap()
}
