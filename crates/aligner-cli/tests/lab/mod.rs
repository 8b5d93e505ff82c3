//! A folder with a tiny model and rows, and the command in it; shared by the tests of this crate.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aligner_data::synthetic::CorrectionTask;
use serde_json::Value;

/// A folder with a tiny model and rows.
pub struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let lab = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let task = CorrectionTask::new(5);
        let train = task.train(120);
        aligner_lab::tiny_model(&train, &lab.path("base"));
        aligner_lab::write_rows(&train, &lab.path("train.jsonl"));
        aligner_lab::write_rows(&task.held_out(6), &lab.path("few.jsonl"));
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aligner"));
        command
            .current_dir(self.dir.path())
            .args(arguments.split_whitespace());
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; gives its stdout.
    pub fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "aligner {arguments}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command that must fail with a status; gives its stderr.
    pub fn fails(&self, status: i32, arguments: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(status),
            "aligner {arguments}: {}",
            text(&output.stderr)
        );
        assert!(
            output.stdout.is_empty() || arguments.starts_with("data check"),
            "stdout is data"
        );
        text(&output.stderr)
    }
}

pub const TRAIN: &str = "train --model base --data train.jsonl --valid few.jsonl --steps 16 --micro-batch 8 --accumulate 1 \
                     --lr 5e-3 --max-length 256 --save-every 3";

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub fn losses(run: &Path) -> Vec<(u64, String, u64)> {
    lines(&std::fs::read_to_string(run.join("metrics.jsonl")).unwrap())
        .iter()
        .map(|line| {
            let split = line["split"].as_str().unwrap().to_string();
            (
                line["step"].as_u64().unwrap(),
                split,
                line["loss"].as_f64().unwrap().to_bits(),
            )
        })
        .collect()
}
