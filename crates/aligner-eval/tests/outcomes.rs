//! Outcomes are written by runs that are killed, and read back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::Path;

use aligner_data::Turn;
use aligner_eval::outcomes::{OutcomeWriter, read, write_alpaca};
use aligner_eval::{Item, Outcome, References};
use serde_json::Value;

fn items() -> Vec<Item> {
    (1..=5)
        .map(|number| Item {
            id: format!("q{number}"),
            dataset: "sums".into(),
            question: format!("What is {number} + 1?\nSay \"why\"."),
            answer: format!("{number} ü"),
            upstream: "tiny".into(),
            category: (number == 2).then(|| "even".into()),
            chat_history: vec![Turn {
                question: "Hello".into(),
                answer: "Hi".into(),
            }],
            references: References {
                correct: vec![format!("{}", number + 1)],
                incorrect: Vec::new(),
            },
        })
        .collect()
}

fn aligners() -> Vec<String> {
    vec!["small".into(), "large".into()]
}

fn outcome(item: &Item, aligner: &str) -> Outcome {
    Outcome {
        item: item.clone(),
        output: format!("{} by {aligner}", item.answer),
        generator: format!("{}+{aligner}", item.upstream),
        aligner: aligner.into(),
        second_output: (item.id == "q3").then(|| "again".into()),
        is_cut: item.id == "q4",
        reference_nll: Some(0.1 + 0.2),
    }
}

/// Writes up to `most` rows; gives how many were there.
fn run(path: &Path, most: usize) -> usize {
    let (items, aligners) = (items(), aligners());
    let mut writer = OutcomeWriter::open(path, &items, &aligners).unwrap();
    let done = writer.done();
    for _ in 0..most {
        let Some((item, aligner)) = writer.next_planned() else {
            break;
        };
        writer.write(&outcome(item, aligner)).unwrap();
    }
    done
}

#[test]
fn a_run_that_is_killed_anywhere_leaves_the_bytes_of_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.jsonl");
    assert_eq!(run(&whole, usize::MAX), 0);
    let bytes = fs::read(&whole).unwrap();
    let path = dir.path().join("killed.jsonl");
    for cut in 0..bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let lines = bytes[..cut].iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(run(&path, usize::MAX), lines, "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "cut at {cut}");
    }
    assert_eq!(run(&path, 1), 10);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn rows_come_by_aligner_and_then_by_item() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcomes.jsonl");
    run(&path, 7);
    let (items, aligners) = (items(), aligners());
    let writer = OutcomeWriter::open(&path, &items, &aligners).unwrap();
    assert_eq!((writer.done(), writer.planned()), (7, 10));
    let pending: Vec<(&str, &str)> = writer
        .pending()
        .map(|(item, aligner)| (item.id.as_str(), aligner))
        .collect();
    assert_eq!(pending, [("q3", "large"), ("q4", "large"), ("q5", "large")]);
    // An Aligner more goes behind.
    drop(writer);
    let more = ["small".into(), "large".into(), "huge".into()];
    assert_eq!(
        OutcomeWriter::open(&path, &items, &more)
            .unwrap()
            .pending()
            .count(),
        8
    );
    assert!(
        OutcomeWriter::open(&dir.path().join("none"), &[], &more)
            .unwrap()
            .next_planned()
            .is_none()
    );
}

#[test]
fn outcomes_of_another_run_are_refused_by_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcomes.jsonl");
    run(&path, 10);
    let before = fs::read(&path).unwrap();
    let error = |items: &[Item], aligners: &[String]| {
        OutcomeWriter::open(&path, items, aligners)
            .unwrap_err()
            .to_string()
    };
    let mut other = items();
    other[2].answer = "another".into();
    let found = error(&other, &aligners());
    assert!(
        found.contains("row 3: its answer is \"3 ü\", where \"another\" is asked for"),
        "{found}"
    );
    assert!(found.contains("name another directory"), "{found}");
    let mut other = items();
    other[4].references.correct.clear();
    assert!(error(&other, &aligners()).contains("row 5: its history, category or references"));
    let found = error(&items(), &["small".into(), "huge".into()]);
    assert!(
        found.contains("row 6: its aligner is \"large\", where \"huge\""),
        "{found}"
    );
    assert!(error(&items(), &["small".into()]).contains("row 6: is one more than the 5"));
    assert_eq!(
        fs::read(&path).unwrap(),
        before,
        "a file that is refused stays as it is"
    );
}

#[test]
fn a_damaged_row_in_the_middle_is_named_and_nothing_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcomes.jsonl");
    run(&path, 3);
    let text = fs::read_to_string(&path).unwrap();
    let damaged = text.replacen("\"id\":\"q2\"", "\"id\":\"q2", 1);
    fs::write(&path, &damaged).unwrap();
    let error = OutcomeWriter::open(&path, &items(), &aligners())
        .unwrap_err()
        .to_string();
    assert!(error.contains("row 2: is damaged"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("row 2: is no outcome"), "{error}");
}

#[test]
fn only_the_next_outcome_is_written_and_only_numbers_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcomes.jsonl");
    let (items, aligners) = (items(), aligners());
    let mut writer = OutcomeWriter::open(&path, &items, &aligners).unwrap();
    assert!(writer.write(&outcome(&items[1], "small")).is_err());
    let mut first = outcome(&items[0], "small");
    first.reference_nll = Some(f64::NAN);
    let error = writer.write(&first).unwrap_err().to_string();
    assert!(error.contains("row 1: reference_nll is not finite"), "{error}");
    assert_eq!((writer.done(), fs::read(&path).unwrap().len()), (0, 0));
}

#[test]
fn two_processes_do_not_write_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcomes.jsonl");
    let (items, aligners) = (items(), aligners());
    let writer = OutcomeWriter::open(&path, &items, &aligners).unwrap();
    let error = OutcomeWriter::open(&path, &items, &aligners)
        .unwrap_err()
        .to_string();
    assert!(error.contains("another process"), "{error}");
    drop(writer);
    OutcomeWriter::open(&path, &items, &aligners).unwrap();
}

#[test]
fn what_was_written_is_read_and_repeated_rows_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcomes.jsonl");
    run(&path, 10);
    let outcomes = read(&path).unwrap();
    let planned = aligners().into_iter().flat_map(|aligner| {
        let of = move |item: Item| outcome(&item, &aligner);
        items().into_iter().map(of).collect::<Vec<_>>()
    });
    assert_eq!(outcomes, planned.collect::<Vec<_>>());
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{}\n", text.lines().nth(3).unwrap())).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(
        error.contains("row 11: ") && error.contains("\"q4\", as row 4 is"),
        "{error}"
    );
    fs::write(&path, &text[..text.len() - 5]).unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(
        error.contains("row 10: was cut off; run the evaluation again"),
        "{error}"
    );
}

#[test]
fn alpaca_eval_finds_its_columns() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model_outputs.json");
    let outcomes = [outcome(&items()[0], "small"), outcome(&items()[3], "small")];
    fs::write(&path, "old").unwrap();
    write_alpaca(dir.path(), &outcomes).unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(rows.len(), 2);
    for (column, value) in [
        ("dataset", "sums"),
        ("instruction", "What is 1 + 1?\nSay \"why\"."),
        ("output", "1 ü by small"),
        ("generator", "tiny+small"),
        ("original_output", "1 ü"),
        ("aligner", "small"),
    ] {
        assert_eq!(rows[0][column], value, "{column}");
    }
    assert_eq!(rows[1]["is_cut"], true);
    assert_eq!(
        serde_json::from_value::<Outcome>(rows[1].clone()).unwrap(),
        outcomes[1]
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no part is left");
    // AlpacaEval takes one generator at a time.
    let outcomes = [outcome(&items()[0], "small"), outcome(&items()[0], "a/b")];
    write_alpaca(dir.path(), &outcomes).unwrap();
    for (name, aligner) in [
        ("model_outputs.tiny+small.json", "small"),
        ("model_outputs.tiny+a-b-0.json", "a/b"),
    ] {
        let rows: Vec<Value> = serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap();
        assert_eq!(
            (rows.len(), &rows[0]["aligner"]),
            (1, &Value::from(aligner)),
            "{name}"
        );
    }
}
