use proptest::prelude::*;

use super::*;

/// Any JSON, with the names that requests have.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("messages"),
        Just("role"),
        Just("content"),
        Just("prompt"),
        Just("aligner"),
        Just("mode"),
        Just("stream"),
        Just("text"),
        Just("type"),
        Just("response_format"),
        Just("n"),
        Just("stream_options"),
    ];
    let word = prop_oneof![
        Just("user"),
        Just("assistant"),
        Just("buffer"),
        Just("json_object"),
        Just("\u{0}")
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        let fields = proptest::collection::vec((name.clone(), inner.clone()), 0..6);
        prop_oneof![
            proptest::collection::vec(inner, 0..6).prop_map(Value::from),
            fields.prop_map(|fields| fields
                .into_iter()
                .map(|(name, value)| (name.to_string(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_request_is_read_or_refused(value in any_json(), cut in 0usize..200) {
        let text = value.to_string();
        for shape in [Shape::Chat, Shape::Completion] {
            if let Ok(asked) = Asked::read(shape, text.as_bytes()) {
                // What the upstream is told is what was asked, but for our own field and the way it streams.
                let told: Value = serde_json::from_slice(&asked.upstream_body(asked.stream)).expect("JSON");
                let mut want = value.clone();
                want.as_object_mut().expect("an object").remove("aligner");
                prop_assert_eq!(told, want);
            }
            let _ = Asked::read(shape, &text.as_bytes()[..cut.min(text.len())]);
            let _ = shape.guarded(&value, false);
            let _ = shape.delta(&value);
        }
    }
}

fn asked(body: Value) -> Asked {
    Asked::read(Shape::Chat, body.to_string().as_bytes()).expect("a request")
}

#[test]
fn the_last_question_and_the_turns_before_it_are_found() {
    let asked = asked(json!({"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": "Is it"}, {"type": "image_url"}]},
        {"role": "tool", "content": "42"},
        {"role": "user", "content": "raining?"},
    ]}));
    assert_eq!(asked.question, "Is it\n\nraining?");
    assert_eq!(asked.chat_history.len(), 1);
    assert_eq!(
        (
            asked.chat_history[0].question.as_str(),
            asked.chat_history[0].answer.as_str()
        ),
        ("Hi", "Hello!")
    );
}

#[test]
fn a_seed_is_any_integer_and_anything_else_is_for_the_upstream() {
    for (given, seed) in [
        (json!(7), Some(7)),
        (json!(-7), Some(7)),
        (json!(null), None),
        (json!("7"), None),
        (json!(0.5), None),
    ] {
        let asked = asked(json!({"messages": [], "seed": given}));
        assert_eq!(asked.seed, seed, "{given}");
        assert_eq!(asked.body["seed"], given);
    }
}

#[test]
fn unknown_fields_pass_and_our_own_does_not() {
    let asked = asked(json!({
        "model": "m", "messages": [], "some_new_field": {"a": [1, 2.5]}, "stream": true,
        "stream_options": {"include_usage": true}, "aligner": {"mode": "off", "edits": true},
    }));
    assert!(asked.stream && asked.include_usage && asked.extension.edits);
    assert_eq!(asked.extension.mode, Some(Mode::Off));
    let body: Value = serde_json::from_slice(&asked.upstream_body(false)).expect("JSON");
    assert_eq!(
        body,
        json!({"model": "m", "messages": [], "some_new_field": {"a": [1, 2.5]}, "stream": false})
    );
}

#[test]
fn numbers_that_need_all_their_digits_are_told_as_they_were_asked() {
    // Found by the fuzzer: read without their last bit, these became others each time they were handed on.
    for number in [
        "50400000000000000684136435",
        "0.6999999999999998",
        "1.7976931348623157e308",
        "9007199254740993",
    ] {
        let body = format!(r#"{{"messages":[],"some_new_field":{number}}}"#);
        let asked = Asked::read(Shape::Chat, body.as_bytes()).expect("a request");
        let told: Value = serde_json::from_slice(&asked.upstream_body(false)).expect("JSON");
        let told = &told["some_new_field"];
        let (told, want) = (
            told.as_f64().expect("a number"),
            number.parse::<f64>().expect("a number"),
        );
        assert_eq!(told.to_bits(), want.to_bits(), "{number}");
    }
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let refused = |shape, body: &str| Asked::read(shape, body.as_bytes()).expect_err("refused");
    assert_eq!(refused(Shape::Chat, "{}").param.as_deref(), Some("messages"));
    assert_eq!(refused(Shape::Completion, "{}").param.as_deref(), Some("prompt"));
    assert!(refused(Shape::Chat, "[1]").message.contains("object"));
    let error = refused(Shape::Chat, r#"{"messages":[{"content":"x"}]}"#);
    assert!(error.message.contains("messages[0].role"));
    let many = json!({"messages": [], "stop": vec!["x"; 17]}).to_string();
    let long = json!({"messages": [], "stop": "x".repeat(257)}).to_string();
    for body in [many, long] {
        assert_eq!(refused(Shape::Chat, &body).param.as_deref(), Some("stop"));
    }
    let error = refused(Shape::Chat, r#"{"messages":[],"aligner":{"mod":"off"}}"#);
    assert!(error.message.contains("mod"));
}

#[test]
fn usage_counts_both_models() {
    let usage = Usage {
        prompt_tokens: 10,
        completion_tokens: 5,
        draft_proposed: 4,
        draft_accepted: 3,
    };
    let upstream = json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "other": {}});
    let total = total_usage(&upstream, usage);
    assert_eq!(
        (&total["prompt_tokens"], &total["total_tokens"]),
        (&json!(11), &json!(18))
    );
    assert_eq!(total["aligner"]["draft_accepted"], 3);
    assert_eq!(total["other"], json!({}));
}
