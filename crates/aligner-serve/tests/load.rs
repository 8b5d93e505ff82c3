//! Many clients at once, and what the service adds to an answer: `ALIGNER_TEST_LONG=1` runs it for minutes and prints figures.

#![allow(clippy::expect_used, reason = "a test fails where it breaks")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aligner_infer::FinishReason;
use aligner_serve::{Mode, ServeConfig, UpstreamConfig};
use common::{Scripted, Served, completion, words};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// One at a time: each would slow the other down.
static ALONE: Mutex<()> = Mutex::new(());

fn is_long() -> bool {
    std::env::var_os("ALIGNER_TEST_LONG").is_some()
}

/// Reads one message, request or response, that has a length; what it begins with, and nothing at the end.
async fn message(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<u16> {
    bytes.clear();
    loop {
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let complete = match head.split("content-length: ").nth(1) {
            Some(length) => {
                let length: usize = length.lines().next()?.trim().parse().ok()?;
                bytes.len() >= end + 4 + length
            }
            None => bytes.ends_with(b"0\r\n\r\n"),
        };
        if complete {
            return Some(status);
        }
    }
}

/// An upstream that costs next to nothing: what is measured is the service.
async fn upstream() -> SocketAddr {
    let body = completion("The earth is flat, as everybody knows.").to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer: Arc<[u8]> = format!("{head}{body}").into_bytes().into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let mut bytes = Vec::new();
                while message(&mut stream, &mut bytes).await.is_some() {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn request() -> Vec<u8> {
    let body = json!({"model": "up", "messages": [{"role": "user", "content": "What shape is the earth?"}]})
        .to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    format!("{head}{body}").into_bytes()
}

/// What a number of clients saw, each asking again as soon as it is answered. It takes the same memory however many answers there
/// are: the service's is measured in the same process.
#[derive(Debug)]
struct Seen {
    ok: AtomicU64,
    busy: AtomicU64,
    other: AtomicU64,
    /// How many answers took so many steps of time; the last is of all that took longer.
    times: Vec<AtomicU64>,
}

/// What times are told apart by.
const STEP: Duration = Duration::from_micros(10);

impl Seen {
    fn new() -> Self {
        Self {
            ok: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            other: AtomicU64::new(0),
            times: (0..100_000).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn answered(&self, time: Duration) {
        let step = (time.as_nanos() / STEP.as_nanos()) as usize;
        self.times[step.min(self.times.len() - 1)].fetch_add(1, Ordering::Relaxed);
        self.ok.fetch_add(1, Ordering::Relaxed);
    }

    fn median(&self) -> Duration {
        let half = self.ok.load(Ordering::Relaxed) / 2;
        let mut before = 0;
        let step = self.times.iter().position(|count| {
            before += count.load(Ordering::Relaxed);
            before > half
        });
        STEP * step.expect("an answer") as u32
    }
}

async fn load(address: SocketAddr, clients: usize, time: Duration) -> Arc<Seen> {
    let (seen, over) = (Arc::new(Seen::new()), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (seen, over) = (Arc::clone(&seen), Arc::clone(&over));
            tokio::spawn(async move {
                let (mut bytes, request) = (Vec::new(), request());
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                let _ = stream.set_nodelay(true);
                while !over.load(Ordering::Relaxed) {
                    let started = Instant::now();
                    stream.write_all(&request).await.expect("sent");
                    match message(&mut stream, &mut bytes).await {
                        Some(200) => seen.answered(started.elapsed()),
                        Some(429) => {
                            seen.busy.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(200)).await;
                        }
                        _ => {
                            seen.other.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("a client");
    }
    seen
}

fn served(address: SocketAddr, mode: Mode, engine: Scripted) -> Served {
    let config = ServeConfig {
        mode,
        upstream: Some(UpstreamConfig::new(format!("http://{address}/v1"))),
        ..ServeConfig::default()
    };
    Served::new(config, engine)
}

/// What both tests need: to be alone, a thread for clients and upstream, and the upstream.
fn begin() -> (MutexGuard<'static, ()>, Runtime, SocketAddr) {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("threads");
    let upstream = runtime.block_on(upstream());
    (alone, runtime, upstream)
}

fn resident_mib(served: &Served) -> f64 {
    served.metric("process_resident_memory_bytes ") / f64::from(1 << 20)
}

#[test]
fn passing_through_costs_little() {
    let (_alone, runtime, upstream) = begin();
    let served = served(upstream, Mode::Off, Scripted::replacing("flat", "round"));
    let time = if is_long() { 10 } else { 1 };
    let time = Duration::from_secs(time);
    let direct = runtime.block_on(load(upstream, 1, time));
    let through = runtime.block_on(load(served.address, 1, time));
    let added = through.median().saturating_sub(direct.median());
    assert_eq!(through.other.load(Ordering::Relaxed), 0);
    let many = runtime.block_on(load(served.address, 64, time));
    assert_eq!(many.other.load(Ordering::Relaxed), 0);
    let rate = many.ok.load(Ordering::Relaxed) as f64 / time.as_secs_f64();
    println!(
        "one client: {:?} direct, {:?} through, {added:?} added at the median; 64 clients: {rate:.0} requests/s, {:?} at the median",
        direct.median(),
        through.median(),
        many.median()
    );
    assert!(
        added < Duration::from_millis(if is_long() { 1 } else { 50 }),
        "{added:?}"
    );
}

#[test]
fn crowds_are_served_or_told_to_wait_and_memory_stays() {
    let (_alone, runtime, upstream) = begin();
    let pause = Duration::from_millis(20);
    let mut engine = Scripted::new(move |job| {
        let mut pieces = words(&job.answer.replace("flat", "round"));
        pieces[0].0 = pause;
        (pieces, Ok(FinishReason::Stop))
    });
    engine.remembers = false;
    let served = served(upstream, Mode::Buffer, engine);
    let (clients, seconds) = if is_long() { (500, 120) } else { (300, 2) };
    // What every service needs once: threads, connections, the allocator's own.
    runtime.block_on(load(served.address, clients, Duration::from_secs(2)));
    let before = resident_mib(&served);
    let seen = runtime.block_on(load(served.address, clients, Duration::from_secs(seconds)));
    let after = resident_mib(&served);
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{clients} clients, {seconds} s: {} answered ({:.0}/s, {:?} at the median), {} told to wait, {} else; {before:.1} MiB before, {after:.1} after",
        count(&seen.ok),
        count(&seen.ok) as f64 / seconds as f64,
        seen.median(),
        count(&seen.busy),
        count(&seen.other)
    );
    assert_eq!(count(&seen.other), 0);
    assert!(count(&seen.ok) > 100);
    assert!(after < before + 40.0, "{before} MiB, then {after}");
    assert_eq!(served.metric("aligner_requests_in_flight "), 0.0);
}
