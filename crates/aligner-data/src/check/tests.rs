//! Checks over whole files: rows that trigger, and rows that nearly do.

use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn rows(&self, name: &str, rows: &[Value]) -> PathBuf {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        self.write(name, lines.join("\n").as_bytes())
    }
}

fn row(question: &str, answer: &str, correction: &str) -> Value {
    json!({"question": question, "answer": answer, "correction": correction})
}

fn check(rows: &[Value]) -> CheckReport {
    let files = Files::new();
    check_files(&[files.rows("rows.jsonl", rows)], &CheckOptions::default()).unwrap()
}

fn codes(report: &CheckReport) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

/// A long text about a thing.
fn story(about: &str) -> String {
    format!(
        "Once there was a {about} that nobody in the village wanted, and so it stood behind the mill through three winters \
         until a child found it, carried it home over the frozen river, and put it on the sill of the kitchen window."
    )
}

#[test]
fn questions_that_differ_in_function_words_are_near_duplicates() {
    let report = check(&[
        row("What happens if you eat watermelon seeds?", "a", "b"),
        row("What happens to you if you eat watermelon seeds", "c", "d"),
        row("What happens if you eat pumpkin seeds?", "e", "f"),
        row("What happens if you eat watermelon seeds?", "g", "h"),
    ]);
    let near = &report.near_questions;
    assert_eq!(
        (near.distinct, near.clusters, near.in_clusters, near.extra),
        (3, 1, 2, 1)
    );
    let pair = &near.examples[0];
    assert_eq!((pair.first.row, pair.second.row, pair.similarity), (0, 1, 1.0));
    assert!(pair.second_text.contains("happens to you"), "{pair:?}");
    assert_eq!((report.repeated_questions, report.near_rows.extra), (1, 0));
}

#[test]
fn rows_are_near_duplicates_when_all_three_fields_are() {
    let twice = |one: &str, other: &str| format!("{} {}", story(one), story(other));
    let (answer, correction) = (twice("wheel", "cart"), twice("bell", "rope"));
    let report = check(&[
        row("Tell the story of it", &answer, &correction),
        row(
            "Tell the story of it",
            &answer.replacen("three", "four", 1),
            &correction.replacen("child", "boy", 1),
        ),
        // The correction is the same, the answer another: a row of its own.
        row("Tell the story of it", "I know none.", &correction),
    ]);
    let near = &report.near_rows;
    assert_eq!((near.distinct, near.clusters, near.extra), (3, 1, 1));
    assert!(
        near.examples[0].similarity < 1.0 && near.examples[0].similarity >= 0.8,
        "{near:?}"
    );
}

#[test]
fn near_duplicates_of_near_duplicates_are_one_group() {
    let texts: Vec<Value> = (0..40)
        .map(|at| {
            row(
                &format!("{} Number {at}?", story("clock")),
                "a",
                &format!("b {at}"),
            )
        })
        .collect();
    let near = check(&texts).near_questions;
    assert_eq!(
        (
            near.distinct,
            near.clusters,
            near.in_clusters,
            near.largest_cluster
        ),
        (40, 1, 40, 40)
    );
}

#[test]
fn a_leak_is_an_error_and_a_near_leak_a_warning() {
    let files = Files::new();
    let train = files.rows(
        "train.jsonl",
        &[
            row("Is the earth flat?", "Yes.", "No."),
            row("How far away is the moon tonight?", "10 km.", "About 384 400 km."),
            row("When was Ada born?", "1900.", "1815."),
        ],
    );
    let leaks = |valid: &[Value]| {
        let options = CheckOptions {
            valid: vec![files.rows("valid.jsonl", valid)],
            ..CheckOptions::default()
        };
        check_files(std::slice::from_ref(&train), &options).unwrap()
    };
    let report = leaks(&[
        row("is the EARTH flat", "yes!", "no"),
        row("Is the earth flat?", "It is.", "No, it is not."),
        row("How far away would the moon be tonight?", "5 km.", "Far."),
        row("Where was Ada born?", "Paris.", "London."),
    ]);
    let found = report.leaks.as_ref().unwrap();
    assert_eq!(
        (
            found.rows,
            found.equal_rows,
            found.equal_questions,
            found.near_questions
        ),
        (4, 1, 2, 1)
    );
    let pair = &found.equal_row_examples[0];
    assert!(pair.first.file.ends_with("train.jsonl") && pair.second.file.ends_with("valid.jsonl"));
    let near = &found.near_question_examples[0];
    assert_eq!((near.first.row, near.second.row), (1, 2));
    assert_eq!(codes(&report), ["leaked_rows", "leaked_questions", "near_leaks"]);
    assert!(report.fails(FailOn::Error) && !report.is_clean() && !report.fails(FailOn::Never));

    let report = leaks(&[row("Where was Ada born?", "Paris.", "London.")]);
    assert!(codes(&report).is_empty() && report.is_clean(), "{report}");
    let report = leaks(&[row("How far away would the moon be tonight?", "5 km.", "Far.")]);
    assert!(!report.fails(FailOn::Error) && report.fails(FailOn::Warning));
}

#[test]
fn a_conversation_leaks_only_with_its_earlier_turns() {
    let files = Files::new();
    let with = |first: &str| json!({"question": "And then?", "answer": "a", "correction": "b", "chat_history": [[first, "Yes."]]});
    let train = files.rows("train.jsonl", &[with("Did Ada come?")]);
    let valid = files.rows(
        "valid.jsonl",
        &[with("Did Ada come?"), with("Did the rain stop?")],
    );
    let options = CheckOptions {
        valid: vec![valid],
        ..CheckOptions::default()
    };
    let leaks = check_files(&[train], &options).unwrap().leaks.unwrap();
    assert_eq!(
        (leaks.rows, leaks.equal_questions, leaks.near_questions),
        (2, 1, 0)
    );
}

#[test]
fn identity_and_containment_are_counted_apart() {
    let report = check(&[
        row("q 1", "It is red.", "It is red."),
        row("q 2", "It is red.", "it  is red."),
        row("q 3", "It is red.", "It is red, and blue."),
        row("q 4", "It is red.", "It is blue."),
        row("q 5", "  ", "It is blue."),
    ]);
    let IdentityReport {
        exact,
        case_or_space_only,
        contains_answer,
        empty_answers,
    } = report.identity;
    assert_eq!(
        (exact, case_or_space_only, contains_answer, empty_answers),
        (1, 1, 1, 1)
    );
    assert_eq!(report.identical, 1);
    assert!(!codes(&report).contains(&"mostly_identity"));
}

#[test]
fn shares_are_warned_of_from_their_threshold_on() {
    let rows = |count: usize, special: fn(usize) -> Value| -> Vec<Value> {
        let plain = |at: usize| {
            row(
                &format!("Question number {at}?"),
                &format!("The answer is {at} or so."),
                &format!("It is {at} indeed."),
            )
        };
        (0..100)
            .map(|at| if at < count { special(at) } else { plain(at) })
            .collect()
    };
    let refusing: fn(usize) -> Value = |at| {
        row(
            &format!("Question number {at}?"),
            "It is so, see.",
            "I can't help with that.",
        )
    };
    assert!(codes(&check(&rows(6, refusing))).contains(&"refusals_added"));
    assert!(!codes(&check(&rows(5, refusing))).contains(&"refusals_added"));
    let same: fn(usize) -> Value = |at| {
        row(
            &format!("Question number {at}?"),
            &format!("It is {at}."),
            &format!("It is {at}."),
        )
    };
    assert!(codes(&check(&rows(51, same))).contains(&"mostly_identity"));
    assert!(!codes(&check(&rows(50, same))).contains(&"mostly_identity"));
    let cut: fn(usize) -> Value = |at| {
        row(
            &format!("Question number {at}?"),
            "It is so, see.",
            "First we boil the",
        )
    };
    assert!(codes(&check(&rows(2, cut))).contains(&"cut_off_corrections"));
    assert!(!codes(&check(&rows(1, cut))).contains(&"cut_off_corrections"));
    let twice: fn(usize) -> Value = |_| row("Question number x?", "It is so, see.", "It is not.");
    assert!(codes(&check(&rows(3, twice))).contains(&"duplicate_rows"));
    assert!(!codes(&check(&rows(2, twice))).contains(&"duplicate_rows"));
}

#[test]
fn benchmarks_are_found_in_each_field() {
    let files = Files::new();
    let benchmark = files.write(
        "benchmark.txt",
        format!("Is the earth flat?\n{}\n", story("lamp")).as_bytes(),
    );
    let rows = [
        row("Is the earth flat?", "Yes.", "No."),
        row("Tell me", "No.", &format!("Well: {}", story("lamp"))),
        row("Is the earth round?", "Yes.", "Nearly."),
    ];
    let options = CheckOptions {
        benchmarks: vec![benchmark],
        ..CheckOptions::default()
    };
    let report = check_files(&[files.rows("rows.jsonl", &rows)], &options).unwrap();
    let found = &report.benchmarks[0];
    assert_eq!(
        (
            found.texts,
            found.rows,
            found.in_question,
            found.in_answer,
            found.in_correction
        ),
        (2, 2, 1, 0, 1)
    );
    assert_eq!(
        found
            .examples
            .iter()
            .map(|example| example.place.row)
            .collect::<Vec<_>>(),
        [0, 1]
    );
    assert_eq!(codes(&report), ["benchmark_overlap"]);
    assert!(report.is_clean());
}

#[test]
fn files_are_reported_on_together_and_named_apart() {
    let files = Files::new();
    let one = files.rows("one.jsonl", &[row("Is it so?", "a", "b"), json!({"question": 3})]);
    let two = files.rows("two.jsonl", &[row("Is it so?", "a", "b")]);
    let report = check_files(&[one, two], &CheckOptions::default()).unwrap();
    assert_eq!((report.rows, report.bad_rows, report.duplicate_rows), (2, 1, 1));
    assert_eq!(
        report
            .files
            .iter()
            .map(|file| (file.rows, file.bad_rows))
            .collect::<Vec<_>>(),
        [(1, 1), (1, 0)]
    );
    assert!(
        report.first_bad_rows[0].contains("one.jsonl:2: row 1"),
        "{:?}",
        report.first_bad_rows
    );
    let text = report.to_string();
    assert!(text.contains("ERROR 1 rows cannot be read: "), "{text}");
}

#[test]
fn rows_without_a_pair_are_counted_apart_and_are_no_error() {
    let files = Files::new();
    let transcript = |question: &str, reply: &str| format!("\n\nHuman: {question}\n\nAssistant: {reply}");
    let hh = |asked: &str, other: &str| json!({"chosen": transcript(asked, "b"), "rejected": transcript(other, "a")});
    let mut rows = vec![hh("Is it so?", "Is it so?")];
    rows.extend((0..200).map(|_| hh("Is it so?", "Something else?")));
    let good = files.rows("hh.jsonl", &rows);
    let report = check_files(&[good], &CheckOptions::default()).unwrap();
    assert_eq!(
        (report.rows, report.bad_rows, report.unsuitable_rows),
        (1, 0, 200)
    );
    assert!(report.is_clean() && report.first_bad_rows.is_empty());
    assert!(
        report.to_string().contains("left out, without a pair  200"),
        "{report}"
    );
    rows.push(json!({"chosen": 3}));
    let bad = files.rows("bad.jsonl", &rows);
    let report = check_files(&[bad], &CheckOptions::default()).unwrap();
    assert_eq!((report.bad_rows, report.files[0].unsuitable_rows), (1, 200));
    assert_eq!(codes(&report), ["bad_rows"]);
    assert!(
        report.first_bad_rows[0].contains("row 201"),
        "{:?}",
        report.first_bad_rows
    );
}

#[test]
fn the_format_that_is_named_is_that_of_every_file() {
    let files = Files::new();
    let stream =
        json!({"question": "Is it so?", "prefix": "It is.", "last": "Surely.", "correction": "Hardly."});
    let paths =
        ["one.jsonl", "two.jsonl", "valid.jsonl"].map(|name| files.rows(name, std::slice::from_ref(&stream)));
    let options = CheckOptions {
        read: ReadOptions {
            format: Some("stream-prompt".parse().unwrap()),
            ..ReadOptions::default()
        },
        valid: vec![paths[2].clone()],
        ..CheckOptions::default()
    };
    let report = check_files(&paths[..2], &options).unwrap();
    let leaks = report.leaks.unwrap();
    assert_eq!((report.rows, leaks.equal_rows), (2, 1));
    assert!(
        leaks.equal_row_examples[0]
            .first_text
            .contains("Answer_Last_Sentence"),
        "{:?}",
        leaks.equal_row_examples
    );
}

#[test]
fn a_file_without_a_usable_row_is_an_error() {
    assert_eq!(
        codes(&check(&[json!({"question": "q"})])),
        ["no_rows", "bad_rows"]
    );
}

#[test]
fn portions_and_threads_change_nothing() {
    let rows: Vec<Value> = (0..1500)
        .map(|at| {
            row(
                &format!("{} {}", story("hat"), at % 700),
                &format!("answer {}", at % 3),
                &story(&at.to_string()),
            )
        })
        .collect();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let json = |report: CheckReport| {
        let mut report = serde_json::to_value(report).unwrap();
        // The folder's name is another one every time.
        report["files"] = Value::Null;
        let text = report.to_string();
        let parts: Vec<&str> = text
            .split('"')
            .filter(|part| !part.ends_with("rows.jsonl"))
            .collect();
        parts.concat()
    };
    assert_eq!(json(one.install(|| check(&rows))), json(check(&rows)));
}

/// Texts with everything that the checks look at.
fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<String>(),
        Just("I can't help".to_string()),
        Just("i’m sorry, ".to_string()),
        Just("##Answer:".to_string()),
        Just("â€™Ã".to_string()),
        Just("\nHuman: ".to_string()),
        Just("```\n".to_string()),
        Just("İß the, (".to_string()),
        Just("\u{fffd}\u{202e}\u{0}".to_string()),
        Just("one two three four five six seven ".to_string()),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(rows in prop::collection::vec((texts(), texts(), texts()), 1..8), benchmark in texts(), near in 0.0_f64..1.0, ngram in 0_usize..15) {
        let files = Files::new();
        let rows: Vec<Value> = rows.iter().map(|(q, a, c)| row(q, a, c)).collect();
        let path = files.rows("rows.jsonl", &rows);
        let options = CheckOptions {
            valid: vec![path.clone()],
            benchmarks: vec![files.write("benchmark", benchmark.replace('\0', " ").as_bytes()), path.clone()],
            near_threshold: near,
            ngram,
            ..CheckOptions::default()
        };
        let report = check_files(&[path], &options).unwrap();
        prop_assert_eq!(report.rows + report.bad_rows, rows.len() as u64);
        // What is in both files is always found.
        let leaks = report.leaks.as_ref().unwrap();
        prop_assert_eq!((leaks.rows, leaks.equal_rows, leaks.equal_questions), (report.rows, report.rows, report.rows));
        let refusals = &report.refusals;
        prop_assert_eq!(refusals.kept + refusals.removed + refusals.added + refusals.none, report.rows);
        prop_assert!(!report.to_string().is_empty() && serde_json::to_value(&report).unwrap().is_object());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let files = Files::new();
        let path = files.write("bytes", &bytes);
        let options = CheckOptions { benchmarks: vec![path.clone()], ..CheckOptions::default() };
        if let Ok(report) = check_files(&[path], &options) {
            prop_assert_eq!(report.rows, 0);
        }
    }
}

#[test]
fn a_zipped_array_is_read_like_lines() {
    let files = Files::new();
    let rows = json!([row("What is it?", "a b c", "d e f"), row("Who is it?", "g", "h")]);
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(rows.to_string().as_bytes()).unwrap();
    let report = check_files(
        &[files.write("rows.json.gz", &zip.finish().unwrap())],
        &CheckOptions::default(),
    )
    .unwrap();
    assert_eq!((report.rows, report.near_questions.distinct), (2, 2));
}
