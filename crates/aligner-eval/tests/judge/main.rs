//! Judging against judges that run in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cost;
mod failures;
mod fake;
mod resume;
mod verdicts;

use std::path::PathBuf;
use std::time::Duration;

use aligner_eval::judge::JudgeConfig;
use aligner_eval::{Item, Outcome};

use fake::FakeJudge;

/// A pair. The answer has a length of its own, so that no two prompts are the same.
fn outcome(id: usize, answer: &str, output: &str) -> Outcome {
    Outcome {
        item: Item {
            id: format!("q{id}"),
            dataset: "riddles".into(),
            question: format!("What is number {id}?"),
            answer: answer.into(),
            upstream: "parrot".into(),
            ..Item::default()
        },
        output: output.into(),
        generator: "parrot+owl".into(),
        aligner: "owl".into(),
        ..Outcome::default()
    }
}

/// Pairs of which every third correction is longer, the same, or shorter.
fn outcomes(count: usize) -> Vec<Outcome> {
    let correction = |id: usize| match id % 3 {
        0 => "a longer answer than that",
        1 => "an  answer\n",
        _ => "short",
    };
    (0..count)
        .map(|id| {
            outcome(
                id,
                if id % 3 == 1 { "an  answer" } else { "an answer" },
                correction(id),
            )
        })
        .collect()
}

fn config(judge: &FakeJudge) -> JudgeConfig {
    let mut config = JudgeConfig::new(&judge.url, "fake");
    config.timeout = Duration::from_secs(20);
    config.first_wait = Duration::from_millis(1);
    config
}

/// A path in a directory that lasts as long as the guard.
fn cache() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.jsonl");
    (directory, path)
}
