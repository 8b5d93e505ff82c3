//! A folder with a tiny model and rows, and the command in it; shared by the tests of this crate.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use aligner_data::PromptTemplate;
use aligner_data::synthetic::{CorrectionTask, train_tokenizer};
use aligner_model::{CausalDecoder, DeviceSpec, LlamaShape, ModelConfig, save_dir};
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
        let base = lab.path("base");
        let tokenizer = train_tokenizer(&train, &PromptTemplate::default(), 320, &base).unwrap();
        let shape = LlamaShape {
            vocab_size: tokenizer.vocab_size(),
            hidden_size: 32,
            intermediate_size: 48,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            max_positions: 256,
        };
        let config = ModelConfig::llama(shape)
            .unwrap()
            .with_token_ids(None, tokenizer.eos_id());
        let decoder = CausalDecoder::random(&config, 9, &DeviceSpec::Cpu.open().unwrap()).unwrap();
        save_dir(&config, &decoder, &base).unwrap();
        for (name, rows) in [("train.jsonl", train), ("few.jsonl", task.held_out(6))] {
            let mut file = std::fs::File::create(lab.path(name)).unwrap();
            for row in rows {
                writeln!(file, "{}", serde_json::to_string(&row.raw).unwrap()).unwrap();
            }
        }
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
