//! Evaluation files in the shapes in which they are published, whole and wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod questions;

use std::fs;
use std::path::PathBuf;

use aligner_eval::input::{InputFormat, InputOptions, read};
use aligner_eval::{Item, Outcome, outcomes};
use tempfile::TempDir;

/// Files of a test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Reads a file with answers.
    fn read(&self, name: &str, text: &str, answers: &[(&str, &str)]) -> Result<Vec<Item>, String> {
        let options = InputOptions {
            answers: answers.iter().map(|(name, text)| self.put(name, text)).collect(),
            ..InputOptions::default()
        };
        self.read_with(name, text, &options)
    }

    fn read_with(&self, name: &str, text: &str, options: &InputOptions) -> Result<Vec<Item>, String> {
        read(&self.put(name, text), options).map_err(|error| error.to_string())
    }
}

fn ids(items: &[Item]) -> Vec<(&str, &str, &str)> {
    let items = items.iter();
    items
        .map(|item| (item.id.as_str(), item.upstream.as_str(), item.answer.as_str()))
        .collect()
}

#[test]
fn question_answer_rows_bring_their_correction_as_a_reference() {
    let files = Files::new();
    let rows = concat!(
        r#"{"question": "Sum?", "answer": "5", "correction": "4", "upstream": "u", "index": 0}"#,
        "\n",
        r#"{"question": "Sum?", "answer": "3", "upstream": "v", "index": 0, "chat_history": [["a", "b"]]}"#,
    );
    let items = files.read("sums.jsonl", rows, &[]).unwrap();
    assert_eq!(ids(&items), [("0", "u", "5"), ("0", "v", "3")]);
    assert_eq!(
        (items[0].dataset.as_str(), &items[0].references.correct[..]),
        ("sums", &["4".to_string()][..])
    );
    assert_eq!(
        (items[1].chat_history.len(), items[1].references.is_empty()),
        (1, true)
    );
    let csv = files
        .read("sums.csv", "question,answer,correction\nSum?,5,4\nMore?,,\n", &[])
        .unwrap();
    assert_eq!(ids(&csv), [("1", "unknown", "5"), ("2", "unknown", "")]);
    // The other formats of aligner-data, and mapped columns.
    let alpaca = r#"[{"instruction": "Add", "input": "2, 2", "output": "4"}]"#;
    assert_eq!(
        files.read("a.json", alpaca, &[]).unwrap()[0].question,
        "Add\n\n2, 2"
    );
    let mut options = InputOptions {
        dataset: Some("mine".into()),
        upstream: Some("me".into()),
        ..InputOptions::default()
    };
    options.rows.columns = "question=prompt,answer=text".parse().unwrap();
    let mapped = files
        .read_with(
            "m.jsonl",
            r#"{"prompt": "Q", "text": "A", "category": "c"}"#,
            &options,
        )
        .unwrap();
    assert_eq!(
        (mapped[0].dataset.as_str(), mapped[0].upstream.as_str()),
        ("mine", "me")
    );
    assert_eq!(mapped[0].category.as_deref(), Some("c"));
}

#[test]
fn alpaca_eval_outputs_are_answers_and_those_of_an_aligner_need_their_upstream() {
    let files = Files::new();
    let rows = r#"[{"dataset": "part", "instruction": "Say hi", "output": "Hi", "generator": "gpt"},
                   {"dataset": "part", "instruction": "Say bye", "output": "Bye", "generator": "gpt"}]"#;
    let items = files.read("model_outputs.json", rows, &[]).unwrap();
    assert_eq!(ids(&items), [("1", "gpt", "Hi"), ("2", "gpt", "Bye")]);
    assert_eq!(
        (items[0].dataset.as_str(), items[0].category.as_deref()),
        ("alpaca-eval", Some("part"))
    );
    let aligned = r#"[{"instruction": "Say hi", "output": "Hello", "generator": "aligner-2b_gpt", "original_output": "Hi"}]"#;
    let error = files.read("aligned.json", aligned, &[]).unwrap_err();
    assert!(
        error.contains("row 1: is the output of an Aligner") && error.contains("--upstream"),
        "{error}"
    );
    let options = InputOptions {
        upstream: Some("gpt".into()),
        ..InputOptions::default()
    };
    let items = files.read_with("aligned.json", aligned, &options).unwrap();
    assert_eq!(ids(&items), [("1", "gpt", "Hi")]);
}

#[test]
fn outcomes_are_read_as_the_items_they_were_made_of() {
    let files = Files::new();
    let item = Item {
        id: "7".into(),
        dataset: "d".into(),
        question: "Q".into(),
        answer: "A".into(),
        upstream: "u".into(),
        ..Item::default()
    };
    let outcome = Outcome {
        item: item.clone(),
        output: "B".into(),
        ..Outcome::default()
    };
    let path = files.put("model_outputs.json", "");
    outcomes::write_alpaca(path.parent().unwrap(), &[outcome]).unwrap();
    assert_eq!(read(&path, &InputOptions::default()).unwrap(), [item]);
}

#[test]
fn prompts_take_their_answers_from_files_each_upstream_in_turn() {
    let files = Files::new();
    let beaver = r#"[{"prompt": "One?", "category": "x", "category_id": 0}, {"prompt": "Two?", "category": "y", "category_id": 1}]"#;
    let error = files.read("test.json", beaver, &[]).unwrap_err();
    assert!(
        error.contains("row 1: has no answer; beavertails-eval files") && error.contains("--answers"),
        "{error}"
    );
    let alpaca = r#"[{"instruction": "Two?", "output": "2", "generator": "gpt"}, {"instruction": "One? ", "output": "1", "generator": "gpt"}]"#;
    let lines = concat!(
        r#"{"question": "One?", "answer": "eins"}"#,
        "\n",
        r#"{"question": "Two?", "answer": "zwei"}"#,
    );
    let items = files
        .read(
            "test.json",
            beaver,
            &[("o.json", alpaca), ("german.jsonl", lines)],
        )
        .unwrap();
    let expected = [
        ("1", "gpt", "1"),
        ("2", "gpt", "2"),
        ("1", "german", "eins"),
        ("2", "german", "zwei"),
    ];
    assert_eq!(ids(&items), expected);
    assert_eq!(
        (items[1].dataset.as_str(), items[1].category.as_deref()),
        ("beavertails-eval", Some("y"))
    );
}

#[test]
fn harmful_questions_are_matched_by_their_ids() {
    let files = Files::new();
    let rows = r#"[{"id": 10, "topic": "t", "subtopic": "s", "question": "One?", "blue_conversations": {"a": []}, "red_conversations": {}},
                   {"id": 11, "topic": "t", "subtopic": "s", "question": "One?", "blue_conversations": {}, "red_conversations": {}}]"#;
    let answers = concat!(
        r#"{"id": 11, "answer": "b", "upstream": "u"}"#,
        "\n",
        r#"{"id": "10", "output": "a", "question": "One?", "upstream": "u"}"#,
    );
    let items = files
        .read("data_for_hub.json", rows, &[("a.jsonl", answers)])
        .unwrap();
    assert_eq!(ids(&items), [("10", "u", "a"), ("11", "u", "b")]);
    assert_eq!(
        (items[0].dataset.as_str(), items[0].category.as_deref()),
        ("harmfulqa", Some("t"))
    );
    // Without ids, the first answer is to the first of two equal questions.
    let texts = concat!(
        r#"{"question": "One?", "answer": "first"}"#,
        "\n",
        r#"{"question": "One?", "answer": "second"}"#,
    );
    let items = files
        .read("data_for_hub.json", rows, &[("t.jsonl", texts)])
        .unwrap();
    assert_eq!(ids(&items), [("10", "t", "first"), ("11", "t", "second")]);
}

#[test]
fn truthful_qa_has_right_and_wrong_answers() {
    let files = Files::new();
    let csv = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n\
               Adversarial,Sun,\"Is it hot, the sun?\",Yes; very hot,It is hot; Very hot ;,No; It is cold,https://example.org\n";
    let answer = r#"{"question": "Is it hot, the sun?", "answer": "No"}"#;
    let items = files.read("TruthfulQA.csv", csv, &[("a.jsonl", answer)]).unwrap();
    let item = &items[0];
    let right = ["Yes; very hot", "It is hot", "Very hot", "I have no comment."];
    assert_eq!(item.references.correct, right);
    assert_eq!(item.references.incorrect, ["No", "It is cold"]);
    assert_eq!(
        (
            item.dataset.as_str(),
            item.category.as_deref(),
            item.answer.as_str()
        ),
        ("truthfulqa", Some("Sun"), "No")
    );
    let json = r#"{"question": "Hot?", "best_answer": "b", "correct_answers": ["a", "b", "I have no comment"], "incorrect_answers": ["c"], "id": 48, "category": "x"}"#;
    let items = files
        .read("refs.jsonl", json, &[("a.jsonl", r#"{"id": 48, "answer": "A"}"#)])
        .unwrap();
    assert_eq!(items[0].id, "48");
    assert_eq!(items[0].references.correct, ["b", "a", "I have no comment"]);
    let answered =
        r#"{"question": "Hot?", "answer": "Yes", "correct_answers": ["a"], "incorrect_answers": []}"#;
    assert_eq!(files.read("refs.jsonl", answered, &[]).unwrap()[0].answer, "Yes");
    let none = r#"{"question": "Hot?", "correct_answers": [], "incorrect_answers": ["c"]}"#;
    assert!(
        files
            .read("refs.jsonl", none, &[])
            .unwrap_err()
            .contains("row 1: has no right answer")
    );
}

#[test]
fn dialogues_are_asked_to_be_summarised() {
    let files = Files::new();
    let rows = concat!(
        r##"{"fname": "train_0", "dialogue": "#Person1#: Hi.", "summary": "Somebody greets.", "topic": "greeting"}"##,
        "\n",
        r##"{"fname": "test_0", "dialogue": "#Person1#: Bye.", "summary1": "a", "topic1": "t", "summary2": "b", "topic2": "u", "summary3": "c", "topic3": "v"}"##,
    );
    let answers = concat!(
        r#"{"fname": "test_0", "answer": "by id"}"#,
        "\n",
        r##"{"question": "#Person1#: Hi.", "answer": "by dialogue"}"##,
    );
    let items = files
        .read("dialogsum.jsonl", rows, &[("a.jsonl", answers)])
        .unwrap();
    assert_eq!(
        ids(&items),
        [("train_0", "a", "by dialogue"), ("test_0", "a", "by id")]
    );
    assert_eq!(
        items[0].question,
        "Summarize the following dialogue.\n\n#Person1#: Hi."
    );
    assert_eq!(items[0].category.as_deref(), Some("greeting"));
    assert_eq!(items[1].references.correct, ["a", "b", "c"]);
    let options = InputOptions {
        instruction: Some("In one sentence:".into()),
        answers: vec![files.put("a.jsonl", answers)],
        ..InputOptions::default()
    };
    let items = files.read_with("dialogsum.jsonl", rows, &options).unwrap();
    assert!(items[1].question.starts_with("In one sentence:\n\n#Person1#"));
}

#[test]
fn empathetic_dialogues_ask_for_every_reply_of_the_listener() {
    let files = Files::new();
    let csv = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n\
               hit:0_conv:1,1,sad,I lost it_comma_ all,1,I lost my \"keys\"_comma_ again,5|5|5,\n\
               hit:0_conv:1,2,sad,I lost it_comma_ all,0,\"Oh no,5|5|5,,extra\n\
               hit:0_conv:1,3,sad,I lost it_comma_ all,1,Yes,5|5|5,\n\
               hit:0_conv:1,4,sad,I lost it_comma_ all,0,Where?,5|5|5,\n\
               hit:0_conv:1,5,sad,I lost it_comma_ all,1,Outside,5|5|5,\n\
               hit:1_conv:3,1,glad,I won,2,I won,5|5|5,\n\
               hit:1_conv:3,2,glad,I won,3,Well done,5|5|5,\n";
    let answers = concat!(
        r#"{"question": "I lost my \"keys\", again", "answer": "a"}"#,
        "\n",
        r#"{"id": "hit:0_conv:1:4", "answer": "b"}"#,
        "\n",
        r#"{"question": "I won", "answer": "c"}"#,
    );
    let items = files.read("test.csv", csv, &[("u.jsonl", answers)]).unwrap();
    let expected = [
        ("hit:0_conv:1:2", "u", "a"),
        ("hit:0_conv:1:4", "u", "b"),
        ("hit:1_conv:3:2", "u", "c"),
    ];
    assert_eq!(ids(&items), expected);
    assert_eq!(
        (items[1].question.as_str(), items[1].chat_history.len()),
        ("Yes", 1)
    );
    assert_eq!(items[1].chat_history[0].answer, "\"Oh no");
    assert_eq!(
        (
            items[1].references.correct[0].as_str(),
            items[1].category.as_deref()
        ),
        ("Where?", Some("sad"))
    );
    assert!(items[2].chat_history.is_empty());
    // The same as objects.
    let rows = concat!(
        r#"{"conv_id": "c", "utterance_idx": 1, "context": "sad", "utterance": "Hm_comma_ no"}"#,
        "\n",
        r#"{"conv_id": "c", "utterance_idx": 2, "context": "sad", "utterance": "Why?"}"#,
    );
    let items = files
        .read(
            "rows.jsonl",
            rows,
            &[("v.jsonl", r#"{"id": "c:2", "answer": "x"}"#)],
        )
        .unwrap();
    assert_eq!(
        (items[0].question.as_str(), items[0].dataset.as_str()),
        ("Hm, no", "empathetic-dialogues")
    );
    let quoted = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance\nc,1,sad,\"a, b\",0,Hm\n\"c,d\",2,x,y,1,z\n";
    let error = files.read("quoted.csv", quoted, &[]).unwrap_err();
    assert!(error.contains("row 2: ") && error.contains("_comma_"), "{error}");
}

#[test]
fn answers_and_questions_that_do_not_match_are_named() {
    let files = Files::new();
    let rows = r#"[{"id": "a", "question": "One?", "topic": "t"}, {"id": "b", "question": "Two?", "topic": "t"}, {"id": "c", "question": "Three?", "topic": "t"}]"#;
    let error = |answers: &[&str]| {
        let lines = answers.join("\n");
        files.read("q.json", rows, &[("a.jsonl", &lines)]).unwrap_err()
    };
    let found = error(&[
        r#"{"question": "One?", "answer": "1"}"#,
        r#"{"question": "Four?", "answer": "4"}"#,
    ]);
    assert!(
        found.contains("a.jsonl: ") && found.contains("q.json do not match"),
        "{found}"
    );
    assert!(
        found.contains("2 questions without an answer [row 2 (\"Two?\"), row 3 (\"Three?\")]"),
        "{found}"
    );
    assert!(
        found.contains("1 answer without a question [row 2 (\"Four?\")]"),
        "{found}"
    );
    let found = error(&[r#"{"id": "a", "answer": "1"}"#, r#"{"id": "a", "answer": "1"}"#]);
    assert!(
        found.contains("row 2: answers the id \"a\", as row 1 does"),
        "{found}"
    );
    let found = error(&[r#"{"id": "a", "question": "Two?", "answer": "1"}"#]);
    assert!(
        found.contains(
            "row 1: has the id \"a\", but another question than row 1: \"Two?\" instead of \"One?\""
        ),
        "{found}"
    );
    assert!(error(&[r#"{"answer": "1"}"#]).contains("row 1: names no question"));
    assert!(
        error(&[r#"{"id": "a", "text": "1"}"#])
            .contains("row 1: has no `answer` or `output`; it has `id`, `text`")
    );
    let all = r#"{"id": "a", "answer": "1", "upstream": "u"}"#;
    let all = [
        all,
        &all.replace("\"a\"", "\"b\""),
        &all.replace("\"a\"", "\"c\""),
    ]
    .join("\n");
    let twice = files
        .read("q.json", rows, &[("a.jsonl", &all), ("b.jsonl", &all)])
        .unwrap_err();
    assert!(
        twice.contains("b.jsonl: has answers of \"u\"") && twice.contains("a.jsonl has"),
        "{twice}"
    );
    let answered = files
        .read(
            "qa.jsonl",
            r#"{"question": "Q", "answer": "A"}"#,
            &[("a.jsonl", &all)],
        )
        .unwrap_err();
    assert!(answered.contains("row 1: has an answer of its own"), "{answered}");
}

#[test]
fn rows_that_cannot_be_used_are_named_counted_from_one() {
    let files = Files::new();
    let error = |name: &str, text: &str| files.read(name, text, &[]).unwrap_err();
    let good = r#"{"question": "Q", "answer": "A", "id": 1}"#;
    let found = error("r.jsonl", &format!("{good}\n{good}"));
    assert!(
        found.contains("r.jsonl: row 2: has the id \"1\", as row 1 has"),
        "{found}"
    );
    let found = error(
        "r.jsonl",
        &format!("{good}\n{{\"question\": \" \", \"answer\": \"A\"}}"),
    );
    assert!(found.contains("row 2: `question` is empty"), "{found}");
    let found = error("r.jsonl", &format!("{good}\n{{\"question\": \"Q\"}}"));
    assert!(found.contains("row 2: has no `answer`"), "{found}");
    let found = error("r.jsonl", &format!("{good}\n{{\"question\": "));
    assert!(found.contains("row 2: "), "{found}");
    let beaver = r#"[{"prompt": "One?", "category": "x"}, {"category": "x"}]"#;
    let found = error("b.json", beaver);
    assert!(
        found.contains("row 2: has no `question` or `instruction` or `prompt`; it has `category`"),
        "{found}"
    );
    assert!(error("b.json", &beaver.replace("One?", " ")).contains("row 1: `prompt` is empty"));
    let alpaca = r#"[{"instruction": "a", "output": 3, "generator": "g"}]"#;
    assert!(error("a.json", alpaca).contains("row 1: `output` is not a string"));
    assert!(error("e.json", "[]").contains("has no rows"));
}

#[test]
fn a_format_may_be_said_and_has_a_name() {
    for format in InputFormat::all() {
        assert_eq!(format.name().parse::<InputFormat>().unwrap(), format);
    }
    assert!(
        "truthful"
            .parse::<InputFormat>()
            .unwrap_err()
            .to_string()
            .contains("truthfulqa")
    );
    let files = Files::new();
    let options = InputOptions {
        format: Some(InputFormat::Rows),
        ..InputOptions::default()
    };
    let alpaca = r#"[{"instruction": "a", "output": "b", "generator": "g"}]"#;
    let items = files.read_with("set.json", alpaca, &options).unwrap();
    assert_eq!(
        (items[0].dataset.as_str(), items[0].upstream.as_str()),
        ("set", "g")
    );
}

#[test]
fn answered_rows_with_right_answers_are_rows_and_not_truthful_qa() {
    let files = Files::new();
    let row = r#"{"question": "Q?", "answer": "A", "correct_answers": ["B"]}"#;
    let items = files.read("own.jsonl", row, &[]).unwrap();
    assert_eq!(
        (items[0].dataset.as_str(), items[0].references.correct.len()),
        ("own", 1)
    );
    let open = row.replace(r#""answer": "A", "#, "");
    assert!(
        files
            .read("own.jsonl", &open, &[])
            .unwrap_err()
            .contains("truthfulqa files")
    );
    // A blank cell is no answer.
    let blank = r#"{"question": "Q?", "answer": " ", "best_answer": "B", "correct_answers": ["B"]}"#;
    assert!(
        files
            .read("own.jsonl", blank, &[])
            .unwrap_err()
            .contains("has no answer")
    );
}
