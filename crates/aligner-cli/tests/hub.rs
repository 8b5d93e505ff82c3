//! `--model org/name` as a user runs it, from a Hub on this machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The Hub that aligner-hub is tested with.
#[path = "../../aligner-hub/tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use aligner_data::synthetic::CorrectionTask;
use common::{Access, COMMIT, Fault, Server, sha256};

const SCORE: &str = "score --model org/tiny --template correction --input rows.jsonl";

/// A folder with rows, and a Hub with a model.
struct Lab {
    dir: tempfile::TempDir,
    server: Server,
    weights: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let task = CorrectionTask::new(5);
        let train = task.train(60);
        let base = dir.path().join("made");
        aligner_lab::tiny_model(&train, &base);
        aligner_lab::write_rows(&task.held_out(3), &dir.path().join("rows.jsonl"));
        aligner_lab::write_rows(&train, &dir.path().join("train.jsonl"));
        let files: Vec<(String, Vec<u8>)> = std::fs::read_dir(&base)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    std::fs::read(entry.path()).unwrap(),
                )
            })
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        let weights = std::fs::read(base.join("model.safetensors")).unwrap();
        Self {
            server: Server::start("org/tiny", &files),
            dir,
            weights,
        }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aligner"));
        command
            .current_dir(self.dir.path())
            .args(arguments.split_whitespace())
            .stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().to_ascii_uppercase();
            if ["HF_", "HUGGING", "TRANSFORMERS_"]
                .iter()
                .any(|start| name.starts_with(start))
                || name.ends_with("_PROXY")
            {
                command.env_remove(&name).env_remove(name.to_ascii_lowercase());
            }
        }
        command
            .env("HF_ENDPOINT", self.server.endpoint())
            .env("HF_HOME", self.dir.path().join("home"));
        command
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("home/hub/models--org--tiny")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_model_of_the_hub_is_scored_with_and_without_the_hub() {
    let lab = Lab::new();
    let here = lab.command(&SCORE.replace("org/tiny", "made")).output().unwrap();
    let first = lab.command(SCORE).output().unwrap();
    assert_eq!(ok(&first), ok(&here));
    assert_eq!(ok(&first).lines().count(), 3);
    assert!(
        first.stderr.is_empty(),
        "no bar without a terminal: {}",
        text(&first.stderr)
    );

    let mut offline = lab.command(SCORE);
    offline.env("HF_HUB_OFFLINE", "1");
    let mut other = lab.command(&SCORE.replace("tiny", "other"));
    other.env("HF_HUB_OFFLINE", "1");
    drop(lab.server);
    assert_eq!(ok(&offline.output().unwrap()), ok(&first));
    let missing = other.output().unwrap();
    let said = text(&missing.stderr);
    assert_eq!(missing.status.code(), Some(1), "{said}");
    for part in [
        "HF_HUB_OFFLINE",
        "config.json of org/other",
        "no org/other on this machine",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_killed_download_goes_on() {
    let lab = Lab::new();
    let half = lab.weights.len() / 2;
    lab.server.fail("/cdn/model.safetensors", Fault::Hang(half));
    let mut child = lab.command(SCORE).stdout(Stdio::null()).spawn().unwrap();
    let part = lab
        .repo()
        .join(format!("blobs/{}.aligner.incomplete", sha256(&lab.weights)));
    let started = Instant::now();
    let there = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    while there(&part) < half as u64 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the download does not come"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lab.server.take_seen();
    ok(&lab.command(SCORE).output().unwrap());
    let seen = lab.server.take_seen();
    let ranges: Vec<_> = seen
        .iter()
        .filter(|seen| seen.at_cdn)
        .map(|seen| seen.header("range"))
        .collect();
    assert_eq!(ranges, [Some(format!("bytes={half}-").as_str())]);
    let fetched = lab
        .repo()
        .join("snapshots")
        .join(COMMIT)
        .join("model.safetensors");
    assert!(std::fs::read(fetched).unwrap() == lab.weights);
}

#[test]
fn the_token_is_never_shown() {
    let lab = Lab::new();
    lab.server.set_access(Access::Gated("hf_right".into()));
    let refused = lab.command(SCORE).output().unwrap();
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("HF_TOKEN") && said.contains("/org/tiny"), "{said}");
    for (token, log) in [
        ("hf_right", "trace"),
        ("hf_wrong", "trace"),
        ("hf_right", "debug,ureq=trace, ureq::util=trace,ureq_proto=trace"),
        ("hf_right", ""),
    ] {
        let mut command = lab.command(SCORE);
        let output = command
            .env("HF_TOKEN", token)
            .env("RUST_LOG", log)
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.success(), token == "hf_right", "{said}");
        // The client dumps requests byte by byte, sixteen in a row.
        for part in [
            token,
            "hf_",
            "6866 5f",
            "68 665f",
            "Authorization",
            "authorization",
        ] {
            assert!(!said.contains(part), "RUST_LOG={log:?} shows {part}");
        }
        let _ = std::fs::remove_dir_all(lab.repo());
    }
}

#[test]
fn training_notes_the_commit_it_started_from() {
    let lab = Lab::new();
    let train =
        "train --model org/tiny --data train.jsonl --steps 1 --micro-batch 2 --accumulate 1 --max-length 256";
    let made = ok(&lab.command(train).output().unwrap());
    assert!(made.trim().contains("runs/tiny/"), "{made}");
    let manifest = std::fs::read_to_string(lab.dir.path().join("runs/tiny/final/aligner.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["base_model"], format!("org/tiny@{COMMIT}"));
}

#[test]
fn data_commands_fetch_no_weights_and_typos_are_told() {
    let lab = Lab::new();
    ok(&lab
        .command("data check rows.jsonl --model org/tiny@main")
        .output()
        .unwrap());
    ok(&lab
        .command("data show rows.jsonl --model org/tiny")
        .output()
        .unwrap());
    assert!(
        lab.server
            .take_seen()
            .iter()
            .all(|seen| !seen.path.ends_with(".safetensors"))
    );
    for (model, part) in [
        ("org/tyni", "the repository org/tyni was not found"),
        ("org/tiny@v2", "revision v2 of org/tiny"),
        ("org/tiny@../x", "neither a branch, a tag nor a commit"),
        ("no/such/dir", "no model directory"),
    ] {
        let output = lab.command(&SCORE.replace("org/tiny", model)).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(part), "{said}");
    }
}
