//! What clients get in each mode.

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aligner_infer::FinishReason;
use aligner_serve::{LocalEngine, Mode, ShadowConfig};
use common::{Scripted, Served, Upstream, completion, response, stream_of, until, whole};
use serde_json::{Value, json};

const FLAT: &str = "The earth is flat, as everybody knows.";
const ROUND: &str = "The earth is round, as everybody knows.";

fn corrector() -> Scripted {
    Scripted::replacing("flat", "round")
}

#[test]
fn an_answer_is_corrected_and_everything_else_is_kept() {
    let upstream = Upstream::saying(FLAT);
    let served = Served::before(&upstream, corrector());
    let reply = served.chat(json!({
        "temperature": 0.5, "a_field_of_tomorrow": {"deep": [1, null]},
        "aligner": {"include_original": true, "edits": true},
    }));
    let body = reply.json();
    assert_eq!(
        (reply.status, &body["choices"][0]["message"]["content"]),
        (200, &json!(ROUND))
    );
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        (&body["model"], &body["service_tier"]),
        (&json!("up"), &json!("x"))
    );
    assert_eq!(body["usage"]["prompt_tokens"], 11);
    assert_eq!(body["usage"]["total_tokens"], 18);
    assert_eq!(reply.header("x-aligner-outcome"), Some("corrected"));
    assert_eq!(reply.header("x-aligner-mode"), Some("buffer"));
    assert_eq!(reply.header("x-aligner-edit-ratio"), Some("0.1429"));
    assert!(reply.header("x-aligner-added-ms").is_some());
    let report = &body["aligner"];
    assert_eq!(
        (&report["outcome"], &report["served"]),
        (&json!("corrected"), &json!("correction"))
    );
    assert_eq!(report["original"], FLAT);
    assert_eq!(report["edits"][1], json!({"op": "delete", "text": "flat,"}));
    // The upstream is told what the client said, without our own field.
    let asked: Value = serde_json::from_str(&upstream.asked.lock().expect("asked")[0].1).expect("JSON");
    assert_eq!(asked["a_field_of_tomorrow"], json!({"deep": [1, null]}));
    assert!(asked.get("aligner").is_none());
}

#[test]
fn a_stream_has_the_shape_that_clients_know() {
    let served = Served::before(&Upstream::saying(FLAT), corrector());
    let reply = served.chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let chunks = reply.chunks();
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    assert_eq!(reply.streamed(), ROUND);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == "chatcmpl-1")
    );
    let (usage, end) = (&chunks[chunks.len() - 1], &chunks[chunks.len() - 2]);
    assert_eq!(
        (&usage["choices"], &usage["usage"]["total_tokens"]),
        (&json!([]), &json!(18))
    );
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
    assert_eq!(end["aligner"]["outcome"], "corrected");
}

#[test]
fn a_correction_ends_where_the_answer_had_to() {
    let served = Served::before(&Upstream::saying(FLAT), corrector());
    let stop = json!({"stop": ["round, as every", "never"]});
    assert_eq!(
        served.chat(stop).json()["choices"][0]["message"]["content"],
        "The earth is "
    );
    let reply = served.chat(json!({"stop": "as everyb", "stream": true}));
    assert_eq!(reply.streamed(), "The earth is round, ");
}

#[test]
fn what_comes_behind_a_stop_is_not_written_and_gates_nothing() {
    // Without its end this correction would be held for one that ran away.
    let engine = Scripted::new(|_| {
        let pause = Duration::from_millis(5);
        let words = (0..400).map(|index| (pause, format!("word{index} "))).collect();
        (words, Ok(FinishReason::Length))
    });
    let served = Served::before(&Upstream::saying(FLAT), engine.clone());
    let asked = json!({"stop": "word3"});
    let started = Instant::now();
    let reply = served.chat(asked.clone());
    assert_eq!(reply.header("x-aligner-outcome"), Some("corrected"));
    assert_eq!(
        reply.json()["choices"][0]["message"]["content"],
        "word0 word1 word2 "
    );
    let streamed = served.chat(json!({"stop": "word3", "stream": true}));
    assert_eq!(streamed.streamed(), "word0 word1 word2 ");
    assert_eq!(streamed.report()["outcome"], "corrected");
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(engine.dropped.load(Ordering::SeqCst), 2, "the engine was told");
}

#[test]
fn a_stop_in_a_sentence_ends_the_answer() {
    let upstream = Upstream::saying("The earth is flat. The sun is cold. Water is dry.");
    let engine = Scripted::replacing("cold", "hot END indeed");
    let served = Served::configured(&upstream, engine, |config| config.mode = Mode::Sentence);
    let reply = served.chat(json!({"stop": "END", "stream": true}));
    assert_eq!(reply.streamed(), "The earth is flat. The sun is hot ");
    let chunks = reply.chunks();
    let reason = chunks
        .iter()
        .find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str());
    assert_eq!(reason, Some("stop"));
    assert_eq!(reply.report()["outcome"], "corrected");
}

#[test]
fn each_of_several_choices_is_corrected() {
    let upstream = Upstream::new(|_, _| {
        let mut body = completion(FLAT);
        let mut second = body["choices"][0].clone();
        second["index"] = 1.into();
        second["message"]["content"] = "It is a ball.".into();
        body["choices"].as_array_mut().expect("choices").push(second);
        whole(&body)
    });
    let served = Served::before(&upstream, corrector());
    let body = served.chat(json!({"n": 2})).json();
    assert_eq!(body["choices"][0]["message"]["content"], ROUND);
    assert_eq!(body["choices"][1]["message"]["content"], "It is a ball.");
    assert_eq!(body["choices"][1]["aligner"]["outcome"], "unchanged");
    let reply = served.chat(json!({"n": 2, "stream": true}));
    let of = |index: u64| -> String {
        let chunks = reply.chunks();
        let choices = chunks.iter().map(|chunk| chunk["choices"][0].clone());
        choices
            .filter(|choice| choice["index"] == index)
            .filter_map(|choice| choice["delta"]["content"].as_str().map(str::to_string))
            .collect()
    };
    assert_eq!((of(0).as_str(), of(1).as_str()), (ROUND, "It is a ball."));
}

#[test]
fn sentences_are_released_while_the_upstream_still_writes() {
    let upstream = Upstream::new(|_, _| {
        let mut answer = stream_of(&[
            "The earth is flat, as ",
            "everybody knows. ",
            "It is a",
            " flat disc, really.\n\n",
            "```\nflat. Code.\n```\n",
            "The end is flat as well.",
        ]);
        // The second sentence takes its time.
        answer[5].0 = Duration::from_millis(400);
        answer
    });
    let served = Served::configured(&upstream, corrector(), |config| config.mode = Mode::Sentence);
    let reply = served.chat(json!({"stream": true, "aligner": {"include_original": true}}));
    assert_eq!(
        reply.streamed(),
        "The earth is round, as everybody knows. It is a round disc, really.\n\n```\nflat. Code.\n```\nThe end is round as well."
    );
    let first = reply
        .events
        .iter()
        .find(|(_, event)| event.contains("round"))
        .expect("a correction")
        .0;
    let last = reply.events.last().expect("events").0;
    assert!(first + Duration::from_millis(200) < last, "{first:?} of {last:?}");
    let report = reply.report();
    assert_eq!(
        (&report["outcome"], &report["mode"]),
        (&json!("corrected"), &json!("sentence"))
    );
    assert_eq!(
        report["sentences"],
        json!(["corrected", "corrected", "passed_code", "corrected"])
    );
    assert!(
        report["original"]
            .as_str()
            .expect("the original")
            .starts_with(FLAT)
    );
}

#[test]
fn an_upstream_goes_on_from_what_was_corrected() {
    let upstream = Upstream::new(|_, body| {
        let messages = body["messages"].as_array().expect("messages");
        let begun = messages.last().expect("a message");
        match (begun["role"].as_str(), begun["content"].as_str()) {
            (Some("assistant"), Some("The earth is round, as everybody knows. ")) => stream_of(&[
                "So you can sail around it, ",
                "and come back. It is not flat, to be sure. ",
            ]),
            (Some("assistant"), _) => stream_of(&["That is all there is to say."]),
            _ => stream_of(&[
                "The earth is flat, as everybody knows. ",
                "So you would fall off at its edge, one day.",
            ]),
        }
    });
    let served = Served::configured(&upstream, corrector(), |config| {
        config.mode = Mode::Sentence;
        config.sentence.feed_back = true;
    });
    let reply = served.chat(json!({"stream": true, "temperature": 0.25}));
    assert_eq!(
        reply.streamed(),
        "The earth is round, as everybody knows. So you can sail around it, and come back. It is not round, to be sure. \
         That is all there is to say."
    );
    let asked = upstream.asked.lock().expect("asked");
    assert_eq!(asked.len(), 3);
    let last: Value = serde_json::from_str(&asked[2].1).expect("JSON");
    assert_eq!(
        (&last["continue_final_message"], &last["temperature"]),
        (&json!(true), &json!(0.25))
    );
}

#[test]
fn an_audited_answer_is_the_upstreams_to_the_byte_and_its_correction_is_recorded() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = dir.path().join("rows.jsonl");
    let upstream = Upstream::saying(FLAT);
    let served = Served::configured(&upstream, corrector(), |config| {
        config.mode = Mode::Audit;
        config.shadow = Some(ShadowConfig::new(&rows));
    });
    let reply = served.chat(json!({"stream": true}));
    let sent: Vec<u8> = stream_of(&FLAT.split_inclusive(' ').collect::<Vec<_>>())
        .into_iter()
        .skip(1)
        .flat_map(|(_, bytes)| bytes)
        .collect();
    assert_eq!(reply.body.as_bytes(), sent);
    assert_eq!(reply.header("x-aligner-outcome"), Some("audited"));
    let reply = served.chat(json!({}));
    assert_eq!(reply.json(), completion(FLAT));
    let lines = || std::fs::read_to_string(&rows).unwrap_or_default().lines().count();
    until("both rows are written", || lines() == 2);
    let text = std::fs::read_to_string(&rows).expect("rows");
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).expect("a row");
        assert_eq!(
            (&row["question"], &row["answer"], &row["correction"]),
            (&json!("What orbits what?"), &json!(FLAT), &json!(ROUND))
        );
        assert_eq!(row["aligner"]["upstream_model"], "up");
    }
    // A row is counted once it is written.
    until("both rows are counted", || {
        served.metric("aligner_shadow_rows_total ") == 2.0
    });
    served.wait();
}

#[test]
fn with_the_aligner_off_requests_and_answers_pass() {
    let upstream = Upstream::saying(FLAT);
    let engine = corrector();
    let served = Served::configured(&upstream, engine.clone(), |config| config.mode = Mode::Off);
    let reply = served.chat(json!({}));
    assert_eq!(
        (reply.json(), reply.header("x-aligner-outcome")),
        (completion(FLAT), Some("off"))
    );
    assert!(engine.jobs.lock().expect("jobs").is_empty());
    // A request may ask for more than the configuration.
    let reply = served.chat(json!({"aligner": {"mode": "buffer"}}));
    assert_eq!(reply.json()["choices"][0]["message"]["content"], ROUND);
    // Other paths below /v1 are the upstream's.
    let reply = served.send("POST", "/v1/embeddings?x=1", "", "{}");
    assert_eq!(reply.status, 200);
    let asked = upstream.asked.lock().expect("asked");
    assert!(
        asked
            .last()
            .expect("a request")
            .0
            .starts_with("POST /v1/embeddings?x=1 ")
    );
}

#[test]
fn calls_of_tools_and_json_pass_through_marked() {
    let calls = json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let answer = calls.clone();
    let upstream = Upstream::new(move |_, _| {
        let mut body = completion("");
        body["choices"][0]["message"] = json!({"role": "assistant", "content": null, "tool_calls": answer});
        body["choices"][0]["finish_reason"] = "tool_calls".into();
        whole(&body)
    });
    let engine = corrector();
    let served = Served::before(&upstream, engine.clone());
    let reply = served.chat(json!({}));
    let choice = &reply.json()["choices"][0];
    assert_eq!(
        (&choice["message"]["tool_calls"], &choice["message"]["content"]),
        (&calls, &Value::Null)
    );
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(reply.header("x-aligner-outcome"), Some("passed_tool_calls"));
    let reply = served.chat(json!({"stream": true}));
    let chunks = reply.chunks();
    let delta = chunks
        .iter()
        .find_map(|chunk| chunk["choices"][0]["delta"].get("tool_calls"));
    assert_eq!(delta.expect("calls")[0]["function"], calls[0]["function"]);
    assert_eq!(delta.expect("calls")[0]["index"], 0);
    let served = Served::before(&Upstream::saying("{\"earth\": \"flat\"}"), engine.clone());
    assert_eq!(
        served.chat(json!({})).header("x-aligner-outcome"),
        Some("passed_json")
    );
    assert!(engine.jobs.lock().expect("jobs").is_empty());
}

#[test]
fn completions_are_corrected_as_well() {
    let upstream = Upstream::new(|_, _| {
        whole(&json!({
            "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "up",
            "choices": [{"index": 0, "text": FLAT, "finish_reason": "length"}],
        }))
    });
    let engine = corrector();
    let served = Served::before(&upstream, engine.clone());
    let body = json!({"model": "up", "prompt": "What shape is it?"});
    let reply = served.post("/v1/completions", &body).json();
    assert_eq!(reply["choices"][0]["text"], ROUND);
    assert_eq!(engine.jobs.lock().expect("jobs")[0].question, "What shape is it?");
    let body = json!({"model": "up", "prompt": "What shape is it?", "stream": true});
    let chunks = served.post("/v1/completions", &body).chunks();
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(text, ROUND);
}

#[test]
fn a_seed_is_the_requests_own_or_a_fresh_one_and_parts_differ() {
    let engine = corrector();
    let upstream = Upstream::saying("The earth is flat, as everybody knows. The sun is cold.");
    let served = Served::before(&upstream, engine.clone());
    let seeds = || -> Vec<u64> {
        engine
            .jobs
            .lock()
            .expect("jobs")
            .drain(..)
            .map(|job| job.seed)
            .collect()
    };
    let inputs = json!([{"question": "q", "answer": FLAT}, {"question": "q", "answer": FLAT}]);
    let ask = |more: Value| {
        served.post("/v1/corrections", &more);
        seeds()
    };
    let [first, second] = ask(json!({"inputs": inputs, "seed": 7}))[..] else {
        panic!("two jobs");
    };
    assert!(first == 7 && second != 7, "{first} {second}");
    assert_eq!(ask(json!({"inputs": inputs, "seed": 7})), [first, second]);
    let mut fresh = ask(json!({ "inputs": inputs }));
    fresh.extend(ask(json!({ "inputs": inputs })));
    // A server in another language takes them for integers of 32 bits.
    assert!(fresh.iter().all(|&seed| seed < 1 << 31), "{fresh:?}");
    fresh.sort_unstable();
    fresh.dedup();
    assert_eq!(
        fresh.len(),
        4,
        "no two answers are corrected with the same numbers"
    );
    // Each sentence is a part of its answer.
    let sentences = |seed: Value| {
        served.chat(json!({"stream": true, "seed": seed, "aligner": {"mode": "sentence"}}));
        seeds()
    };
    let asked = sentences(7.into());
    assert_eq!(
        (asked.len(), asked[0], sentences(7.into())),
        (2, 7, asked.clone())
    );
    assert_ne!(asked[0], asked[1]);
    assert_ne!(sentences(Value::Null), sentences(Value::Null));
}

#[test]
fn corrections_need_no_upstream() {
    let engine = corrector();
    let served = Served::new(aligner_serve::ServeConfig::default(), engine.clone());
    let body = json!({
        "question": "q", "answer": FLAT, "prediction": {"type": "content", "content": "p"}, "seed": 7,
        "chat_history": [{"question": "a", "answer": "b"}], "max_tokens": 5,
    });
    let reply = served.post("/v1/corrections", &body);
    let object = reply.json();
    assert_eq!(
        (&object["correction"], &object["outcome"]),
        (&json!(ROUND), &json!("corrected"))
    );
    assert_eq!(
        (&object["object"], &object["model"]),
        (&json!("correction"), &json!("scripted"))
    );
    assert_eq!(
        object["usage"]["completion_tokens_details"]["accepted_prediction_tokens"],
        3
    );
    assert_eq!(reply.header("x-aligner-edit-ratio"), Some("0.1429"));
    let job = engine.jobs.lock().expect("jobs")[0].clone();
    assert_eq!(
        (job.seed, job.max_new_tokens, job.prediction.as_deref()),
        (7, 5, Some("p"))
    );
    assert_eq!(job.chat_history.len(), 1);

    let batch = json!({"inputs": [{"question": "q", "answer": FLAT}, {"question": "q", "answer": " "}], "edits": false});
    let list = served.post("/v1/corrections", &batch).json();
    assert_eq!(list["data"][0]["correction"], ROUND);
    assert_eq!(list["data"][1]["outcome"], "passed_empty");
    assert!(list["data"][0].get("edits").is_none());

    let reply = served.post(
        "/v1/corrections",
        &json!({"question": "q", "answer": FLAT, "stream": true}),
    );
    let chunks = reply.chunks();
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["delta"].as_str())
        .collect();
    assert_eq!(text, ROUND);
    assert_eq!(chunks.last().expect("the end")["correction"], ROUND);

    let reply = served.chat(json!({}));
    assert_eq!(reply.status, 404);
    assert!(
        reply.json()["error"]["message"]
            .as_str()
            .expect("a message")
            .contains("/v1/corrections")
    );
}

#[test]
fn models_health_and_the_page_are_there() {
    let upstream = Upstream::new(|head, _| match head.starts_with("GET /v1/models ") {
        true => whole(&json!({"object": "list", "data": [{"id": "up", "object": "model"}]})),
        false => response("404 Not Found", "application/json", b"{}"),
    });
    let served = Served::before(&upstream, corrector());
    let models = served.get("/v1/models").json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][1]["id"]),
        (&json!("up"), &json!("scripted"))
    );
    assert_eq!(served.get("/health").json()["status"], "ok");
    assert_eq!(served.get("/ready").json()["model"], "scripted");
    assert_eq!(served.get("/v1/aligner").json()["mode"], "buffer");
    for (path, kind) in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/style.css", "text/css"),
    ] {
        let reply = served.get(path);
        assert!(
            reply
                .header("content-type")
                .is_some_and(|found| found.starts_with(kind)),
            "{path}"
        );
        assert!(
            reply
                .header("content-security-policy")
                .is_some_and(|policy| policy.contains("default-src 'none'"))
        );
    }
    assert_eq!(served.get("/openapi.json").json()["openapi"], "3.1.0");
    assert_eq!(served.get("/nothing").status, 404);
    assert_eq!(served.get("/v1/corrections").status, 404);
}

#[test]
fn a_real_model_corrects_behind_the_service() {
    let dir = tempfile::tempdir().expect("a directory");
    let rows = aligner_data::synthetic::CorrectionTask::new(5).train(100);
    aligner_lab::tiny_model(&rows, dir.path());
    let model = aligner_infer::Corrector::builder(dir.path())
        .template(aligner_data::PromptTemplate::default())
        .build()
        .expect("a model");
    let want = model
        .correct(
            "What orbits what?",
            FLAT,
            &aligner_infer::CorrectOptions {
                max_new_tokens: 8,
                ..Default::default()
            },
        )
        .expect("a correction");
    let engine = LocalEngine::new("tiny", model.batcher(aligner_infer::BatchOptions::default()));
    let served = Served::configured(&Upstream::saying(FLAT), engine, |config| {
        config.correction.max_new_tokens = 8;
        config.gate.enabled = false;
    });
    let body = served.chat(json!({})).json();
    assert_eq!(body["choices"][0]["message"]["content"], want.text);
    assert_eq!(
        body["usage"]["aligner"]["completion_tokens"],
        want.usage.completion_tokens
    );
    // What is too long for the model passes, marked.
    let long = json!({"question": "q", "answer": "long ".repeat(3000)});
    assert_eq!(
        served.post("/v1/corrections", &long).json()["outcome"],
        "passed_length"
    );
}
