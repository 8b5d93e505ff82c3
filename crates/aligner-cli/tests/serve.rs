//! `aligner serve` and `aligner chat`, as processes.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lab::Lab;
use serde_json::{Value, json};

const CORRECTION: &str = "--template correction";

/// A service that runs until it is told to stop, or dropped.
struct Serving {
    child: Child,
    stderr: BufReader<ChildStderr>,
    url: String,
}

impl Serving {
    fn new(lab: &Lab, more: &str, environment: &[(&str, &str)]) -> Self {
        let command = format!("serve --listen 127.0.0.1:0 {CORRECTION} {more}");
        let mut child = lab
            .command(&command)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut serving = Self {
            child,
            stderr,
            url: String::new(),
        };
        let said = serving.until("listening on ");
        serving.url = said.split("listening on ").nth(1).unwrap().trim().to_string();
        serving
    }

    /// Reads what it says until a line has this.
    fn until(&mut self, what: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(
                self.stderr.read_line(&mut line).unwrap(),
                0,
                "{what:?} was not said:\n{all}"
            );
            if line.contains(what) {
                return line;
            }
            all.push_str(&line);
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = std::process::Command::new("kill")
            .args([name, &id])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_with(path, body, ("x-nothing", "1"))
    }

    fn post_with(&self, path: &str, body: &Value, (name, value): (&str, &str)) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        let mut response = agent
            .post(format!("{}{path}", self.url))
            .header(name, value)
            .send(body.to_string())
            .unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server was asked: heads and bodies.
type Asked = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A server that notes what it was asked.
struct Server {
    address: SocketAddr,
    asked: Asked,
}

impl Server {
    /// An upstream that knows one model and says one thing; what else is posted it takes, as a collector of spans does.
    fn new(says: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Asked = Arc::default();
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some((head, body)) = request(&mut stream) else {
                    continue;
                };
                let answer = answer(&head, says);
                noted.lock().unwrap().push((head, body));
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    answer.len()
                );
                let _ = stream.write_all(format!("{head}{answer}").as_bytes());
            }
        });
        Self { address, asked }
    }

    /// Bodies of what was asked at a path, one behind the other, and the last head.
    fn asked_at(&self, path: &str) -> (String, Vec<u8>) {
        let asked = self.asked.lock().unwrap();
        let there: Vec<_> = asked.iter().filter(|(head, _)| head.starts_with(path)).collect();
        let head = there
            .last()
            .unwrap_or_else(|| panic!("{path} was not asked"))
            .0
            .clone();
        (head, there.iter().flat_map(|(_, body)| body.clone()).collect())
    }
}

fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let (mut bytes, mut some) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_string();
            let length = head.to_lowercase();
            let length = length
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some((head, bytes[end + 4..].to_vec()));
            }
        }
        let count = stream.read(&mut some).ok()?;
        if count == 0 {
            return None;
        }
        bytes.extend_from_slice(&some[..count]);
    }
}

fn answer(head: &str, says: &str) -> String {
    if head.starts_with("GET") {
        return json!({"object": "list", "data": [{"id": "up", "object": "model"}]}).to_string();
    }
    if head.starts_with("POST /v1/traces") {
        return String::new();
    }
    let message = json!({"role": "assistant", "content": says});
    json!({
        "id": "1", "object": "chat.completion", "created": 1, "model": "up",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    })
    .to_string()
}

#[test]
fn it_corrects_as_the_command_does_and_reads_settings_and_model_anew() {
    let lab = Lab::new();
    std::fs::rename(lab.path("base"), lab.path("one")).unwrap();
    std::os::unix::fs::symlink("one", lab.path("model")).unwrap();
    std::fs::write(
        lab.path("serve.toml"),
        "[gate]\nenabled = false\n[correction]\nmax_new_tokens = 6\n",
    )
    .unwrap();
    let mut serving = Serving::new(&lab, "--model model --config serve.toml --name mine", &[]);
    let (question, answer) = ("Is it?", "It is.");
    let command = format!("correct --model model {CORRECTION} --max-new-tokens 6");
    let wanted = lab
        .command(&command)
        .args(["--question", question, "--answer", answer])
        .output()
        .unwrap();
    let want = String::from_utf8(wanted.stdout).unwrap();
    let body = json!({"question": question, "answer": answer});
    let (status, found) = serving.post("/v1/corrections", &body);
    assert_eq!((status, &found["model"]), (200, &json!("mine")), "{found}");
    assert_eq!(found["correction"].as_str().unwrap(), want.trim_end_matches('\n'));
    assert_eq!(found["usage"]["completion_tokens"], 6);

    // A file that cannot be used changes nothing.
    std::fs::write(lab.path("serve.toml"), "[correction]\nmax_tokens = 3\n").unwrap();
    serving.signal("-HUP");
    let said = serving.until("stay as they were");
    assert!(said.contains("serve.toml"), "{said}");
    std::fs::write(
        lab.path("serve.toml"),
        "[gate]\nenabled = false\n[correction]\nmax_new_tokens = 3\n",
    )
    .unwrap();
    serving.signal("-HUP");
    serving.until("the settings were read anew");
    assert_eq!(
        serving.post("/v1/corrections", &body).1["usage"]["completion_tokens"],
        3
    );

    // Another model in the place of the first.
    lab.ok("train --model one --data train.jsonl --valid few.jsonl --steps 2 --micro-batch 8 --accumulate 1 --max-length 256 --out two");
    std::fs::remove_file(lab.path("model")).unwrap();
    std::os::unix::fs::symlink("two/final", lab.path("model")).unwrap();
    serving.signal("-HUP");
    serving.until("the model was read anew");
    assert_eq!(serving.post("/v1/corrections", &body).0, 200);

    serving.signal("-TERM");
    serving.until("stopping");
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_asked_wrongly_is_told_before_a_model_is_read() {
    let lab = Lab::new();
    std::fs::write(lab.path("bad.toml"), "[policy]\nworse = \"panic\"\n").unwrap();
    let error = lab.fails(2, "serve --model base --config bad.toml");
    assert!(error.contains("bad.toml") && error.contains("panic"), "{error}");
    let error = lab.fails(2, "serve --model base --config missing.toml");
    assert!(error.contains("missing.toml"), "{error}");
    let error = lab.fails(
        2,
        &format!("serve --model base {CORRECTION} --upstream ftp://x/v1"),
    );
    assert!(error.contains("upstream.url"), "{error}");
    let error = lab.fails(2, "serve --engine openai:http://127.0.0.1:1/v1");
    assert!(
        error.contains("--template") || error.contains("--name"),
        "{error}"
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = lab.fails(1, &format!("serve --model base {CORRECTION} --listen {address}"));
    assert!(error.contains("another program"), "{error}");
}

#[test]
fn a_chat_shows_what_was_served() {
    let lab = Lab::new();
    let address = Server::new("[1, 2]").address;
    let command = format!("chat --model base {CORRECTION} --upstream http://{address}/v1");
    let mut chat = lab
        .command(&command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    chat.stdin
        .take()
        .unwrap()
        .write_all(b"Which numbers?\n\n/new\n/quit\n")
        .unwrap();
    let output = chat.wait_with_output().unwrap();
    let (said, shown) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    assert!(output.status.success(), "{said}");
    assert_eq!(shown, "[1, 2]\n");
    assert!(
        said.contains("answers of up") && said.contains("passed_json"),
        "{said}"
    );
}

#[test]
fn a_request_is_one_trace_from_client_to_upstream_and_a_line_of_the_log() {
    let lab = Lab::new();
    let (upstream, collector) = (Server::new("The sun is cold."), Server::new(""));
    let endpoint = format!("http://{}", collector.address);
    let more = format!(
        "--model base --upstream http://{}/v1 --log-json",
        upstream.address
    );
    let mut serving = Serving::new(&lab, &more, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let body = json!({"model": "up", "messages": [{"role": "user", "content": "a private question"}]});
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let (status, _) = serving.post_with("/v1/chat/completions", &body, ("traceparent", &parent));
    assert_eq!(status, 200);
    let line: Value = serde_json::from_str(&serving.until("chat_completions")).unwrap();
    assert_eq!(
        (&line["status"], &line["level"]),
        (&json!(200), &json!("INFO")),
        "{line}"
    );
    assert!(
        line["timestamp"].is_string() && line["request"].is_string(),
        "{line}"
    );
    serving.signal("-TERM");
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));

    // The upstream is asked in the same trace, by a span of the service's own.
    let (head, _) = upstream.asked_at("POST /v1/chat/completions");
    let told = head
        .lines()
        .find_map(|line| line.strip_prefix("traceparent: "))
        .expect("a traceparent");
    assert!(
        told.starts_with(&format!("00-{trace}-")) && told != parent,
        "{told}"
    );
    let (_, spans) = collector.asked_at("POST /v1/traces");
    let has = |what: &[u8]| spans.windows(what.len()).any(|window| window == what);
    let id: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&trace[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    for what in [
        &id[..],
        b"chat_completions",
        b"upstream",
        b"correction",
        b"aligner.outcome",
    ] {
        assert!(has(what), "{}", String::from_utf8_lossy(what));
    }
    assert!(!has(b"a private question") && !has(b"The sun is cold."));
}
