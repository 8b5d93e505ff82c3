//! How rows look.

use super::*;

#[test]
fn each_format_has_its_shape_and_earlier_turns_are_earlier_messages() {
    let user = |content: &str| json!({"role": "user", "content": content});
    let assistant = |content: &str| json!({"role": "assistant", "content": content});
    let prompt = json!([
        user("Is Lisbon a capital?"),
        assistant("Yes."),
        user("And of which country?")
    ]);
    let last = |format| written(&four(), format).pop().unwrap();
    assert_eq!(
        last(BootstrapFormat::Sft),
        json!({"prompt": prompt, "completion": [assistant("Of Portugal.")]})
    );
    let messages = last(BootstrapFormat::SftMessages)["messages"].clone();
    assert_eq!(messages.as_array().unwrap()[..3], prompt.as_array().unwrap()[..]);
    assert_eq!(messages[3], assistant("Of Portugal."));
    assert_eq!(
        last(BootstrapFormat::Dpo),
        json!({"prompt": prompt, "chosen": [assistant("Of Portugal.")], "rejected": [assistant("Spain.")]})
    );
    assert_eq!(
        written(&four()[..3], BootstrapFormat::SftText)[0],
        json!({"prompt": "Capital of Italy?", "completion": "Rome."})
    );
}

#[test]
fn kto_has_two_rows_for_each_pair() {
    let rows = written(&four(), BootstrapFormat::Kto);
    assert_eq!(rows.len(), 8);
    for outcome in four() {
        let of = |label: bool, text: &str| {
            rows.iter()
                .any(|row| row["label"] == label && row["completion"][0]["content"] == text)
        };
        assert!(of(true, &outcome.output) && of(false, &outcome.item.answer));
    }
}

#[test]
fn qac_rows_are_read_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let four = four();
    let rows = bootstrap::rows(&four, &[], &with_format(BootstrapFormat::Qac)).unwrap();
    bootstrap::write(&rows, dir.path(), &[], false).unwrap();
    let options = ReadOptions {
        fields: Fields::Triple,
        ..ReadOptions::default()
    };
    let read = RowReader::open(&dir.path().join("train.jsonl"), options).unwrap();
    for (record, outcome) in read.map(Result::unwrap).zip(&four) {
        assert_eq!(record.question, outcome.item.question);
        assert_eq!(record.answer, outcome.item.answer);
        assert_eq!(record.correction.as_ref(), Some(&outcome.output));
        assert_eq!(record.chat_history, outcome.item.chat_history);
    }
}

#[test]
fn a_plain_text_has_no_place_for_earlier_turns() {
    let error = error(&four(), &[], &with_format(BootstrapFormat::SftText));
    assert!(error.contains("1 questions have earlier turns"), "{error}");
}
