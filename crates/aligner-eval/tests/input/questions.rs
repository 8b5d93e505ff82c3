//! Questions for an upstream that is still to answer them.

use aligner_eval::input::{InputOptions, questions, read};

use crate::{Files, ids};

#[test]
fn a_question_is_asked_once_with_each_history_that_it_has() {
    let files = Files::new();
    let rows = concat!(
        r#"{"question": "Why?", "answer": "a", "id": "1"}"#,
        "\n",
        r#"{"question": "Why?", "answer": "b", "id": "2"}"#,
        "\n",
        r#"{"question": "Why?", "answer": "c", "id": "3", "chat_history": [["Is it?", "Yes."]]}"#,
        "\n",
        r#"{"question": "Why?", "answer": "d", "id": "4", "chat_history": [["Is it?", "No."]]}"#,
    );
    let path = files.put("rows.jsonl", rows);
    let items = questions(&path, &InputOptions::default()).unwrap();
    assert_eq!(
        ids(&items).iter().map(|row| row.0).collect::<Vec<_>>(),
        ["1", "3", "4"]
    );
    // Names that two questions have would be answers that nobody can tell apart.
    let path = files.put("rows.jsonl", &rows.replace("\"4\"", "\"3\""));
    let error = questions(&path, &InputOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("row 4") && error.contains("\"3\""), "{error}");
}

#[test]
fn questions_alone_have_columns_and_a_history_too() {
    let files = Files::new();
    let path = files.put("q.jsonl", r#"{"ask": "Why?", "before": [["Is it?", "Yes."]]}"#);
    let mut options = InputOptions::default();
    options.rows.columns = "question=ask,chat_history=before".parse().unwrap();
    let items = questions(&path, &options).unwrap();
    assert_eq!(
        (items[0].question.as_str(), items[0].chat_history.len()),
        ("Why?", 1)
    );
    let error = read(&path, &options).unwrap_err().to_string();
    assert!(error.contains("--answers"), "{error}");
    let path = files.put("q.jsonl", r#"{"question": "Why?", "chat_history": 7}"#);
    let error = questions(&path, &InputOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("row 1") && error.contains("chat_history"),
        "{error}"
    );
}
