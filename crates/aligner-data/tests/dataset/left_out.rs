//! Rows that are left out.

use super::*;

#[test]
fn no_row_left_is_an_error_and_nothing_is_kept() {
    let lab = Lab::new();
    let file = lab.dir.join("a.jsonl");
    std::fs::write(&file, "{\"question\": \"q\"}\n").unwrap();
    let mut options = lab.cached();
    options.read.on_bad_row = OnBadRow::Skip;
    let error = Dataset::load(&[file], &lab.encoder, &options).unwrap_err();
    assert!(error.to_string().contains("1 rows were left out"), "{error}");
    assert_eq!(lab.entries().len(), 0);
}

#[test]
fn a_cost_pair_without_a_label_is_named_or_left_out_and_counted() {
    let lab = Lab::new();
    let row = |label: serde_json::Value| {
        serde_json::json!({
            "prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 0,
            "is_response_0_safe": true, "is_response_1_safe": label,
        })
    };
    let rows = [row(false.into()), row("perhaps".into()), row(true.into())];
    let file = lab.dir.join("pairs.jsonl");
    std::fs::write(&file, rows.map(|row| row.to_string()).join("\n")).unwrap();
    let encoder = lab
        .encoder
        .clone()
        .with_chat(Target::LabelledPreference, ChatFormat::SAFE_RLHF);
    let mut options = lab.cached();
    let error = Dataset::load(std::slice::from_ref(&file), &encoder, &options).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("row 1") && error.contains("is_response_1_safe"),
        "{error}"
    );
    options.read.on_bad_row = OnBadRow::Skip;
    let rows = Dataset::load(&[file], &encoder, &options).unwrap();
    assert_eq!((rows.len(), rows.skipped().bad()), (2, 1));
}

#[test]
fn rows_that_are_left_out_are_told_from_the_cache_as_when_they_were_read() {
    let lab = Lab::new();
    let transcript = |question: &str, reply: &str| format!("\n\nHuman: {question}\n\nAssistant: {reply}");
    let row = |asked: &str, other: &str| {
        serde_json::json!({"chosen": transcript(asked, "b"), "rejected": transcript(other, "a")}).to_string()
    };
    let mut lines = vec![row("Is it so?", "Is it so?")];
    lines.extend((0..150).map(|_| row("Is it so?", "Something else?")));
    lines.push(r#"{"chosen": 3}"#.into());
    let file = lab.dir.join("hh.jsonl");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let mut options = lab.cached();
    options.read.on_bad_row = OnBadRow::Skip;
    let files = [file];
    let read = lab.load(&files, &options);
    let skipped = read.skipped();
    assert_eq!((read.len(), skipped.unsuitable(), skipped.bad()), (1, 150, 1));
    assert_eq!((skipped.first().len(), skipped.first_bad()[0].row), (100, 151));
    assert_eq!(lab.load(&files, &options).skipped(), skipped);
}
