//! A judge on this machine: a listener that answers as a test tells it to, and notes what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub at: Instant,
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
}

/// What is sent back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Answer {
    pub fn says(text: &str) -> Self {
        Self::ends(text, "stop")
    }

    pub fn ends(text: &str, finish_reason: &str) -> Self {
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason});
        let usage = json!({"prompt_tokens": 100, "completion_tokens": 10});
        Self {
            status: 200,
            headers: Vec::new(),
            body: json!({"object": "chat.completion", "choices": [choice], "usage": usage}).to_string(),
        }
    }

    pub fn fails(status: u16, message: &str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: json!({"error": {"message": message}}).to_string(),
        }
    }
}

/// Answers the n-th request, counted from 0.
type Mind = dyn Fn(usize, &Seen) -> Answer + Send + Sync;

pub struct FakeJudge {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl FakeJudge {
    /// Listens until the test ends.
    pub fn start(mind: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mind, notes): (Arc<Mind>, _) = (Arc::new(mind), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (mind, notes) = (Arc::clone(&mind), Arc::clone(&notes));
                std::thread::spawn(move || serve(stream, &*mind, &notes));
            }
        });
        Self { url, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn serve(stream: TcpStream, mind: &Mind, notes: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    let (mut length, mut authorization) = (0, None);
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_string()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let seen = Seen {
        at: Instant::now(),
        path,
        authorization,
        body: serde_json::from_slice(&body).unwrap(),
    };
    let number = {
        let mut notes = notes.lock().unwrap();
        notes.push(seen.clone());
        notes.len() - 1
    };
    let answer = mind(number, &seen);
    // Status 0 breaks the connection off.
    if answer.status == 0 {
        return;
    }
    let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!(
        "content-length: {}\r\n\r\n{}",
        answer.body.len(),
        answer.body
    ));
    let mut stream = stream;
    let _ = stream.write_all(head.as_bytes());
}

/// What stands between the lines with the code.
pub fn text_of<'a>(seen: &'a Seen, name: &str) -> &'a str {
    let data = seen.body["messages"][1]["content"].as_str().unwrap();
    let code = data
        .strip_prefix("The code is ")
        .unwrap()
        .split_once('.')
        .unwrap()
        .0;
    let after = data
        .split_once(&format!("=== BEGIN {name} {code} ===\n"))
        .unwrap()
        .1;
    after
        .split_once(&format!("\n=== END {name} {code} ==="))
        .unwrap()
        .0
}

/// Prefers the longer answer, whatever its place.
pub fn longer(_: usize, seen: &Seen) -> Answer {
    let (a, b) = (text_of(seen, "ANSWER A").len(), text_of(seen, "ANSWER B").len());
    Answer::says(match a.cmp(&b) {
        std::cmp::Ordering::Greater => "A has more.\n\n**[[A]]**",
        std::cmp::Ordering::Less => "B has more.\n\nVerdict: B",
        std::cmp::Ordering::Equal => "The same.\n[[c]]",
    })
}
