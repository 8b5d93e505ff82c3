//! Corrections that another server makes (`--engine openai:URL`).

#![allow(clippy::expect_used, reason = "a test fails where it breaks")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aligner_data::PromptTemplate;
use aligner_serve::{RemoteEngine, ServeConfig};
use common::{Answer, Served, Upstream, response, stream_head, until};
use serde_json::{Value, json};

const ANSWER: &str = "The earth is flat, as everybody knows.";

fn engine(server: &Upstream, key: Option<&str>) -> RemoteEngine {
    let url = format!("http://{}/v1", server.address);
    RemoteEngine::new(&url, "my-aligner", PromptTemplate::default(), key).expect("an engine")
}

fn events(events: &[Value]) -> Answer {
    let frame = |event: &Value| {
        (
            Duration::from_millis(1),
            format!("data: {event}\n\n").into_bytes(),
        )
    };
    let mut answer = vec![(Duration::ZERO, stream_head())];
    answer.extend(events.iter().map(frame));
    answer
}

fn text(text: &str, finish_reason: Value) -> Value {
    json!({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]})
}

fn corrected(server: &Upstream) -> common::Reply {
    let served = Served::new(ServeConfig::default(), engine(server, Some("sesame")));
    served.post(
        "/v1/corrections",
        &json!({"question": "What shape?", "answer": ANSWER, "seed": 3}),
    )
}

#[test]
fn a_server_gets_the_prompt_and_gives_the_correction() {
    let server = Upstream::new(|_, _| {
        let mut answer = events(&[
            text("The earth", Value::Null),
            text(" is round.", "stop".into()),
            json!({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 7}}),
        ]);
        answer.push((Duration::ZERO, b"data: [DONE]\n\n".to_vec()));
        answer
    });
    let reply = corrected(&server).json();
    assert_eq!(
        (&reply["correction"], &reply["outcome"]),
        (&json!("The earth is round."), &json!("corrected"))
    );
    assert_eq!(reply["usage"]["total_tokens"], 27);
    let (head, body) = server.asked.lock().expect("asked")[0].clone();
    assert!(head.starts_with("POST /v1/completions "), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("authorization: bearer sesame"),
        "{head}"
    );
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let prompt = PromptTemplate::default().render("What shape?", ANSWER, &[]);
    assert_eq!(
        (&body["prompt"], &body["model"], &body["seed"]),
        (&json!(prompt), &json!("my-aligner"), &json!(3))
    );
}

#[test]
fn a_server_that_fails_is_an_aligner_that_fails() {
    type Make = fn() -> Answer;
    let broken: [(&str, Make); 4] = [
        ("aligner_failed", || {
            response("500 Internal Server Error", "text/plain", b"out of memory")
        }),
        ("aligner_failed", || events(&[text("The earth", Value::Null)])),
        ("aligner_failed", || {
            events(&[json!({"error": {"message": "out of memory"}})])
        }),
        ("passed_length", || {
            response(
                "400 Bad Request",
                "application/json",
                b"{\"error\": \"too long\"}",
            )
        }),
    ];
    for (outcome, answer) in broken {
        let reply = corrected(&Upstream::new(move |_, _| answer())).json();
        assert_eq!(
            (&reply["outcome"], &reply["correction"]),
            (&json!(outcome), &json!(ANSWER)),
            "{reply}"
        );
    }
}

#[test]
fn a_client_that_leaves_ends_the_work_of_the_server() {
    // What is sent to a connection that was closed fails after a while, and this stream never ends by itself.
    let left = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&left);
    let server = Upstream::endless(text("word ", Value::Null), move || {
        noted.store(true, Ordering::SeqCst)
    });
    let served = Served::new(ServeConfig::default(), engine(&server, None));
    let body = json!({"question": "q", "answer": ANSWER});
    let client = served.open("POST", "/v1/corrections", "", &body.to_string());
    until("the server is asked", || {
        server.asked.lock().expect("asked").len() == 1
    });
    assert!(!left.load(Ordering::SeqCst));
    drop(client);
    until("the server is left", || left.load(Ordering::SeqCst));
}
