//! Rows of any shape, and noise.

use super::*;

fn any_options() -> impl Strategy<Value = ReadOptions> {
    let formats: Vec<Option<Format>> = Format::all().map(Some).chain([None]).collect();
    let fields = vec![Fields::Pair, Fields::Completion, Fields::Triple];
    let select = (
        proptest::sample::select(formats),
        proptest::sample::select(fields),
        any::<bool>(),
    );
    select.prop_map(|(format, fields, skip)| ReadOptions {
        format,
        fields,
        on_bad_row: if skip { OnBadRow::Skip } else { OnBadRow::Stop },
        ..ReadOptions::default()
    })
}

/// Values with the names that formats look for, and text that looks like theirs.
fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[\\PC\n\"]{0,12}".prop_map(Value::from),
        proptest::sample::select(vec![
            "\n\nHuman: a\n\nAssistant: x",
            "\n\nAssistant:",
            "\n\nHuman:",
            "[{\"role\": \"user\"}]",
            "[{\"role\": \"assistant\", \"content\": \"x\"}]",
            "{\"from\": \"human\", \"value\": \"\"}",
            "[{'role': 'user'}]",
            "user",
            "gpt",
            "[]",
        ])
        .prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    text.prop_recursive(3, 12, 3, |inner| {
        let key = proptest::sample::select(vec!["role", "content", "from", "value", "text"]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(key.prop_map(String::from), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_row() -> impl Strategy<Value = Value> {
    let columns = vec![
        "question",
        "answer",
        "correction",
        "chat_history",
        "chosen",
        "rejected",
        "prompt",
        "response_0",
        "response_1",
        "safer_response_id",
        "response",
        "is_safe",
        "label",
        "instruction",
        "input",
        "output",
        "conversations",
        "messages",
        "completion",
        "prefix",
        "last",
        "system",
        "history",
    ];
    proptest::collection::btree_map(
        proptest::sample::select(columns).prop_map(String::from),
        any_value(),
        1..6,
    )
    .prop_map(|map| Value::Object(map.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_rows_give_whole_records_or_reasons(rows in proptest::collection::vec(any_row(), 1..6), options in any_options()) {
        let fields = options.fields;
        if let Ok(outcome) = read(&rows, options) {
            prop_assert!(outcome.records.len() <= rows.len());
            for record in outcome.records {
                prop_assert!(!record.question.trim().is_empty());
                let correction = record.correction.as_deref();
                let needed = match fields {
                    Fields::Pair => continue,
                    Fields::Completion => correction.or(Some(record.answer.as_str())),
                    Fields::Triple => correction,
                };
                prop_assert!(needed.is_some_and(|text| !text.trim().is_empty()));
            }
        }
    }

    #[test]
    fn csv_like_noise_ends(text in "(question,answer,correction\n)?[a\",\r\n\\PC]{0,60}", options in any_options()) {
        prop_assert!(drain("rows.csv", text.as_bytes(), options) < 5000);
    }

    #[test]
    fn csv_gives_back_what_was_quoted(cells in proptest::collection::vec("[\\PC\n\r\"]{1,20}", 3..=3)) {
        let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        let text = format!("question,answer,correction\n{}\n", quoted.join(","));
        let outcome = read_text("rows.csv", &text, ReadOptions { on_bad_row: OnBadRow::Skip, ..ReadOptions::default() }).unwrap();
        match outcome.records.first() {
            Some(record) => prop_assert_eq!(texts(record), json!([cells[0], cells[1], cells[2], []])),
            None => prop_assert!(cells[0].trim().is_empty() || cells[2].trim().is_empty()),
        }
    }

    #[test]
    fn deep_json_ends(depth in 1_usize..200_000, array: bool) {
        let open = if array { "[" } else { "{\"messages\":" };
        prop_assert!(drain("rows", open.repeat(depth).as_bytes(), pair()) < 5000);
    }
}
