//! One repository in the Hub's cache: `blobs/ETAG`, `snapshots/COMMIT/FILE` → blob, `refs/REVISION` = commit.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo};

use crate::error::{HubError, Result};
use crate::model_ref::is_commit;

/// What Python's `huggingface_hub` calls the folder of lock files.
const LOCKS: &str = ".locks";

/// A repository's place in the cache, at one revision.
#[derive(Debug)]
pub struct RepoCache {
    root: PathBuf,
    repo: Repo,
    paths: CacheRepo,
}

impl RepoCache {
    pub fn new(root: &Path, repo: &Repo) -> Self {
        Self {
            root: root.to_path_buf(),
            repo: repo.clone(),
            paths: Cache::new(root.to_path_buf()).repo(repo.clone()),
        }
    }

    /// The folder of the repository.
    pub fn folder(&self) -> PathBuf {
        self.root.join(self.repo.folder_name())
    }

    /// The directory of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.paths.pointer_path(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.paths.blob_path(etag)
    }

    /// Where a file lies until it is whole. The name is our own: `huggingface_hub` never takes it for one of its own.
    pub fn part(&self, etag: &str) -> PathBuf {
        self.paths.blob_path(&format!("{etag}.aligner.incomplete"))
    }

    /// The commit that the revision was when it was last fetched.
    pub fn commit(&self) -> Option<String> {
        let revision = self.repo.revision();
        if is_commit(revision) {
            return Some(revision.to_string());
        }
        let noted = std::fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(noted.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// Notes which commit the revision is.
    pub fn note_commit(&self, commit: &str) -> Result<()> {
        if self.repo.revision() == commit || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder().join("refs").join(self.repo.revision());
        self.paths
            .create_ref(commit)
            .map_err(HubError::io("write", &path))
    }

    /// Makes a blob a file of a commit.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let place = self.snapshot(commit).join(file);
        create_parent(&place)?;
        let blob = self.blob(etag);
        link(&blob, etag, &place).map_err(HubError::io("create", &place))
    }

    /// Keeps other processes from fetching the same file, ours and those of `huggingface_hub`.
    pub fn lock(&self, etag: &str) -> Result<Lock> {
        let folder = self.root.join(LOCKS).join(self.repo.folder_name());
        let path = folder.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.map_err(HubError::io("open", &path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                tracing::warn!(lock = %path.display(), "waiting for another process that fetches this file");
                lock_or_go_on(&path, file.lock())?;
            }
            Err(TryLockError::Error(error)) => lock_or_go_on(&path, Err(error))?,
            Ok(()) => {}
        }
        Ok(Lock(file))
    }
}

/// A lock that ends with its value.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing the file unlocks it")] File);

/// Some network file systems have no locks. Two processes then write the same bytes to the same places.
fn lock_or_go_on(path: &Path, locked: std::io::Result<()>) -> Result<()> {
    match locked {
        Err(error) if error.kind() != ErrorKind::Unsupported => Err(HubError::io("lock", path)(error)),
        _ => Ok(()),
    }
}

pub fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(HubError::io("create", parent)),
        None => Ok(()),
    }
}

/// Links beside the place and renames, so that a link that leads nowhere is replaced and no reader sees none.
#[cfg(unix)]
fn link(_blob: &Path, etag: &str, place: &Path) -> std::io::Result<()> {
    let target = Path::new("..").join("..").join("blobs").join(etag);
    let mut beside = place.as_os_str().to_owned();
    beside.push(format!(".{}.link", std::process::id()));
    let beside = PathBuf::from(beside);
    let _ = std::fs::remove_file(&beside);
    std::os::unix::fs::symlink(target, &beside)?;
    std::fs::rename(&beside, place)
}

/// Links need a privilege here; without it a file lies in the snapshot itself, as with `huggingface_hub`.
#[cfg(not(unix))]
fn link(blob: &Path, _etag: &str, place: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, place).or_else(|_| std::fs::copy(blob, place).map(drop))
}
