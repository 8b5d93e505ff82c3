//! What clients get when something goes wrong: by policy, and never without being told.

#![allow(clippy::expect_used, reason = "a test fails where it breaks")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aligner_infer::FinishReason;
use aligner_serve::{Action, EngineError, Mode, PolicyConfig};
use common::{
    Answer, Reply, Scripted, Served, Upstream, chunk, completion, response, stream_head, stream_of, until,
    whole, words,
};
use serde_json::{Value, json};

const ANSWER: &str = "The earth is flat, as everybody knows.";

fn slow(pause: u64) -> Scripted {
    let pause = Duration::from_millis(pause);
    Scripted::new(move |_| {
        let words = (0..200).map(|index| (pause, format!("word{index} "))).collect();
        (words, Ok(FinishReason::Stop))
    })
}

fn broken() -> Scripted {
    Scripted::new(|_| (Vec::new(), Err(EngineError::Failed("the device is gone".into()))))
}

/// What each action serves when one thing fails, whole and as a stream.
fn check_actions(engine: &Scripted, outcome: &str, set: fn(&mut PolicyConfig, Action)) {
    let upstream = Upstream::saying(ANSWER);
    for action in [Action::Original, Action::Error, Action::Block] {
        let served = Served::configured(&upstream, engine.clone(), |config| {
            config.policy = PolicyConfig {
                aligner_fails: Action::Error,
                aligner_timeout: Action::Error,
                worse: Action::Error,
                aligner_timeout_secs: 1.0,
                ..PolicyConfig::default()
            };
            // Held, so that nothing was sent when it is found.
            config.gate.hold = true;
            set(&mut config.policy, action);
        });
        let (reply, streamed) = (served.chat(json!({})), served.chat(json!({"stream": true})));
        match action {
            Action::Error => {
                assert_eq!(
                    (reply.status, &reply.json()["error"]["code"]),
                    (503, &json!(outcome))
                );
                let error = streamed.chunks().pop().expect("a frame");
                assert_eq!(error["error"]["code"], outcome);
            }
            _ => {
                let (text, reason) = match action {
                    Action::Block => (
                        "This answer could not be checked and is withheld.",
                        "content_filter",
                    ),
                    _ => (ANSWER, "stop"),
                };
                let choice = reply.json()["choices"][0].clone();
                assert_eq!(
                    (&choice["message"]["content"], &choice["finish_reason"]),
                    (&json!(text), &json!(reason))
                );
                assert_eq!(reply.header("x-aligner-outcome"), Some(outcome));
                assert_eq!(streamed.streamed(), text);
                let report = streamed.report();
                assert_eq!(report["outcome"], outcome);
                assert!(report["reason"].is_string(), "{report}");
            }
        }
        let counted = format!("aligner_corrections_total{{outcome=\"{outcome}\"}} ");
        assert_eq!(served.metric(&counted), 2.0);
    }
}

#[test]
fn an_aligner_that_fails_is_told() {
    check_actions(&broken(), "aligner_failed", |policy, action| {
        policy.aligner_fails = action
    });
}

#[test]
fn an_aligner_that_takes_too_long_is_told() {
    check_actions(&slow(50), "aligner_timeout", |policy, action| {
        policy.aligner_timeout = action
    });
}

#[test]
fn corrections_that_are_plainly_worse_are_told() {
    let empty = Scripted::new(|_| (words(" "), Ok(FinishReason::Stop)));
    check_actions(&empty, "gated_empty", |policy, action| policy.worse = action);
    let endless = Scripted::new(|job| (words(&job.answer), Ok(FinishReason::Length)));
    check_actions(&endless, "gated_runaway", |policy, action| policy.worse = action);
    let long = Scripted::new(|_| {
        (
            words(&"All work and no play makes a dull boy indeed, they say. ".repeat(30)),
            Ok(FinishReason::Stop),
        )
    });
    check_actions(&long, "gated_length", |policy, action| policy.worse = action);
}

#[test]
fn what_was_sent_is_not_followed_by_another_text() {
    let engine = Scripted::new(|_| {
        (
            words("The earth is round. "),
            Err(EngineError::Failed("the device is gone".into())),
        )
    });
    let served = Served::before(&Upstream::saying(ANSWER), engine);
    let reply = served.chat(json!({"stream": true}));
    let chunks = reply.chunks();
    assert!(
        chunks.last().expect("a frame")["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("after a part"))
    );
    assert_eq!(reply.streamed(), "The earth is round. ");
}

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
    let served = Served::configured(&upstream, engine.clone(), |config| {
        config.policy.upstream_fails = Action::Error
    });
    let reply = served.chat(json!({}));
    assert_eq!(
        (reply.status, &reply.json()["error"]["type"]),
        (502, &json!("upstream_error"))
    );
    assert_eq!(reply.header("x-aligner-outcome"), Some("upstream_failed"));
    let served = Served::configured(&upstream, engine, |config| {
        config.policy.upstream_fails = Action::Block
    });
    assert_eq!(
        served.chat(json!({})).json()["choices"][0]["finish_reason"],
        "content_filter"
    );
    assert!(
        served
            .chat(json!({"stream": true}))
            .streamed()
            .contains("withheld")
    );
    assert_eq!(
        served.metric("aligner_upstream_errors_total{kind=\"status\"} "),
        2.0
    );
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
fn a_client_that_leaves_ends_its_correction_within_a_tenth_of_a_second() {
    let engine = slow(20);
    let served = Served::before(&Upstream::saying(ANSWER), engine.clone());
    let mut times = Vec::new();
    for index in 0..10 {
        let stream = index % 2 == 0;
        let body = json!({"model": "up", "stream": stream, "messages": [{"role": "user", "content": "q"}]});
        let mut client = served.open("POST", "/v1/chat/completions", "", &body.to_string());
        if stream {
            let mut some = [0; 200];
            client.read_exact(&mut some).expect("the beginning of a stream");
        } else {
            until("the correction begins", || {
                engine.jobs.lock().expect("jobs").len() == index + 1
            });
        }
        drop(client);
        times.push(until("the correction ends", || {
            engine.dropped.load(Ordering::SeqCst) == index + 1
        }));
    }
    // A machine that other tests share may be late now and then.
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_millis(100), "{times:?}");
    until("no slot is stuck", || {
        served.metric("aligner_requests_in_flight ") == 0.0
    });
}

#[test]
fn a_slow_reader_does_not_hold_up_others() {
    let engine = Scripted::new(|_| {
        let pieces = vec![(Duration::ZERO, "word after word ".repeat(100)); 4000];
        (pieces, Ok(FinishReason::Stop))
    });
    let served = Served::configured(&Upstream::saying(ANSWER), engine, |config| {
        config.gate.enabled = false
    });
    let body = json!({"model": "up", "stream": true, "messages": [{"role": "user", "content": "q"}]});
    // It reads nothing: what is sent to it fills what lies between.
    let slow = served.open("POST", "/v1/chat/completions", "", &body.to_string());
    std::thread::sleep(Duration::from_millis(300));
    let started = Instant::now();
    let reply = served.get("/health");
    assert!(reply.status == 200 && started.elapsed() < Duration::from_secs(5));
    let reply = served.post("/v1/corrections", &json!({"question": "q", "answer": "a"}));
    assert_eq!(reply.json()["outcome"], "corrected");
    // It gets everything once it reads.
    assert_eq!(Reply::read(slow).streamed().len(), 16 * 100 * 4000);
}

#[test]
fn limits_are_kept_and_told() {
    let engine = slow(20);
    let served = Served::configured(&Upstream::saying(ANSWER), engine, |config| {
        config.limits.max_requests = 1;
        config.limits.max_body_bytes = 1000;
        config.limits.body_secs = 1.0;
    });
    let body =
        json!({"model": "up", "stream": true, "messages": [{"role": "user", "content": "q"}]}).to_string();
    let first = served.open("POST", "/v1/chat/completions", "", &body);
    until("it is served", || {
        served.metric("aligner_requests_in_flight ") == 1.0
    });
    let reply = served.chat(json!({}));
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    assert_eq!(served.get("/health").status, 200);
    drop(first);
    until("its place is free", || {
        served.metric("aligner_requests_in_flight ") == 0.0
    });
    let reply = served.post(
        "/v1/corrections",
        &json!({"question": "q", "answer": "a".repeat(2000)}),
    );
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (413, &json!("request_too_large"))
    );
    // A body that does not come.
    let mut stream = TcpStream::connect(served.address).expect("a connection");
    stream
        .write_all(
            b"POST /v1/corrections HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n{",
        )
        .expect("sent");
    assert_eq!(Reply::read(stream).status, 408);
}

#[test]
fn keys_are_asked_for_and_settings_change_while_it_runs() {
    // printf %s sesame | sha256sum
    let hash = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272".to_string();
    let upstream = Upstream::saying(ANSWER);
    let mut config = aligner_serve::ServeConfig {
        upstream: Some(upstream.config()),
        ..Default::default()
    };
    let served = Served::new(config.clone(), Scripted::replacing("flat", "round"));
    assert_eq!(served.chat(json!({})).status, 200);
    config.auth.key_sha256 = vec![hash];
    served.service.reload(config.clone()).expect("good settings");
    let reply = served.chat(json!({}));
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (401, &json!("invalid_api_key"))
    );
    let body = json!({"messages": [{"role": "user", "content": "q"}]}).to_string();
    let with_key = |served: &Served| {
        served.send(
            "POST",
            "/v1/chat/completions",
            "authorization: Bearer sesame\r\n",
            &body,
        )
    };
    assert_eq!(with_key(&served).status, 200);
    // A key of this service is not the upstream's to know.
    let head = upstream
        .asked
        .lock()
        .expect("asked")
        .last()
        .expect("a request")
        .0
        .clone();
    assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
    for open in ["/", "/health", "/ready", "/metrics", "/v1/aligner"] {
        assert_eq!(served.get(open).status, 200, "{open}");
    }
    assert_eq!(served.get("/v1/models").status, 401);
    // Settings that cannot be used change nothing.
    config.limits.max_requests = 0;
    assert!(served.service.reload(config).is_err());
    served.service.swap_engine(Scripted::replacing("flat", "a ball"));
    let reply = with_key(&served);
    assert!(
        reply.json()["choices"][0]["message"]["content"]
            .as_str()
            .is_some_and(|text| text.contains("a ball"))
    );
}

#[test]
fn a_service_that_stops_ends_its_streams_first() {
    let engine = Scripted::new(|_| {
        let words = (0..20)
            .map(|index| (Duration::from_millis(20), format!("word{index} ")))
            .collect();
        (words, Ok(FinishReason::Stop))
    });
    let mut served = Served::before(&Upstream::saying(ANSWER), engine);
    let body = json!({"model": "up", "stream": true, "messages": [{"role": "user", "content": "q"}]});
    let mut client = served.open("POST", "/v1/chat/completions", "", &body.to_string());
    let mut some = [0; 100];
    client.read_exact(&mut some).expect("a beginning");
    served.begin_stop();
    let (mut rest, started) = (String::new(), Instant::now());
    client.read_to_string(&mut rest).expect("the rest");
    assert!(rest.contains("word19") && rest.contains("[DONE]"), "{rest}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let address = served.address;
    served.wait();
    assert!(TcpStream::connect(address).is_err());
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
