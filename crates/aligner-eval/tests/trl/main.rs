//! TRL trains on the rows: each format is read by `datasets` and taken by its trainer for one step.
//!
//! `ALIGNER_TEST_TRL_PYTHON` names a Python with trl; without it the test says `skipped`. The script beside this file states
//! the versions it was run with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

use aligner_data::Turn;
use aligner_eval::bootstrap::{self, BootstrapFormat, BootstrapOptions};
use aligner_eval::{Item, Outcome};

/// Corrections of questions that are not alike, every other one with earlier turns if those are wanted.
fn outcomes(with_turns: bool) -> Vec<Outcome> {
    let things = [
        "bees", "tides", "glass", "iron", "snow", "paper", "chess", "bread", "salt", "opera", "comets",
        "ferns", "clocks", "silk", "amber", "kites",
    ];
    let outcome = |(at, thing): (usize, &&str)| Outcome {
        item: Item {
            id: at.to_string(),
            dataset: "things".into(),
            question: format!("What are {thing} good for?"),
            answer: format!("I do not care for {thing}."),
            upstream: "small-chat".into(),
            chat_history: (with_turns && at % 2 == 1)
                .then(|| Turn {
                    question: format!("Do you know {thing}?"),
                    answer: "A little.".into(),
                })
                .into_iter()
                .collect(),
            ..Item::default()
        },
        output: format!(
            "There is much to say of {thing}: \"{}\".\n{at} uses, at least.",
            thing.to_uppercase()
        ),
        aligner: "fixer".into(),
        ..Outcome::default()
    };
    things.iter().enumerate().map(outcome).collect()
}

fn write(root: &Path, format: BootstrapFormat) {
    let outcomes = outcomes(format != BootstrapFormat::SftText);
    let options = BootstrapOptions {
        format,
        valid_share: 0.3,
        seed: 1,
        ..BootstrapOptions::default()
    };
    let rows = bootstrap::rows(&outcomes, &[], &options).unwrap();
    // Batches of four that are not all there is.
    assert!(rows.train.len() > 6 && rows.valid.len() > 2, "{:?}", rows.counts);
    bootstrap::write(&rows, &root.join(format.name()), &[], false).unwrap();
}

#[test]
fn trl_trains_on_every_format() {
    let dir = tempfile::tempdir().unwrap();
    for format in BootstrapFormat::ALL {
        write(dir.path(), format);
    }
    let Some(python) = std::env::var_os("ALIGNER_TEST_TRL_PYTHON") else {
        println!("skipped: ALIGNER_TEST_TRL_PYTHON names no Python with trl");
        return;
    };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/trl/dry_run.py");
    let output = Command::new(python)
        .arg(script)
        .arg(dir.path())
        .envs([("HF_HUB_OFFLINE", "1"), ("CUDA_VISIBLE_DEVICES", "")])
        .env("HF_HOME", dir.path().join("hub"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.lines().last() == Some("ok"),
        "{said}\n{error}"
    );
}
