//! Clients as they are used, an upstream as it is used, and the page in a browser.
//!
//! Each test runs when what it needs is named, and says `skipped` otherwise: `ALIGNER_TEST_PYTHON` a Python with openai, litellm,
//! websocket-client and llama-cpp-python\[server\], `ALIGNER_TEST_GGUF` a GGUF file of a chat model for the last of them,
//! `ALIGNER_TEST_BROWSER` a Chromium.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails where it breaks, and says why it was skipped"
)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aligner_infer::FinishReason;
use aligner_serve::{Action, EngineError, Mode, ServeConfig, UpstreamConfig};
use common::{
    Answer, Reply, Scripted, Served, Upstream, completion, response, stream_of, until, whole, words,
};
use serde_json::{Value, json};

const FLAT: &str = "The earth is flat, as everybody knows.";
const ROUND: &str = "The earth is round, as everybody knows.";
/// SHA-256 of `secret`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// A program or file that a variable names.
fn named(variable: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        println!("skipped: {variable} names no {what}");
    }
    path
}

/// A Python that has a module.
fn python(module: &str) -> Option<PathBuf> {
    let python = named("ALIGNER_TEST_PYTHON", &format!("Python with {module}"))?;
    // Without an import, which takes seconds.
    let find = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)");
    let found = Command::new(&python).args(["-c", &find]).status().unwrap();
    if !found.success() {
        println!("skipped: the Python of ALIGNER_TEST_PYTHON has no {module}");
    }
    found.success().then_some(python)
}

/// Runs one of the scripts beside this file, which says `ok`.
fn run(module: &str, script: &str, arguments: &[String]) {
    let Some(python) = python(module) else { return };
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(script);
    let output = Command::new(python).arg(script).args(arguments).output().unwrap();
    let (said, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && said.lines().last() == Some("ok"),
        "{said}\n{error}"
    );
}

/// Words that take a while.
fn slow() -> Scripted {
    Scripted::new(|_| {
        let words = (0..2000).map(|_| (Duration::from_millis(50), "word ".to_string()));
        (words.collect(), Ok(FinishReason::Stop))
    })
}

/// An upstream that answers as it is asked.
fn versatile() -> Upstream {
    Upstream::new(|head, body| {
        if head.starts_with("GET /v1/models ") {
            return whole(
                &json!({"object": "list", "data": [{"id": "up", "object": "model", "created": 1, "owned_by": "x"}]}),
            );
        }
        if head.starts_with("POST /v1/completions ") {
            return whole(&json!({
                "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "up",
                "choices": [{"index": 0, "text": FLAT, "finish_reason": "stop", "logprobs": null}],
            }));
        }
        if body["stream"] == true {
            return stream_of(&FLAT.split_inclusive(' ').collect::<Vec<_>>());
        }
        let mut answer = completion(FLAT);
        let choices = answer["choices"].as_array_mut().unwrap();
        if body["n"] == 2 {
            choices.push(json!({"index": 1, "message": {"role": "assistant", "content": "It is a ball."}, "finish_reason": "stop"}));
        }
        if body["tools"].is_array() {
            let call =
                json!({"id": "call-1", "type": "function", "function": {"name": "look", "arguments": "{}"}});
            choices[0]["message"] = json!({"role": "assistant", "content": null, "tool_calls": [call]});
            choices[0]["finish_reason"] = "tool_calls".into();
        }
        whole(&answer)
    })
}

/// A service with one place, which is taken.
fn busy() -> (Served, TcpStream) {
    let stalled = Upstream::new(|head, _| match head.starts_with("GET /v1/models ") {
        true => whole(&json!({"data": []})),
        false => vec![(Duration::from_secs(600), Vec::new())],
    });
    let served = Served::configured(&stalled, slow(), |config| {
        config.limits.max_requests = 1;
        config.upstream.as_mut().unwrap().first_byte_secs = 600.0;
    });
    let body = json!({"model": "up", "messages": [{"role": "user", "content": "Hi"}]});
    let taken = served.open("POST", "/v1/chat/completions", "", &body.to_string());
    until("the place is taken", || {
        served.metric("aligner_requests_in_flight ") == 1.0
    });
    (served, taken)
}

/// A service before an upstream that is not there.
fn gone() -> Served {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let upstream = Some(UpstreamConfig::new(format!("http://{free}/v1")));
    Served::new(
        ServeConfig {
            upstream,
            ..ServeConfig::default()
        },
        corrector(),
    )
}

fn corrector() -> Scripted {
    Scripted::replacing("flat", "round")
}

/// Services, each with something of its own, and their base URLs by name.
struct Services {
    slow: Scripted,
    urls: Value,
    /// They run as long as they are kept.
    _all: Vec<Served>,
    _taken: TcpStream,
}

impl Services {
    fn new() -> Self {
        let upstream = versatile();
        let (busy, taken) = busy();
        let slow = slow();
        let limited = Upstream::new(|_, _| {
            let body = json!({"error": {"message": "slower", "type": "x", "param": null, "code": "of_the_upstream"}});
            response(
                "429 Too Many Requests\r\nretry-after: 7",
                "application/json",
                body.to_string().as_bytes(),
            )
        });
        // Some of its text is out when it fails.
        let failing = Scripted::new(|_| {
            let mut words = words("The earth is ");
            words.push((Duration::from_millis(20), "round".into()));
            (words, Err(EngineError::Failed("the device is gone".into())))
        });
        let all = [
            ("plain", Served::before(&upstream, corrector())),
            (
                "keyed",
                Served::configured(&upstream, corrector(), |config| {
                    config.auth.key_sha256 = vec![SECRET.into()]
                }),
            ),
            ("busy", busy),
            ("limited", Served::before(&limited, corrector())),
            ("alone", Served::new(ServeConfig::default(), corrector())),
            ("gone", gone()),
            (
                "failing",
                Served::configured(&upstream, failing, |config| {
                    config.policy.aligner_fails = Action::Error
                }),
            ),
            ("slow", Served::before(&upstream, slow.clone())),
        ];
        let urls = all.iter().map(|(name, served)| {
            let url = format!("http://{}/v1", served.address);
            (name.to_string(), Value::from(url))
        });
        let urls = Value::Object(urls.collect());
        Self {
            slow,
            urls,
            _all: all.into_iter().map(|(_, served)| served).collect(),
            _taken: taken,
        }
    }
}

#[test]
fn the_client_of_openai_reads_answers_streams_and_errors() {
    if python("openai").is_none() {
        return;
    }
    let services = Services::new();
    run("openai", "openai_client.py", &[services.urls.to_string()]);
    until("the correction that nobody reads ends", || {
        services.slow.dropped.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn litellm_reads_answers_streams_and_errors() {
    if python("litellm").is_none() {
        return;
    }
    let services = Services::new();
    run("litellm", "litellm_client.py", &[services.urls.to_string()]);
}

#[test]
fn curl_corrects_and_streams() {
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "--noproxy", "*"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: there is no curl");
        return;
    }
    let served = Served::before(&Upstream::saying(FLAT), corrector());
    let url = format!("http://{}/v1", served.address);
    let kind = "content-type: application/json";
    let body = json!({"question": "What shape is the earth?", "answer": FLAT}).to_string();
    let said: Value =
        serde_json::from_str(&curl(&[&format!("{url}/corrections"), "-H", kind, "-d", &body])).unwrap();
    assert_eq!(
        (&said["correction"], &said["outcome"]),
        (&json!(ROUND), &json!("corrected"))
    );
    let body =
        json!({"model": "up", "messages": [{"role": "user", "content": "Hi"}], "stream": true}).to_string();
    let said = curl(&["-N", &format!("{url}/chat/completions"), "-H", kind, "-d", &body]);
    let frames: Vec<&str> = said
        .split_terminator("\n\n")
        .map(|frame| frame.strip_prefix("data: ").unwrap())
        .collect();
    let (done, frames) = frames.split_last().unwrap();
    let chunks = frames
        .iter()
        .map(|frame| serde_json::from_str::<Value>(frame).unwrap());
    let text: String = chunks
        .filter_map(|chunk| {
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_string)
        })
        .collect();
    assert_eq!((text.as_str(), *done), (ROUND, "[DONE]"));
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // One that has ended already needs no end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// llama.cpp's server with the model of `ALIGNER_TEST_GGUF`; gives its port.
fn llama_server() -> Option<(Ended, u16)> {
    let gguf = named("ALIGNER_TEST_GGUF", "GGUF file of a chat model")?;
    let python = python("llama_cpp")?;
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut command = Command::new(python);
    command.args([
        "-m",
        "llama_cpp.server",
        "--n_ctx",
        "512",
        "--port",
        &port.to_string(),
        "--model",
    ]);
    let log = tempfile::NamedTempFile::new().unwrap();
    let child = command
        .arg(gguf)
        .stdout(Stdio::null())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let mut server = Ended(child);
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || std::fs::read_to_string(log.path()).unwrap_or_default();
        assert!(server.0.try_wait().unwrap().is_none(), "{}", said());
        assert!(started.elapsed() < Duration::from_secs(120), "{}", said());
        std::thread::sleep(Duration::from_millis(50));
    }
    Some((server, port))
}

/// Passes one connection on, and keeps what came back.
fn tap(port: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
    let (own, keep) = (listener.local_addr().unwrap().port(), Arc::clone(&kept));
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let (mut near, mut far, mut some) = (near, far, [0; 65536]);
        while let Ok(count @ 1..) = far.read(&mut some) {
            keep.lock().unwrap().extend_from_slice(&some[..count]);
            if near.write_all(&some[..count]).is_err() {
                break;
            }
        }
    });
    (own, kept)
}

/// The body of a response of which the bytes were kept.
fn body_of(kept: Vec<u8>) -> String {
    let replay = Upstream::new(move |_, _| -> Answer { vec![(Duration::ZERO, kept.clone())] });
    let mut stream = TcpStream::connect(replay.address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    Reply::read(stream).body
}

#[test]
fn the_server_of_llama_cpp_is_an_upstream() {
    let Some((_server, port)) = llama_server() else {
        return;
    };
    let before = |port: u16, mode: Mode| {
        let upstream = Some(UpstreamConfig::new(format!("http://127.0.0.1:{port}/v1")));
        // What it says in capitals: any text of a model is changed by that.
        let engine = Scripted::new(|job| (words(&job.answer.to_uppercase()), Ok(FinishReason::Stop)));
        let mut config = ServeConfig {
            mode,
            upstream,
            ..ServeConfig::default()
        };
        config.gate.same_language = false;
        Served::new(config, engine)
    };
    let ask = |more: Value| {
        let mut body = json!({
            "messages": [{"role": "user", "content": "What is the capital of France, and what is it known for?"}],
            "temperature": 0.0, "seed": 1, "max_tokens": 60,
        });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let served = before(port, Mode::Buffer);
    let whole = served
        .chat(ask(json!({"aligner": {"include_original": true}})))
        .json();
    let original = whole["aligner"]["original"].as_str().unwrap();
    assert!(original.contains("Paris"), "{original}");
    assert_eq!(whole["choices"][0]["message"]["content"], original.to_uppercase());
    assert_eq!(whole["aligner"]["outcome"], "corrected");
    // Those of the upstream and the engine's 10 and 5.
    let direct: Value = {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let body = ask(json!({"model": "up"})).to_string();
        let length = body.len();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
        stream
            .write_all(format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())
            .unwrap();
        Reply::read(stream).json()
    };
    for (name, of_engine) in [
        ("prompt_tokens", 10),
        ("completion_tokens", 5),
        ("total_tokens", 15),
    ] {
        let of_upstream = direct["usage"][name].as_u64().unwrap();
        assert_eq!(whole["usage"][name], of_upstream + of_engine, "{name}");
    }

    for mode in ["buffer", "sentence"] {
        let reply = served.chat(ask(
            json!({"stream": true, "aligner": {"mode": mode, "include_original": true}}),
        ));
        let report = reply.report();
        let original = report["original"].as_str().unwrap();
        assert!(original.contains("Paris"), "{original}");
        assert_eq!(
            (reply.streamed(), &report["mode"]),
            (original.to_uppercase(), &json!(mode))
        );
    }

    for more in [json!({}), json!({"stream": true})] {
        let (tapped, kept) = tap(port);
        let served = before(tapped, Mode::Audit);
        let reply = served.chat(ask(more));
        assert_eq!(reply.header("x-aligner-outcome"), Some("audited"));
        assert!(reply.body.contains("Paris"), "{}", reply.body);
        assert_eq!(reply.body, body_of(kept.lock().unwrap().clone()));
        until("it is corrected behind the answer", || {
            served
                .get("/metrics")
                .body
                .contains("aligner_corrections_total{outcome=\"corrected\"} 1")
        });
    }
}

/// `ALIGNER_TEST_SHOTS` names a directory for pictures of it.
#[test]
fn the_page_is_used_in_a_browser() {
    let Some(browser) = named("ALIGNER_TEST_BROWSER", "Chromium") else {
        return;
    };
    if python("websocket").is_none() {
        return;
    }
    let services = Services::new();
    let profile = tempfile::tempdir().unwrap();
    let arguments = [
        services.urls.to_string(),
        browser.display().to_string(),
        profile.path().display().to_string(),
    ];
    run("websocket", "page.py", &arguments);
    until("the correction that was stopped ends", || {
        services.slow.dropped.load(Ordering::SeqCst) == 1
    });
}
