//! Rows to train an upstream on: which corrections, in which shape, from where.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod files;
mod filters;
mod formats;
mod rounds;

use std::collections::BTreeMap;
use std::path::Path;

use aligner_data::{AlignerManifest, Fields, PromptTemplate, ReadOptions, RowReader, Turn};
use aligner_eval::bootstrap::{
    self, BootstrapFormat, BootstrapManifest, BootstrapOptions, Counts, Filters, HashedFile, Licences,
    Reason, Rows, Upstreams,
};
use aligner_eval::{Item, Outcome, ScoreKind, Scored, facts, outcomes, scores};
use serde_json::{Value, json};

fn outcome(id: &str, question: &str, answer: &str, output: &str) -> Outcome {
    Outcome {
        item: Item {
            id: id.into(),
            dataset: "own".into(),
            question: question.into(),
            answer: answer.into(),
            upstream: "small-chat".into(),
            ..Item::default()
        },
        output: output.into(),
        generator: "small-chat+fixer".into(),
        aligner: "fixer".into(),
        ..Outcome::default()
    }
}

fn scored(id: &str, kind: ScoreKind, original: f64, output: f64) -> Scored {
    Scored {
        id: id.into(),
        dataset: "own".into(),
        upstream: "small-chat".into(),
        aligner: "fixer".into(),
        fingerprint: String::new(),
        kind,
        original,
        output,
        scorer: "scales".into(),
    }
}

/// The scores as those of the texts that these outcomes have.
fn of(outcomes: &[Outcome], scored: &[Scored]) -> Vec<Scored> {
    let mut scored = scored.to_vec();
    for row in &mut scored {
        let outcome = outcomes.iter().find(|outcome| outcome.item.id == row.id);
        row.fingerprint = outcome.map(Outcome::fingerprint).unwrap_or_default();
    }
    scored
}

fn turn(question: &str, answer: &str) -> Turn {
    Turn {
        question: question.into(),
        answer: answer.into(),
    }
}

/// Four good corrections of questions that are not alike.
fn four() -> Vec<Outcome> {
    let mut four = vec![
        outcome("1", "Capital of Italy?", "Milan.", "Rome."),
        outcome("2", "Who wrote Emma?", "Emma Woodhouse did.", "Jane Austen did."),
        outcome("3", "How many legs has a spider?", "Six.", "Eight."),
        outcome("4", "And of which country?", "Spain.", "Of Portugal."),
    ];
    four[3].item.chat_history = vec![turn("Is Lisbon a capital?", "Yes.")];
    four
}

fn with_format(format: BootstrapFormat) -> BootstrapOptions {
    BootstrapOptions {
        format,
        ..BootstrapOptions::default()
    }
}

fn with_filters(filters: Filters) -> BootstrapOptions {
    BootstrapOptions {
        filters,
        ..BootstrapOptions::default()
    }
}

fn ids(rows: &Rows<'_>) -> Vec<String> {
    rows.train.iter().map(|outcome| outcome.item.id.clone()).collect()
}

fn dropped(counts: &Counts) -> Vec<(Reason, u64)> {
    counts
        .dropped
        .iter()
        .map(|(reason, count)| (*reason, *count))
        .collect()
}

fn error(outcomes: &[Outcome], scored: &[Scored], options: &BootstrapOptions) -> String {
    bootstrap::rows(outcomes, &of(outcomes, scored), options)
        .unwrap_err()
        .to_string()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The rows that are written.
fn written(outcomes: &[Outcome], format: BootstrapFormat) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let rows = bootstrap::rows(outcomes, &[], &with_format(format)).unwrap();
    bootstrap::write(&rows, dir.path(), &[], false).unwrap();
    lines(&dir.path().join("train.jsonl"))
}
