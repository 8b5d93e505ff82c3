//! Upstreams that fail.

use std::time::Duration;

use aligner_serve::{Action, Mode};
use serde_json::{Value, json};

use crate::ANSWER;
use crate::common::{
    Answer, Scripted, Served, Upstream, chunk, completion, response, stream_head, stream_of, until, whole,
};

fn failing(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Upstream {
    Upstream::new(move |_, _| answer())
}

#[test]
fn an_upstream_that_fails_is_handed_on_or_told() {
    let overloaded = || {
        response(
            "503 Service Unavailable",
            "application/json",
            b"{\"error\":{\"message\":\"busy\"}}",
        )
    };
    let upstream = failing(overloaded);
    let engine = Scripted::replacing("flat", "round");
    for mode in [Mode::Buffer, Mode::Sentence, Mode::Audit, Mode::Off] {
        let served = Served::configured(&upstream, engine.clone(), |config| config.mode = mode);
        for stream in [false, true] {
            let reply = served.chat(json!({ "stream": stream }));
            assert_eq!(
                (reply.status, &reply.json()["error"]["message"]),
                (503, &json!("busy")),
                "{mode:?}"
            );
        }
    }
    for mode in [Mode::Buffer, Mode::Sentence, Mode::Audit] {
        let served = |action| {
            Served::configured(&upstream, engine.clone(), |config| {
                config.mode = mode;
                config.policy.upstream_fails = action;
            })
        };
        let told = served(Action::Error);
        for stream in [false, true] {
            let reply = told.chat(json!({ "stream": stream }));
            assert_eq!(
                (reply.status, &reply.json()["error"]["type"]),
                (502, &json!("upstream_error")),
                "{mode:?}"
            );
            assert_eq!(reply.header("x-aligner-outcome"), Some("upstream_failed"));
        }
        let served = served(Action::Block);
        assert_eq!(
            served.chat(json!({})).json()["choices"][0]["finish_reason"],
            "content_filter",
            "{mode:?}"
        );
        assert!(
            served
                .chat(json!({"stream": true}))
                .streamed()
                .contains("withheld"),
            "{mode:?}"
        );
        assert_eq!(
            served.metric("aligner_upstream_errors_total{kind=\"status\"} "),
            2.0
        );
    }
}

#[test]
fn upstreams_that_hang_drip_reset_or_talk_nonsense_are_told_and_leave_no_slot() {
    let second = Duration::from_secs(5);
    let half = Duration::from_millis(5);
    let huge = || {
        let mut answer = vec![(Duration::ZERO, stream_head())];
        answer.extend((0..50).map(|_| {
            (
                Duration::ZERO,
                chunk(json!({"content": "x".repeat(5000)}), Value::Null),
            )
        }));
        answer
    };
    type Case = (
        &'static str,
        Box<dyn Fn() -> Answer + Send + Sync>,
        u16,
        &'static str,
    );
    let cases: Vec<Case> = vec![
        (
            "hangs before it answers",
            Box::new(move || vec![(second, Vec::new())]),
            504,
            "did not begin to answer",
        ),
        (
            "hangs within its answer",
            Box::new(move || {
                vec![
                    (Duration::ZERO, stream_head()),
                    (half, chunk(json!({"content": "The"}), Value::Null)),
                    (second, Vec::new()),
                ]
            }),
            200,
            "nothing came from it",
        ),
        ("closes at once", Box::new(Vec::new), 502, "failed"),
        (
            "is no server",
            Box::new(|| vec![(Duration::ZERO, b"SSH-2.0-OpenSSH\r\n".to_vec())]),
            502,
            "failed",
        ),
        (
            "breaks off",
            Box::new(move || {
                vec![
                    (Duration::ZERO, stream_head()),
                    (half, chunk(json!({"content": "The earth"}), Value::Null)),
                ]
            }),
            200,
            "broke off",
        ),
        (
            "sends no JSON",
            Box::new(|| {
                vec![
                    (Duration::ZERO, stream_head()),
                    (
                        Duration::ZERO,
                        b"data: {\"choices\": [{\n\ndata: [DONE]\n\n".to_vec(),
                    ),
                ]
            }),
            200,
            "no JSON",
        ),
        (
            "reports an error in its stream",
            Box::new(|| {
                vec![
                    (Duration::ZERO, stream_head()),
                    (
                        Duration::ZERO,
                        b"data: {\"error\": {\"message\": \"out of memory\"}}\n\n".to_vec(),
                    ),
                ]
            }),
            200,
            "out of memory",
        ),
        ("sends too much", Box::new(huge), 200, "larger than"),
    ];
    for (what, answer, status, says) in cases {
        let upstream = failing(answer);
        let served = Served::configured(&upstream, Scripted::replacing("flat", "round"), |config| {
            config.mode = Mode::Sentence
        });
        let reply = served.chat(json!({"stream": true}));
        assert_eq!(reply.status, status, "{what}: {}", reply.body);
        assert!(
            reply.body.contains("\"error\"") && reply.body.contains(says),
            "{what}: {}",
            reply.body
        );
        let reply = served.chat(json!({}));
        assert!(matches!(reply.status, 502 | 504), "{what}: {}", reply.body);
        assert_eq!(served.metric("aligner_requests_in_flight "), 0.0, "{what}");
    }
}

#[test]
fn answers_of_no_known_shape_end_in_an_answer() {
    let odd = [
        json!([]),
        json!("text"),
        json!({"choices": null}),
        json!({"choices": [null]}),
        json!({"choices": ["text", 1]}),
        json!({"choices": [[]]}),
        json!({"choices": []}),
        json!({"choices": [{}]}),
        json!({"choices": [{"message": "text"}], "usage": "many"}),
        json!({"choices": [{"message": {"content": ["a"], "tool_calls": "none"}}], "usage": {"prompt_tokens": -1.5}}),
        json!({"choices": [{"message": {"content": ANSWER, "tool_calls": ["call", null]}, "finish_reason": {}}], "id": []}),
        json!({"choices": [{"message": {"content": ANSWER}}], "usage": null, "aligner": 7, "model": 3}),
        json!({"choices": [{"delta": "text", "index": "one"}]}),
    ];
    for body in odd {
        let (answer, streamed) = (whole(&body), body.clone());
        let upstream = Upstream::new(move |_, asked| match asked["stream"].as_bool() {
            Some(true) => vec![
                (Duration::ZERO, stream_head()),
                (
                    Duration::ZERO,
                    format!("data: {streamed}\n\ndata: [DONE]\n\n").into_bytes(),
                ),
            ],
            _ => answer.clone(),
        });
        for mode in [Mode::Buffer, Mode::Sentence, Mode::Audit, Mode::Off] {
            let served = Served::configured(&upstream, Scripted::replacing("flat", "round"), |config| {
                config.mode = mode
            });
            for stream in [false, true] {
                let reply = served.chat(json!({ "stream": stream }));
                assert!(
                    matches!(reply.status, 200 | 502),
                    "{mode:?} {stream} {body}: {}",
                    reply.status
                );
                assert!(reply.body.len() > 1, "{mode:?} {stream} {body}");
            }
            until("no slot is stuck", || {
                served.metric("aligner_requests_in_flight ") == 0.0
            });
        }
    }
}

#[test]
fn half_a_character_is_waited_for() {
    let upstream = failing(|| {
        let bytes: Vec<u8> = stream_of(&[
            "Zürich ist größer als man meint, und schöner. ",
            "Ja, das ist wahr 🦀.",
        ])
        .into_iter()
        .skip(1)
        .flat_map(|(_, bytes)| bytes)
        .collect();
        let mut answer = vec![(Duration::ZERO, stream_head())];
        answer.extend(
            bytes
                .chunks(3)
                .map(|piece| (Duration::from_micros(50), piece.to_vec())),
        );
        answer
    });
    let engine = Scripted::replacing("schöner", "kälter");
    let served = Served::configured(&upstream, engine, |config| config.mode = Mode::Sentence);
    let reply = served.chat(json!({"stream": true}));
    assert_eq!(
        reply.streamed(),
        "Zürich ist größer als man meint, und kälter. Ja, das ist wahr 🦀."
    );
}

#[test]
fn an_upstream_that_is_not_there_is_told() {
    let upstream = Upstream::new(|_, _| whole(&completion(ANSWER)));
    let served = Served::configured(&upstream, Scripted::replacing("", ""), |config| {
        if let Some(upstream) = &mut config.upstream {
            upstream.url = "http://127.0.0.1:9/v1".into();
        }
    });
    let reply = served.chat(json!({}));
    assert_eq!(reply.status, 502);
    assert!(
        reply.json()["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("refused")),
        "{}",
        reply.body
    );
}
