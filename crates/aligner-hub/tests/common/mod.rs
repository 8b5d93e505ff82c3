//! A Hub on this machine: the listing of a repository, its files under `resolve`, and large files on a second port, as a
//! CDN has them. It notes every request and fails where it is told to.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};

/// The commit that `main` is.
pub const COMMIT: &str = "1111111111111111111111111111111111111111";

/// How the next answer about a path goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A status, and headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The connection stays open and silent after so many bytes of the body.
    Hang(usize),
    /// One bit of the body is another.
    Corrupt,
    /// The whole body, whatever range was asked for.
    NoRange,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub at_cdn: bool,
    pub headers: BTreeMap<String, String>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// Who may read the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    #[default]
    Public,
    /// Its listing can be read, its files only with this token.
    Gated(String),
    /// It is not there without this token.
    Private(String),
}

#[derive(Debug, Default)]
struct State {
    id: String,
    commits: BTreeMap<String, String>,
    files: BTreeMap<String, Vec<u8>>,
    large: Vec<String>,
    access: Access,
    faults: Vec<(String, Fault)>,
    seen: Vec<Seen>,
    cdn: String,
    renamed_from: Option<String>,
}

/// A Hub with one repository.
pub struct Server {
    state: Arc<Mutex<State>>,
    stopped: Arc<AtomicBool>,
    endpoint: String,
    threads: Vec<(String, JoinHandle<()>)>,
}

impl Server {
    /// Serves a repository; files whose name ends with `.safetensors` or `.bin` are large.
    pub fn start(id: &str, files: &[(&str, &[u8])]) -> Self {
        let owned = |(name, bytes): &(&str, &[u8])| ((*name).to_string(), bytes.to_vec());
        let files: BTreeMap<_, _> = files.iter().map(owned).collect();
        let is_large = |name: &&String| name.ends_with(".safetensors") || name.ends_with(".bin");
        let large = files.keys().filter(is_large).cloned().collect();
        let state = State {
            id: id.to_string(),
            commits: BTreeMap::from([("main".to_string(), COMMIT.to_string())]),
            files,
            large,
            ..State::default()
        };
        let mut server = Self {
            state: Arc::new(Mutex::new(state)),
            stopped: Arc::default(),
            endpoint: String::new(),
            threads: Vec::new(),
        };
        server.endpoint = format!("http://{}", server.listen(false));
        let cdn = server.listen(true);
        server.state().cdn = format!("http://{cdn}");
        server
    }

    /// `HF_ENDPOINT`
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Who may read.
    pub fn set_access(&self, access: Access) {
        self.state().access = access;
    }

    /// Another name that the repository had.
    pub fn renamed_from(&self, old: &str) {
        self.state().renamed_from = Some(old.to_string());
    }

    /// What a branch or tag is; a commit is itself.
    pub fn set_revision(&self, revision: &str, commit: &str) {
        self.state()
            .commits
            .insert(revision.to_string(), commit.to_string());
    }

    pub fn set_file(&self, name: &str, bytes: &[u8]) {
        self.state().files.insert(name.to_string(), bytes.to_vec());
    }

    /// The next answer to a GET whose path ends so goes wrong; faults of one path come in order.
    pub fn fail(&self, path: &str, fault: Fault) {
        self.state().faults.push((path.to_string(), fault));
    }

    /// The requests since the last call.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn listen(&mut self, at_cdn: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (state, stopped) = (self.state.clone(), self.stopped.clone());
        let accept = move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (state, stopped) = (state.clone(), stopped.clone());
                std::thread::spawn(move || answer(stream.unwrap(), &state, at_cdn, &stopped));
            }
        };
        self.threads.push((address.clone(), std::thread::spawn(accept)));
        address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        for (address, thread) in self.threads.drain(..) {
            let _ = TcpStream::connect(address);
            let _ = thread.join();
        }
    }
}

/// One request a connection.
fn answer(stream: TcpStream, state: &Mutex<State>, at_cdn: bool, stopped: &AtomicBool) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap_or_default();
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return;
    };
    let mut headers = BTreeMap::new();
    for line in reader.lines() {
        let Ok(line) = line else { return };
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_string());
    }
    let seen = Seen {
        method: method.to_string(),
        path: path.to_string(),
        at_cdn,
        headers,
    };
    let (answer, fault) = {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        let fits = |(wanted, _): &(String, Fault)| method == "GET" && path.ends_with(wanted.as_str());
        let body_here = at_cdn || !state.large.iter().any(|file| path.ends_with(file.as_str()));
        let fault = state.faults.iter().position(fits).filter(|_| body_here);
        let fault = fault.map(|place| state.faults.remove(place).1);
        (Answer::to(&seen, &state), fault)
    };
    answer.write(stream, &seen, fault, stopped);
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    ranges: bool,
}

impl Answer {
    fn new(status: u16, headers: Vec<(&'static str, String)>) -> Self {
        Self {
            status,
            headers,
            body: Vec::new(),
            ranges: false,
        }
    }

    fn error(status: u16, code: &str) -> Self {
        Self::new(status, vec![("X-Error-Code", code.to_string())])
    }

    fn file(status: u16, headers: Vec<(&'static str, String)>, body: &[u8]) -> Self {
        Self {
            body: body.to_vec(),
            ranges: true,
            ..Self::new(status, headers)
        }
    }

    fn to(seen: &Seen, state: &State) -> Self {
        if seen.at_cdn {
            let file = seen.path.rsplit('/').next().unwrap_or_default();
            return Self::file(200, vec![("ETag", "\"of-the-cdn\"".into())], &state.files[file]);
        }
        if let Some(old) = &state.renamed_from
            && seen.path.contains(old.as_str())
        {
            let new = seen.path.replace(old.as_str(), &state.id);
            return Self::new(307, vec![("Location", new)]);
        }
        let token = seen.header("authorization");
        let knows = |wanted: &str| token == Some(format!("Bearer {wanted}").as_str());
        let status = if token.is_some() { 403 } else { 401 };
        match &state.access {
            Access::Private(wanted) if !knows(wanted) => return Self::error(status, "RepoNotFound"),
            Access::Gated(wanted) if !knows(wanted) && !seen.path.starts_with("/api/") => {
                return Self::error(status, "GatedRepo");
            }
            _ => {}
        }
        Self::of_repository(seen, state)
    }

    fn of_repository(seen: &Seen, state: &State) -> Self {
        let commit = |revision: &str| match state.commits.get(revision) {
            Some(commit) => Some(commit.clone()),
            None => state.commits.values().find(|commit| *commit == revision).cloned(),
        };
        if let Some(revision) = seen
            .path
            .strip_prefix(&format!("/api/models/{}/revision/", state.id))
        {
            let Some(sha) = commit(&revision.replace("%2F", "/")) else {
                return Self::error(404, "RevisionNotFound");
            };
            let siblings: Vec<_> = state
                .files
                .keys()
                .map(|name| serde_json::json!({ "rfilename": name }))
                .collect();
            let listing =
                serde_json::json!({ "id": state.id, "sha": sha, "siblings": siblings, "gated": false });
            return Self::file(200, Vec::new(), listing.to_string().as_bytes());
        }
        let Some((revision, file)) = seen
            .path
            .strip_prefix(&format!("/{}/resolve/", state.id))
            .and_then(|rest| rest.split_once('/'))
        else {
            return Self::error(404, "RepoNotFound");
        };
        let Some(commit) = commit(revision) else {
            return Self::error(404, "RevisionNotFound");
        };
        let Some(bytes) = state.files.get(file) else {
            return Self::error(404, "EntryNotFound");
        };
        let mut headers = vec![("X-Repo-Commit", commit)];
        if !state.large.iter().any(|large| large == file) {
            headers.push(("ETag", format!("\"{}\"", &sha256(bytes)[..40])));
            return Self::file(200, headers, bytes);
        }
        headers.push(("ETag", "\"of-the-redirect\"".into()));
        headers.push(("X-Linked-Etag", format!("\"{}\"", sha256(bytes))));
        headers.push(("X-Linked-Size", bytes.len().to_string()));
        headers.push(("Location", format!("{}/cdn/{file}", state.cdn)));
        Self::new(302, headers)
    }

    fn write(mut self, mut stream: TcpStream, seen: &Seen, fault: Option<Fault>, stopped: &AtomicBool) {
        if let Some(Fault::Status(status, headers)) = &fault {
            self = Self::new(*status, headers.clone());
        }
        let from = seen.header("range").filter(|_| self.ranges && self.status == 200);
        let from = from.and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        if let Some(from) = from.filter(|_| !matches!(fault, Some(Fault::NoRange))) {
            let total = self.body.len();
            if from >= total {
                self = Self::new(416, vec![("Content-Range", format!("bytes */{total}"))]);
            } else {
                self.status = 206;
                self.headers
                    .push(("Content-Range", format!("bytes {from}-{}/{total}", total - 1)));
                self.body.drain(..from);
            }
        }
        let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", self.status);
        head += &format!("Content-Length: {}\r\n", self.body.len());
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if stream.write_all(format!("{head}\r\n").as_bytes()).is_err() || seen.method == "HEAD" {
            return;
        }
        match fault {
            Some(Fault::Corrupt) => self.body[0] ^= 1,
            Some(Fault::Cut(count) | Fault::Hang(count)) => self.body.truncate(count),
            _ => {}
        }
        let _ = stream.write_all(&self.body);
        while matches!(fault, Some(Fault::Hang(_))) && !stopped.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The hash as the Hub writes it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
