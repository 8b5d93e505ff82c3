//! Clients that leave, read slowly, are too many or not known, and a service that stops.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aligner_infer::FinishReason;
use serde_json::json;

use crate::common::{Reply, Scripted, Served, Upstream, until};
use crate::{ANSWER, slow};

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
fn a_head_that_does_not_come_ends_its_connection() {
    let served = Served::configured(&Upstream::saying(ANSWER), slow(1), |config| {
        config.limits.idle_secs = 1.0;
    });
    let heads: [&[u8]; 4] = [
        b"",
        b"GET /health HT",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ",
        // The preface of HTTP/2 cut short.
        b"PRI * HTTP/2.0",
    ];
    for head in heads {
        let started = Instant::now();
        let mut stream = TcpStream::connect(served.address).expect("a connection");
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("a timeout");
        stream.write_all(head).expect("sent");
        let mut said = Vec::new();
        // Closed or reset, with or without a word: what counts is that it ends.
        let ended = stream.read_to_end(&mut said);
        let took = started.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(15),
            "{head:?}: {ended:?} after {took:?}"
        );
    }
    // One that drips is no better than one that stops.
    let mut stream = TcpStream::connect(served.address).expect("a connection");
    stream.write_all(b"GET /health HTTP/1.1\r\n").expect("sent");
    let dripped = (0..150).position(|index| {
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(format!("x-{index}: 1\r\n").as_bytes()).is_err()
    });
    assert!(dripped.is_some(), "a head of 15 s was waited for");
    // Whoever has been answered may be silent as long, and no longer.
    let mut stream = TcpStream::connect(served.address).expect("a connection");
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("sent");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).expect("an end");
    assert!(String::from_utf8_lossy(&said).contains("200 OK"));
    // A request that takes longer than that is no silence.
    let served = Served::configured(&Upstream::saying(ANSWER), slow(5), |config| {
        config.limits.idle_secs = 0.3;
    });
    assert_eq!(served.chat(json!({})).status, 200);
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
