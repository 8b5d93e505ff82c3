//! Rows as data sets are published: what becomes question, answer, correction and earlier turns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod noise;
mod preferences;
mod tables;

use std::io::Read;
use std::path::{Path, PathBuf};

use aligner_data::{
    DataError, Fields, Format, OnBadRow, Prefer, PromptTemplate, ReadOptions, Record, RowReader,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn pair() -> ReadOptions {
    ReadOptions {
        fields: Fields::Pair,
        ..ReadOptions::default()
    }
}

/// Rows that an upstream is taught by.
fn completion() -> ReadOptions {
    ReadOptions {
        fields: Fields::Completion,
        ..ReadOptions::default()
    }
}

fn mapped(columns: &str) -> ReadOptions {
    ReadOptions {
        columns: columns.parse().unwrap(),
        ..ReadOptions::default()
    }
}

fn named(format: Format) -> ReadOptions {
    ReadOptions {
        format: Some(format),
        ..ReadOptions::default()
    }
}

/// What was read, the format, and the reasons of the rows that were left out.
struct Outcome {
    records: Vec<Record>,
    format: Option<Format>,
    reasons: Vec<String>,
}

fn read(rows: &[Value], options: ReadOptions) -> Result<Outcome, DataError> {
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    read_text("rows.jsonl", &lines.join("\n"), options)
}

fn read_text(name: &str, text: &str, options: ReadOptions) -> Result<Outcome, DataError> {
    let mut reader = RowReader::from_reader(name, text.as_bytes(), options)?;
    let records = reader.by_ref().collect::<Result<_, _>>()?;
    Ok(Outcome {
        records,
        format: reader.format()?,
        reasons: reader
            .skipped()
            .first()
            .iter()
            .map(|error| error.reason.clone())
            .collect(),
    })
}

/// The only record of the rows.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/parquet")
        .join(name)
}

fn one(rows: &[Value], options: ReadOptions, format: Format) -> Record {
    let mut outcome = read(rows, options).unwrap();
    assert_eq!(outcome.format, Some(format));
    assert_eq!(outcome.records.len(), 1, "{:?}", outcome.reasons);
    outcome.records.remove(0)
}

/// Question, answer, correction, and the earlier turns as pairs.
fn texts(record: &Record) -> Value {
    let turns: Vec<Value> = record
        .chat_history
        .iter()
        .map(|turn| json!([turn.question, turn.answer]))
        .collect();
    json!([record.question, record.answer, record.correction, turns])
}

#[test]
fn hh_rlhf_shares_all_but_the_last_reply() {
    let chosen = "\n\nHuman: a\n\nAssistant: x\n\nHuman: b\nc\n\nAssistant: No. ";
    let rejected = "\n\nHuman: a\n\nAssistant: x\n\nHuman: b\nc\n\nAssistant: Yes.\n\n1. So.";
    let row = json!({"chosen": chosen, "rejected": rejected});
    let record = one(std::slice::from_ref(&row), ReadOptions::default(), Format::HhRlhf);
    assert_eq!(
        texts(&record),
        json!(["b\nc", "Yes.\n\n1. So.", "No.", [["a", "x"]]])
    );
    assert_eq!(Value::Object(record.raw), row);
}

#[test]
fn hh_rlhf_rows_without_a_pair_are_left_out_with_a_reason_whatever_the_policy() {
    let row = |chosen: &str, rejected: &str| json!({"chosen": chosen, "rejected": rejected});
    let start = "\n\nHuman: a\n\nAssistant:";
    let rows = [
        row(&format!("{start} x"), &format!("{start} y")),
        row("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: x"),
        row(
            &format!("{start} x\n\nHuman: b\n\nAssistant: y"),
            &format!("{start} z"),
        ),
        row(&format!("{start} "), &format!("{start} y")),
        row(
            &format!("{start} x\n\nAssistant: y"),
            &format!("{start} x\n\nAssistant: z"),
        ),
    ];
    let outcome = read(&rows, ReadOptions::default()).unwrap();
    assert_eq!(outcome.records.len(), 1);
    let parts = [
        "differ before",
        "differ before",
        "is empty",
        "does not follow a question",
    ];
    assert_eq!(outcome.reasons.len(), parts.len());
    for (reason, part) in outcome.reasons.iter().zip(parts) {
        assert!(reason.contains(part), "{reason}");
    }
    // What is no transcript at all is a bad row.
    let rows = [rows[0].clone(), row("x", "y")];
    assert!(matches!(
        read(&rows, ReadOptions::default()),
        Err(DataError::BadRow(_))
    ));
}

#[test]
fn hh_rlhf_replies_end_where_the_user_goes_on() {
    let start = "\n\nHuman: a\n\nAssistant:";
    let record = one(
        &[json!({"chosen": format!("{start} x\n\nHuman: b\n\nHuman: c"), "rejected": format!("{start} y")})],
        ReadOptions::default(),
        Format::HhRlhf,
    );
    assert_eq!(texts(&record), json!(["a", "y", "x", []]));
    let empty = json!({"chosen": format!("{start} x"), "rejected": format!("{start}\n\nHuman: b")});
    let outcome = read(&[empty], ReadOptions::default()).unwrap();
    assert_eq!(outcome.reasons, ["the last reply of `rejected` is empty"]);
    // Replies in a row are one, but for the last, before which there has to be a question.
    let turns = format!("{start} x\n\nAssistant: y\n\nHuman: b\n\nAssistant:");
    let record = one(
        &[json!({"chosen": format!("{turns} 1"), "rejected": format!("{turns} 2")})],
        ReadOptions::default(),
        Format::HhRlhf,
    );
    assert_eq!(texts(&record), json!(["b", "2", "1", [["a", "x\n\ny"]]]));
}

#[test]
fn safe_rlhf_prefers_what_is_asked_for() {
    let row = json!({
        "prompt": "p", "response_0": "kind", "response_1": "useful", "is_response_0_safe": true,
        "is_response_1_safe": false, "better_response_id": 1, "safer_response_id": 0,
    });
    let record = one(
        std::slice::from_ref(&row),
        ReadOptions::default(),
        Format::SafeRlhf,
    );
    assert_eq!(texts(&record), json!(["p", "useful", "kind", []]));
    let better = ReadOptions {
        prefer: Prefer::Better,
        ..ReadOptions::default()
    };
    let record = one(std::slice::from_ref(&row), better, Format::SafeRlhf);
    assert_eq!(texts(&record), json!(["p", "kind", "useful", []]));
    let mut undecided = row.clone();
    undecided["safer_response_id"] = json!(-1);
    let outcome = read(&[undecided], ReadOptions::default()).unwrap();
    assert_eq!(outcome.reasons, ["`safer_response_id` names neither response"]);
    let mut without = row;
    without.as_object_mut().unwrap().remove("safer_response_id");
    let Err(error) = read(&[without], ReadOptions::default()) else {
        panic!()
    };
    assert!(error.to_string().contains("--prefer"), "{error}");
}

fn beaver(prompt: &str, response: &str, is_safe: bool) -> Value {
    json!({"prompt": prompt, "response": response, "category": {"hate": !is_safe}, "is_safe": is_safe})
}

#[test]
fn beavertails_pairs_unsafe_responses_with_safe_ones_of_the_same_prompt() {
    let rows = [
        beaver("p", "bad 1", false),
        beaver("p", "good 1", true),
        beaver("p", "bad 2", false),
        beaver("p", "good 2", true),
        beaver("p", "bad 3", false),
        beaver("p", "bad 1", false),
        beaver("p", "disputed", false),
        beaver("p", "disputed", true),
        beaver("q", "only bad", false),
        beaver("r", "only good", true),
    ];
    let outcome = read(&rows, ReadOptions::default()).unwrap();
    assert_eq!(outcome.format, Some(Format::BeaverTails));
    let got: Vec<Value> = outcome.records.iter().map(texts).collect();
    assert_eq!(
        got,
        [
            json!(["p", "bad 1", "good 1", []]),
            json!(["p", "bad 2", "good 2", []]),
            json!(["p", "bad 3", "good 1", []]),
        ]
    );
    assert_eq!(outcome.records[1].origin.row, 2);
    assert_eq!(Value::Object(outcome.records[1].raw.clone()), rows[2]);
    let parts = ["there before", "in another", "in another", "no safe", "no unsafe"];
    assert_eq!(outcome.reasons.len(), parts.len(), "{:?}", outcome.reasons);
    for (reason, part) in outcome.reasons.iter().zip(parts) {
        assert!(reason.contains(part), "{reason}");
    }
    // As rows to be corrected they are taken one by one.
    assert_eq!(read(&rows, pair()).unwrap().records.len(), rows.len());
}

#[test]
fn what_is_labelled_as_bad_is_not_to_be_written() {
    // The safe response is written, and those without one are left out.
    let rows = [
        beaver("p", "bad", false),
        beaver("p", "good", true),
        beaver("q", "worse", false),
    ];
    let outcome = read(&rows, completion()).unwrap();
    assert_eq!(texts(&outcome.records[0]), json!(["p", "bad", "good", []]));
    assert_eq!((outcome.records.len(), outcome.reasons.len()), (1, 1));

    let pairs = |safe: bool| {
        json!({"prompt": "p", "response_0": "x", "response_1": "y", "safer_response_id": 1, "is_response_0_safe": false,
               "is_response_1_safe": safe})
    };
    let outcome = read(&[pairs(true), pairs(false)], completion()).unwrap();
    assert_eq!(texts(&outcome.records[0]), json!(["p", "x", "y", []]));
    assert_eq!(outcome.records.len(), 1);
    assert!(
        outcome.reasons[0].contains("`is_response_1_safe` is false"),
        "{:?}",
        outcome.reasons
    );
    assert_eq!(
        read(&[pairs(false)], ReadOptions::default())
            .unwrap()
            .records
            .len(),
        1
    );

    let kto =
        |label: Value, text: &str| json!({"prompt": "p", "completion": text, "label": label, "fix": "z"});
    let rows = [
        kto(false.into(), "bad"),
        kto(true.into(), "good"),
        kto("False".into(), "bad"),
        kto(Value::Null, "unlabelled"),
        kto(true.into(), " "),
    ];
    let outcome = read(&rows, completion()).unwrap();
    let answers: Vec<&str> = outcome.records.iter().map(|record| &*record.answer).collect();
    assert_eq!(answers, ["good", "unlabelled"]);
    assert_eq!(outcome.reasons.len(), 3);
    for (reason, part) in outcome.reasons.iter().zip(["`label`", "`label`", "is empty"]) {
        assert!(reason.contains(part), "{reason}");
    }
    // They can be corrected, and where a correction is there it is written.
    assert_eq!(read(&rows, pair()).unwrap().records.len(), 5);
    let corrected = ReadOptions {
        fields: Fields::Completion,
        ..mapped("correction=fix")
    };
    assert_eq!(read(&rows, corrected).unwrap().records.len(), 5);
}

#[test]
fn a_run_of_one_prompt_that_does_not_end_is_paired_piece_by_piece() {
    let rows: Vec<Value> = (0..2000)
        .map(|row| beaver("p", &format!("response {row}"), row % 2 == 0))
        .collect();
    let outcome = read(&rows, ReadOptions::default()).unwrap();
    assert_eq!(outcome.records.len(), 1000);
    let distance = outcome.records.iter().map(|record| {
        let correction = record.correction.as_deref().unwrap().rsplit_once(' ').unwrap().1;
        correction.parse::<u64>().unwrap().abs_diff(record.origin.row)
    });
    assert!(distance.max().unwrap() < 512);
}

#[test]
fn alpaca_has_one_answer_unless_a_second_column_is_named() {
    let row = json!({"instruction": "Add.", "input": "1, 2", "output": "4", "better": "3"});
    let record = one(std::slice::from_ref(&row), pair(), Format::Alpaca);
    assert_eq!(texts(&record), json!(["Add.\n\n1, 2", "4", null, []]));
    let record = one(
        std::slice::from_ref(&row),
        mapped("correction=better"),
        Format::Alpaca,
    );
    assert_eq!(texts(&record), json!(["Add.\n\n1, 2", "4", "3", []]));
    let swapped = mapped("answer=better,correction=output");
    assert_eq!(
        texts(&one(std::slice::from_ref(&row), swapped, Format::Alpaca)),
        json!(["Add.\n\n1, 2", "3", "4", []])
    );
    let Err(error) = read(&[row], ReadOptions::default()) else {
        panic!()
    };
    for part in [
        "has no correction",
        "alpaca",
        "--columns correction=",
        "--identity",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let row = json!({"instruction": "b", "input": "", "output": "y", "history": [["a", "x"]], "system": "s"});
    let record = one(&[row], pair(), Format::Alpaca);
    assert_eq!(texts(&record), json!(["b", "y", null, [["s\n\na", "x"]]]));
}

#[test]
fn chats_answer_with_their_last_reply() {
    let messages = json!([
        {"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "x"},
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "c"},
    ]);
    let record = one(&[json!({"messages": messages})], pair(), Format::Messages);
    let want = json!(["b", "y", null, [["s\n\na", "x"]]]);
    assert_eq!(texts(&record), want);
    let from = json!({"system": "s", "conversations": [
        {"from": "human", "value": "a"}, {"from": "gpt", "value": "x"},
        {"from": "human", "value": "b"}, {"from": "gpt", "value": "y"},
    ]});
    assert_eq!(texts(&one(&[from], pair(), Format::ShareGpt)), want);
    // As Arrow holds a list of a struct's fields.
    for (lists, format) in [
        (
            json!({"messages": {"role": ["user", "assistant"], "content": ["a", "x"]}}),
            Format::Messages,
        ),
        (
            json!({"conversations": {"from": ["human", "gpt"], "value": ["a", "x"]}}),
            Format::ShareGpt,
        ),
    ] {
        assert_eq!(texts(&one(&[lists], pair(), format)), json!(["a", "x", null, []]));
    }
    let better = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}], "fix": "z"});
    let record = one(&[better], mapped("correction=fix"), Format::Messages);
    assert_eq!(texts(&record), json!(["a", "x", "z", []]));
}

#[test]
fn chats_that_no_record_can_hold_are_left_out_with_a_reason() {
    let chat = |messages: Value| json!({"messages": messages});
    let rows = [
        chat(json!([{"role": "user", "content": "a"}])),
        chat(json!([{"role": "assistant", "content": "x"}, {"role": "user", "content": "a"}])),
        chat(json!([{"role": "user", "content": "a"}, {"role": "tool", "content": "7"}])),
        chat(
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": []}]),
        ),
    ];
    let outcome = read(&rows, pair()).unwrap();
    assert_eq!(outcome.records.len(), 0);
    let parts = [
        "no question in it is answered",
        "begins with the assistant",
        "\"tool\"",
        "has no text",
    ];
    for (reason, part) in outcome.reasons.iter().zip(parts) {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(read(&[chat(json!("x"))], pair()).is_err());
}

#[test]
fn prompt_and_completion() {
    let row = json!({"prompt": "The sky is", "completion": " blue."});
    assert_eq!(
        texts(&one(&[row], pair(), Format::PromptCompletion)),
        json!(["The sky is", "blue.", null, []])
    );
    let row = json!({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "x"}]});
    assert_eq!(
        texts(&one(&[row], pair(), Format::PromptCompletion)),
        json!(["a", "x", null, []])
    );
}

#[test]
fn stream_aligner_rows_as_whole_answers_and_in_the_published_prompt() {
    let row = json!({"question": "Is it safe?", "prefix": "It is.", "last": "Drink it.", "correction": "Do not drink it."});
    let record = one(
        std::slice::from_ref(&row),
        ReadOptions::default(),
        Format::StreamAligner,
    );
    assert_eq!(
        texts(&record),
        json!(["Is it safe?", "It is. Drink it.", "It is. Do not drink it.", []])
    );
    let record = one(&[row], named(Format::StreamPrompt), Format::StreamPrompt);
    assert_eq!(record.correction.as_deref(), Some("Do not drink it."));
    let text = "BEGINNING OF CONVERSATION: USER: ##Question: {question} | ##Answer_Prefix: {answer} | ##Your_Revision:  ASSISTANT:";
    let template = PromptTemplate::custom("stream", text).unwrap();
    assert_eq!(
        template.render(&record.question, &record.answer, &[]),
        "BEGINNING OF CONVERSATION: USER: ##Question: Is it safe? | ##Answer_Prefix: It is. | ##Answer_Last_Sentence: \
         Drink it. | ##Your_Revision:  ASSISTANT:"
    );
    let first = json!({"question": "q", "prefix": "", "last": "a", "correction": "c"});
    let record = one(&[first], ReadOptions::default(), Format::StreamAligner);
    assert_eq!(texts(&record), json!(["q", "a", "c", []]));
}

#[test]
fn an_unknown_shape_is_named_with_its_columns_and_the_formats() {
    let Err(error) = read(&[json!({"id": 1, "text": "x"})], ReadOptions::default()) else {
        panic!()
    };
    let error = error.to_string();
    for part in [
        "rows.jsonl",
        "`id`, `text`",
        "--columns",
        "--format",
        "qac (question, answer, correction)",
        "hh-rlhf",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_mapping_that_a_format_does_not_look_at_is_refused() {
    let row = json!({"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: a\n\nAssistant: y"});
    let Err(error) = read(&[row], mapped("correction=better")) else {
        panic!()
    };
    assert!(matches!(error, DataError::Columns { .. }), "{error}");
    // A mapped question, or columns that carry the mapped names, are rows of ours.
    let row = json!({"prompt": "q", "chosen": "c", "rejected": "a"});
    let options = mapped("question=prompt,answer=rejected,correction=chosen");
    assert_eq!(
        texts(&one(&[row], options, Format::Qac)),
        json!(["q", "a", "c", []])
    );
}

#[test]
fn the_format_can_be_asked_for_before_the_rows() {
    let rows = "\n{\"instruction\": \"a\", \"output\": \"x\"}\n{\"instruction\": \"b\", \"output\": \"y\"}";
    let mut reader = RowReader::from_reader("rows", rows.as_bytes(), pair()).unwrap();
    assert_eq!(reader.format().unwrap(), Some(Format::Alpaca));
    let answers: Vec<String> = reader.by_ref().map(|record| record.unwrap().answer).collect();
    assert_eq!(answers, ["x", "y"]);
    assert_eq!(reader.rows_read(), 2);
    let mut empty = RowReader::from_reader("rows", &b"[]"[..], pair()).unwrap();
    assert_eq!(empty.format().unwrap(), None);
}

#[test]
fn readers_can_be_sent_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&RowReader::open(&golden("zstd.parquet"), pair()).unwrap());
}

/// All records and the reasons of what was left out; the point is that it ends.
fn drain(name: &str, bytes: &[u8], options: ReadOptions) -> usize {
    match RowReader::from_reader(name, bytes, options) {
        Ok(reader) => reader.take(5000).count(),
        Err(_) => 0,
    }
}
