//! A service over a scripted engine and a scripted upstream, each on a port of its own, and a client that sees every byte.

#![allow(
    dead_code,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test uses a part of it, and fails where it breaks"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aligner_infer::{FinishReason, Timings, Usage};
use aligner_serve::{
    Engine, EngineError, Event, Finished, Job, Running, ServeConfig, Service, UpstreamConfig, serve,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::unbounded_channel;

/// What the engine writes for a job, piece by piece, each after a pause; `Err` fails behind them.
pub type Script = (Vec<(Duration, String)>, Result<FinishReason, EngineError>);

/// An engine that follows a script, and counts.
#[derive(Clone)]
pub struct Scripted {
    script: Arc<dyn Fn(&Job) -> Script + Send + Sync>,
    pub jobs: Arc<Mutex<Vec<Job>>>,
    /// Whether jobs are kept.
    pub remembers: bool,
    /// Corrections that were dropped before their end.
    pub dropped: Arc<AtomicUsize>,
}

impl Scripted {
    pub fn new(script: impl Fn(&Job) -> Script + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            jobs: Arc::default(),
            remembers: true,
            dropped: Arc::default(),
        }
    }

    /// Replaces words, at once.
    pub fn replacing(from: &'static str, to: &'static str) -> Self {
        Self::new(move |job| (words(&job.answer.replace(from, to)), Ok(FinishReason::Stop)))
    }
}

/// A text word by word.
pub fn words(text: &str) -> Vec<(Duration, String)> {
    text.split_inclusive(' ')
        .map(|word| (Duration::ZERO, word.to_string()))
        .collect()
}

impl Engine for Scripted {
    fn model(&self) -> &str {
        "scripted"
    }

    fn start(&self, job: Job) -> Running {
        let (pieces, end) = (self.script)(&job);
        if self.remembers {
            self.jobs.lock().unwrap().push(job);
        }
        let (sender, events) = unbounded_channel();
        let ended = Arc::new(AtomicUsize::new(0));
        let (told, dropped) = (Arc::clone(&ended), Arc::clone(&self.dropped));
        let task = tokio::spawn(async move {
            let mut text = String::new();
            for (pause, piece) in pieces {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                text.push_str(&piece);
                let _ = sender.send(Ok(Event::Text(piece)));
            }
            told.store(1, Ordering::SeqCst);
            let _ = sender.send(end.map(|finish_reason| {
                Event::Done(Finished {
                    text,
                    finish_reason,
                    usage: Usage {
                        prompt_tokens: 10,
                        completion_tokens: 5,
                        draft_proposed: 4,
                        draft_accepted: 3,
                    },
                    timings: Timings::default(),
                })
            }));
        });
        Running::new(events, move || {
            if ended.load(Ordering::SeqCst) == 0 {
                dropped.fetch_add(1, Ordering::SeqCst);
            }
            task.abort();
        })
    }
}

/// A response of bytes, each piece after a pause; the connection is closed behind them.
pub type Answer = Vec<(Duration, Vec<u8>)>;

/// An upstream that answers each request with raw bytes.
pub struct Upstream {
    pub address: SocketAddr,
    /// Heads and bodies of what it was asked.
    pub asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Upstream {
    pub fn new(answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        Self::serving(move |mut stream, head, body| {
            for (pause, bytes) in answer(head, body) {
                std::thread::sleep(pause);
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
        })
    }

    /// One that says the same thing again and again, until nobody listens.
    pub fn endless(event: Value, left: impl Fn() + Send + Sync + 'static) -> Self {
        Self::serving(move |mut stream, _, _| {
            let frame = format!("data: {event}\n\n").into_bytes();
            let mut sent = stream.write_all(&stream_head());
            while sent.is_ok() {
                std::thread::sleep(Duration::from_millis(5));
                sent = stream.write_all(&frame);
            }
            left();
        })
    }

    fn serving(serve: impl Fn(TcpStream, &str, &Value) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let (serve, noted) = (Arc::new(serve), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (serve, noted) = (Arc::clone(&serve), Arc::clone(&noted));
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let Some((head, body)) = request(&mut stream) else {
                        return;
                    };
                    noted.lock().unwrap().push((head.clone(), body.clone()));
                    let body = serde_json::from_str(&body).unwrap_or(Value::Null);
                    serve(stream, &head, &body);
                });
            }
        });
        Self { address, asked }
    }

    /// One that says the same to everybody, whole or word by word as it was asked.
    pub fn saying(text: &'static str) -> Self {
        Self::new(move |_, body| match body["stream"].as_bool() {
            Some(true) => stream_of(&text.split_inclusive(' ').collect::<Vec<_>>()),
            _ => whole(&completion(text)),
        })
    }

    pub fn config(&self) -> UpstreamConfig {
        UpstreamConfig {
            first_byte_secs: 3.0,
            idle_secs: 2.0,
            max_answer_bytes: 100_000,
            ..UpstreamConfig::new(format!("http://{}/v1", self.address))
        }
    }
}

fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut some = [0; 65536];
    loop {
        let count = stream.read(&mut some).ok()?;
        bytes.extend_from_slice(&some[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length: ")
                        .map(str::to_string)
                })
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Some((head.to_string(), body.to_string()));
            }
        }
        if count == 0 {
            return None;
        }
    }
}

/// A response of JSON.
pub fn whole(value: &Value) -> Answer {
    response("200 OK", "application/json", value.to_string().as_bytes())
}

pub fn response(status: &str, kind: &str, body: &[u8]) -> Answer {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    vec![(Duration::ZERO, [head.as_bytes(), body].concat())]
}

pub fn completion(text: &str) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "up", "service_tier": "x",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    })
}

/// The head of a stream that ends with its connection.
pub fn stream_head() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec()
}

pub fn chunk(delta: Value, finish_reason: Value) -> Vec<u8> {
    let chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "up",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    });
    format!("data: {chunk}\n\n").into_bytes()
}

/// A whole stream of chat chunks.
pub fn stream_of(texts: &[&str]) -> Answer {
    let pause = Duration::from_millis(2);
    let mut answer = vec![(Duration::ZERO, stream_head())];
    answer.push((
        pause,
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
    ));
    answer.extend(
        texts
            .iter()
            .map(|text| (pause, chunk(json!({ "content": text }), Value::Null))),
    );
    answer.push((pause, chunk(json!({}), "stop".into())));
    answer.push((pause, b"data: [DONE]\n\n".to_vec()));
    answer
}

/// A service that runs until it is dropped.
pub struct Served {
    pub address: SocketAddr,
    pub service: Service,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub fn new(config: ServeConfig, engine: impl Engine) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let service = {
            let _guard = runtime.enter();
            Service::new(config, engine).unwrap()
        };
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let served = service.clone();
        let thread = std::thread::spawn(move || {
            let stopped = async move { drop(stopped.await) };
            let listener = aligner_serve::PlainListener::new(listener);
            runtime.block_on(serve(served, listener, stopped)).unwrap();
        });
        Self {
            address,
            service,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// With an upstream, and the rest as it is by default.
    pub fn before(upstream: &Upstream, engine: impl Engine) -> Self {
        Self::configured(upstream, engine, |_| ())
    }

    pub fn configured(
        upstream: &Upstream,
        engine: impl Engine,
        change: impl FnOnce(&mut ServeConfig),
    ) -> Self {
        let mut config = ServeConfig {
            upstream: Some(upstream.config()),
            ..ServeConfig::default()
        };
        change(&mut config);
        Self::new(config, engine)
    }

    pub fn begin_stop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
    }

    pub fn wait(mut self) {
        self.begin_stop();
        self.thread.take().unwrap().join().unwrap();
    }

    pub fn open(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        Reply::read(self.open(method, path, headers, body))
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, "", &body.to_string())
    }

    /// Asks a question, with fields beside it.
    pub fn chat(&self, mut more: Value) -> Reply {
        more["model"] = "up".into();
        if more["messages"].is_null() {
            more["messages"] = json!([{"role": "user", "content": "What orbits what?"}]);
        }
        self.post("/v1/chat/completions", &more)
    }

    pub fn metric(&self, line: &str) -> f64 {
        let text = self.get("/metrics").body;
        let value = text
            .lines()
            .find_map(|found| found.strip_prefix(line))
            .unwrap_or_else(|| panic!("{line}\n{text}"));
        value.trim().parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

/// A response as it came.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// When each event came, since the request was sent.
    pub events: Vec<(Duration, String)>,
}

impl Reply {
    pub fn read(mut stream: TcpStream) -> Self {
        let started = Instant::now();
        let (mut bytes, mut some) = (Vec::new(), [0; 65536]);
        let mut seen = Vec::new();
        loop {
            // A connection that is reset ends here as well: what came before counts.
            let count = stream.read(&mut some).unwrap_or(0);
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&some[..count]);
            seen.push((bytes.len(), started.elapsed()));
        }
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("a head")
            + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head.split_whitespace().nth(1).expect("a status").parse().unwrap();
        let body = match head.contains("transfer-encoding: chunked") {
            true => unchunked(&bytes[end..]),
            false => bytes[end..].to_vec(),
        };
        let body = String::from_utf8(body).expect("UTF-8");
        let mut behind = 0;
        let events = body
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .map(|event| {
                let mut windows = bytes[behind..].windows(event.len());
                let place = windows.position(|window| window == event.as_bytes());
                let at = behind + place.map_or(0, |place| place + event.len());
                behind = at;
                let time = seen
                    .iter()
                    .find(|(length, _)| *length >= at)
                    .map_or(started.elapsed(), |seen| seen.1);
                (time, event.to_string())
            })
            .collect();
        Self {
            status,
            head,
            body,
            events,
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    /// The stream's chunks; it must end with `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        let (last, chunks) = self.events.split_last().expect("events");
        assert_eq!(last.1, "[DONE]", "{}", self.body);
        chunks
            .iter()
            .map(|(_, event)| serde_json::from_str(event).expect("JSON"))
            .collect()
    }

    /// All text of the stream.
    pub fn streamed(&self) -> String {
        self.chunks()
            .iter()
            .filter_map(|chunk| {
                chunk["choices"][0]["delta"]["content"]
                    .as_str()
                    .map(str::to_string)
            })
            .collect()
    }

    /// The last `aligner` object of the stream.
    pub fn report(&self) -> Value {
        let chunks = self.chunks();
        let report = chunks.iter().rev().find(|chunk| chunk["aligner"].is_object());
        report.expect("a report")["aligner"].clone()
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    body
}

/// Waits until something is so, for at most a few seconds; says how long it took.
pub fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{what} did not happen"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    started.elapsed()
}
