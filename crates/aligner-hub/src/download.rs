//! One file of the Hub: what it is, and fetching it, from where an earlier try stopped.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use ureq::http::StatusCode;
use ureq::http::header::{ETAG, HeaderName};

use crate::cache::create_parent;
use crate::error::{HubError, Result};
use crate::http::{Client, Kind, Request, content_length, header, malformed, range_start};
use crate::model_ref::ModelRef;
use crate::retry::Failure;

const CHUNK_BYTES: usize = 1 << 17;

/// A file as the Hub describes it.
#[derive(Debug, Clone)]
pub struct RemoteFile<'a> {
    pub model: &'a ModelRef,
    pub name: &'a str,
    pub url: String,
    /// The blob's name.
    pub etag: String,
    pub size: Option<u64>,
    /// The hash of a large file; of others the Hub only tells git's.
    pub sha256: Option<String>,
}

impl<'a> RemoteFile<'a> {
    /// Asks the Hub about a file of a commit.
    pub fn look_up(
        client: &Client,
        model: &'a ModelRef,
        name: &'a str,
        url: String,
        commit: &str,
    ) -> Result<Self> {
        let response = client.send(&Request {
            model,
            file: Some(name),
            url: &url,
            kind: Kind::Head,
        })?;
        let own = |name| header(&response, &HeaderName::from_static(name));
        if own("x-repo-commit").is_some_and(|other| other != commit) {
            return Err(malformed(&url, "the answer is about another commit"));
        }
        let etag = own("x-linked-etag").or_else(|| header(&response, &ETAG));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_string());
        // The etag becomes a file name.
        let Some(etag) = etag.filter(|etag| is_plain_etag(etag)) else {
            return Err(malformed(
                &url,
                "the answer has no etag that can name a file of the cache",
            ));
        };
        let size = match own("x-linked-size") {
            Some(size) => size.trim().parse().ok(),
            None if response.status().is_success() => content_length(&response),
            None => None,
        };
        let sha256 = (etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .then(|| etag.to_ascii_lowercase());
        Ok(Self {
            model,
            name,
            etag,
            size,
            sha256,
            url,
        })
    }

    /// Fetches the file into `blob`. Until it is whole and checked it lies in `part`, and `part` is what a later try
    /// goes on from. `progress` is told the bytes that are here.
    pub fn fetch(
        &self,
        client: &Client,
        part: &Path,
        blob: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        create_parent(part)?;
        let mut file = Part::open(part)?;
        let resumed = file.len > 0;
        self.fill(client, &mut file, progress)?;
        if resumed && self.check(&file).is_err() {
            tracing::warn!(
                url = self.url,
                "what an earlier try left is damaged; fetching all of it"
            );
            file.restart()?;
            self.fill(client, &mut file, progress)?;
        }
        if let Err(error) = self.check(&file) {
            let _ = std::fs::remove_file(part);
            return Err(error);
        }
        file.file.sync_all().map_err(HubError::io("write", part))?;
        drop(file);
        std::fs::rename(part, blob).map_err(HubError::io("rename", part))
    }

    /// Fetches until all bytes are there.
    fn fill(&self, client: &Client, part: &mut Part, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let mut tries = client.tries();
        if self.size.is_some_and(|size| part.len > size) {
            part.restart()?;
        }
        while self.size != Some(part.len) {
            progress(part.len);
            let before = part.len;
            let failure = match self.stream(client, part, progress) {
                Ok(()) if self.size.is_none_or(|size| part.len == size) => break,
                Ok(()) => Failure::passing(format!("the connection ended after {} bytes", part.len)),
                Err(failure) => failure,
            };
            if part.len > before {
                tries.reset();
            }
            tries.wait(&self.url, failure)?;
        }
        progress(part.len);
        Ok(())
    }

    /// One request and as much of its body as comes.
    fn stream(&self, client: &Client, part: &mut Part, progress: &mut dyn FnMut(u64)) -> Result<(), Failure> {
        let response = client.try_once(&Request {
            model: self.model,
            file: Some(self.name),
            url: &self.url,
            kind: Kind::Get { from: part.len },
        })?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(part.len) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                part.restart()?;
                return Err(Failure::passing("the server sends another range than asked for"));
            }
            // A server that knows no ranges sends all of it.
            _ if part.len > 0 => part.restart()?,
            _ => {}
        }
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match body.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => return Err(Failure::passing(format!("the connection broke: {error}"))),
            };
            part.append(&chunk[..count])?;
            if self.size.is_some_and(|size| part.len > size) {
                let error = self.check(part).err();
                part.restart()?;
                return error.map_or(Ok(()), |error| Err(error.into()));
            }
            progress(part.len);
        }
    }

    fn check(&self, part: &Part) -> Result<()> {
        let damaged = |what, expected: &str, got: String| HubError::Damaged {
            url: self.url.clone(),
            what,
            expected: expected.to_string(),
            got,
        };
        if let Some(size) = self.size.filter(|size| *size != part.len) {
            return Err(damaged("size", &size.to_string(), part.len.to_string()));
        }
        match (&self.sha256, part.sha256()) {
            (Some(expected), got) if *expected != got => Err(damaged("SHA-256", expected, got)),
            _ => Ok(()),
        }
    }
}

fn is_plain_etag(etag: &str) -> bool {
    (1..=128).contains(&etag.len())
        && etag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A file that is being fetched, and the hash of what is there.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    hash: Sha256,
}

impl Part {
    fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let mut part = Self {
            path: path.to_path_buf(),
            file: file.map_err(HubError::io("open", path))?,
            len: 0,
            hash: Sha256::new(),
        };
        let mut chunk = vec![0; CHUNK_BYTES];
        let there = part.file.metadata().map_err(HubError::io("read", path))?.len();
        while part.len < there {
            let count = part.file.read(&mut chunk).map_err(HubError::io("read", path))?;
            if count == 0 {
                break;
            }
            part.hash.update(&chunk[..count]);
            part.len += count as u64;
        }
        Ok(part)
    }

    /// Forgets what is there.
    fn restart(&mut self) -> Result<()> {
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(HubError::io("write", &self.path))?;
        self.len = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(HubError::io("write", &self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn sha256(&self) -> String {
        let digest = self.hash.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
