//! Where encoded rows are kept from one run to the next.

use std::fs::{File, Metadata, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::index::{Index, hex};
use super::scratch::{ENDING, Scratch};
use super::{INDEX, TOKENS, TokenStore};
use crate::error::{DataError, Result};

/// The ending of the file that is locked while an entry is filled.
const LOCK: &str = "lock";

/// What was left behind by a process that was killed goes when nobody has written to it for so long.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Where the tokens of many rows are kept, and when they go.
///
/// Rows that fit into memory are never written. More of them lie in files: in the cache, from which a later run over the
/// same rows takes them, or, when there is none, in files of the system's temporary directory that go with the data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCache {
    /// The directory; `None`: nothing is kept.
    pub dir: Option<PathBuf>,
    /// When entries take more than this, in bytes, those that were not used for longest are removed.
    pub limit_bytes: u64,
    /// Rows whose tokens take up to this, in bytes, stay in memory; source files that are larger are never tried to be
    /// held there.
    pub in_memory_bytes: u64,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self {
            dir: None,
            limit_bytes: 20 << 30,
            in_memory_bytes: 32 << 20,
        }
    }
}

/// What, besides the content of its files, decides the tokens of a data set.
pub(crate) struct Identity(pub String);

/// The place of one data set's tokens.
#[derive(Debug)]
pub(crate) struct CacheEntry {
    path: PathBuf,
    /// The sources as they were when they were looked at.
    sources: Vec<(PathBuf, Stamp)>,
}

/// Held by the process that fills an entry; released when dropped, also by a crash.
#[derive(Debug)]
pub(crate) struct FillLock {
    path: PathBuf,
    _file: File,
}

#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

impl TokenCache {
    /// The user's cache: `$ALIGNER_CACHE`, else `$XDG_CACHE_HOME/aligner`, else `~/.cache/aligner`, and in it `tokens`. It
    /// takes up to `$ALIGNER_CACHE_GIB` gibibytes, 20 when that is not set.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = variable("ALIGNER_CACHE").map(PathBuf::from);
        let root =
            root.or_else(|| variable("XDG_CACHE_HOME").map(|caches| PathBuf::from(caches).join("aligner")));
        let root = root.or_else(|| {
            variable("HOME")
                .or_else(|| variable("USERPROFILE"))
                .map(|home| PathBuf::from(home).join(".cache/aligner"))
        });
        let mut cache = Self {
            dir: root.map(|root| root.join("tokens")),
            ..Self::default()
        };
        if let Some(limit) = variable("ALIGNER_CACHE_GIB") {
            match limit.to_string_lossy().trim().parse::<f64>() {
                Ok(gib) if gib >= 0.0 => cache.limit_bytes = (gib * f64::from(1 << 30)) as u64,
                _ => tracing::warn!(?limit, "ALIGNER_CACHE_GIB is not a number of gibibytes: not used"),
            }
        }
        cache
    }

    /// The place of what these files give. There is none without a directory, and for what can be read only once.
    pub(crate) fn entry(&self, files: &[PathBuf], identity: &Identity) -> Result<Option<CacheEntry>> {
        let Some(dir) = &self.dir else {
            return Ok(None);
        };
        let looked_at: Vec<Result<Option<(Stamp, String)>>> =
            files.par_iter().map(|file| content(file)).collect();
        let mut key = Sha256::new();
        key.update(identity.0.as_bytes());
        let mut sources = Vec::new();
        for (file, found) in files.iter().zip(looked_at) {
            let Some((stamp, hash)) = found? else {
                return Ok(None);
            };
            // The ending may say how a file is read; where it lies and how it is called says nothing.
            let ending = ending(file);
            key.update(format!("\n{hash} {} {ending}", stamp.bytes).as_bytes());
            sources.push((file.clone(), stamp));
        }
        let path = dir.join(&hex(key.finalize().as_ref())[..32]);
        Ok(Some(CacheEntry { path, sources }))
    }

    /// A new directory to fill: beside the entry's place, or a temporary one.
    pub(super) fn scratch(&self, entry: Option<&CacheEntry>) -> Result<Scratch> {
        let beside = entry.and_then(|entry| Some((entry.path.parent()?, entry.name())));
        if let Some((parent, name)) = beside {
            match Scratch::new(parent, &name) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => {
                    let path = parent.display();
                    tracing::warn!(%path, %error, "the tokens cannot be kept for later runs (set ALIGNER_CACHE)");
                }
            }
        }
        let parent = std::env::temp_dir();
        Scratch::new(&parent, "aligner-tokens").map_err(DataError::io("create a directory in", &parent))
    }

    /// Gives a full directory its place and opens it.
    pub(super) fn keep(
        &self,
        mut scratch: Scratch,
        entry: Option<&CacheEntry>,
        index: Index,
    ) -> Result<TokenStore> {
        if let Some(entry) = entry {
            entry.check_sources()?;
            let renamed = scratch.rename(&entry.path);
            if renamed.is_ok() {
                self.make_room(&entry.path);
                return TokenStore::map(&entry.path, index).map_err(DataError::io("read", &entry.path));
            }
            // Another process may have been faster.
            if let Some(store) = entry.open() {
                return Ok(store);
            }
            let path = entry.path.display();
            tracing::warn!(%path, ?renamed, "the tokens are not kept for later runs");
        }
        let mut store =
            TokenStore::map(scratch.path(), index).map_err(DataError::io("read", scratch.path()))?;
        scratch.remove();
        store._scratch = Some(scratch);
        Ok(store)
    }

    /// Removes the entries that were not used for longest until the rest is within the limit, and what was abandoned.
    fn make_room(&self, newest: &Path) {
        let Some(listing) = self.dir.as_ref().and_then(|dir| std::fs::read_dir(dir).ok()) else {
            return;
        };
        let mut entries = Vec::new();
        for path in listing.flatten().map(|found| found.path()) {
            if path.to_string_lossy().ends_with(ENDING) {
                if age(&path.join(TOKENS)).is_some_and(|age| age > ABANDONED) {
                    discard(&path, "was left unfinished");
                }
            } else if path.extension().is_some_and(|ending| ending == LOCK) {
                if age(&path).is_some_and(|age| age > ABANDONED) {
                    let _ = std::fs::remove_file(&path);
                }
            } else if path != newest
                && let Some(unused) = age(&path.join(INDEX))
            {
                entries.push((unused, path));
            }
        }
        entries.sort();
        let mut total = size(newest);
        for (_, path) in entries {
            total += size(&path);
            if total > self.limit_bytes {
                discard(&path, "makes room in the cache");
            }
        }
    }
}

/// The ending of a file's name; of a zipped one also the one before, because `.csv.gz` is read as CSV.
fn ending(file: &Path) -> String {
    let part = |path: &Path| {
        path.extension()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let last = part(file);
    if last.eq_ignore_ascii_case("gz") {
        return part(&file.with_extension("")) + "." + &last;
    }
    last
}

impl CacheEntry {
    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The bytes of the source files.
    pub fn source_bytes(&self) -> u64 {
        self.sources.iter().map(|(_, stamp)| stamp.bytes).sum()
    }

    /// What is kept there; what is there but damaged is told and removed.
    pub fn open(&self) -> Option<TokenStore> {
        if !self.path.exists() {
            return None;
        }
        match TokenStore::open(&self.path) {
            Ok(store) => {
                // The time of its last use; a cache that cannot be written to is used all the same.
                let index = File::options().append(true).open(self.path.join(INDEX));
                let _ = index.and_then(|index| index.set_modified(SystemTime::now()));
                Some(store)
            }
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the cached tokens are damaged: the rows are tokenised anew");
                discard(&self.path, "is damaged");
                None
            }
        }
    }

    /// Waits until no other process fills this entry. Where locks are not to be had two processes may do the same work;
    /// the first to finish gives both their tokens.
    pub fn lock(&self) -> Option<FillLock> {
        let path = self.path.with_extension(LOCK);
        std::fs::create_dir_all(path.parent()?).ok()?;
        let file = File::create(&path).ok()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tracing::warn!("another process tokenises the same rows: waiting for it");
                file.lock().ok()?;
            }
            Err(TryLockError::Error(_)) => return None,
        }
        self.sweep();
        Some(FillLock { path, _file: file })
    }

    /// Removes what processes that were killed left of this entry; the lock says that nobody is at work on it.
    fn sweep(&self) {
        let name = self.name();
        let listing = self.path.parent().and_then(|dir| std::fs::read_dir(dir).ok());
        for found in listing.into_iter().flatten().flatten() {
            let other = found.file_name().to_string_lossy().into_owned();
            if other.starts_with(&name) && other.ends_with(ENDING) {
                discard(&found.path(), "was left unfinished");
            }
        }
    }

    /// Tokens are kept under what the files held when they were first looked at.
    fn check_sources(&self) -> Result<()> {
        for (path, stamp) in &self.sources {
            let now = std::fs::metadata(path).map_err(DataError::io("read", path))?;
            if Stamp::of(&now) != *stamp {
                let reason = "changed while it was read; start again when it is complete".to_string();
                return Err(DataError::Format {
                    path: path.clone(),
                    reason,
                });
            }
        }
        Ok(())
    }
}

impl Drop for FillLock {
    fn drop(&mut self) {
        // Whoever waits for it has the file open, and looks for the entry before anything else.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A file's stamp and the hash of its bytes; `None` when it is not a regular file (a pipe can be read only once), or not
/// there (which the reader says better).
fn content(path: &Path) -> Result<Option<(Stamp, String)>> {
    let Ok(metadata) = std::fs::metadata(path) else {
        return Ok(None);
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    let io = || DataError::io("read", path);
    let mut file = File::open(path).map_err(io())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(io())? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(Some((Stamp::of(&metadata), hex(hash.finalize().as_ref()))))
}

/// Time since a file was last changed.
fn age(path: &Path) -> Option<Duration> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    Some(modified.elapsed().unwrap_or_default())
}

/// Bytes of the files in a directory.
fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

fn discard(path: &Path, why: &str) {
    let removed = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
    match removed {
        Ok(()) => tracing::info!(path = %path.display(), "removed: {why}"),
        Err(error) => tracing::debug!(path = %path.display(), %error, "not removed: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_changes_meanwhile_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.jsonl");
        std::fs::write(&file, "{}").unwrap();
        let cache = TokenCache {
            dir: Some(dir.path().join("cache")),
            ..TokenCache::default()
        };
        let entry = |identity: &str| {
            let files = std::slice::from_ref(&file);
            cache.entry(files, &Identity(identity.into())).unwrap().unwrap()
        };
        let before = entry("a");
        before.check_sources().unwrap();
        assert_ne!(before.path, entry("b").path);
        std::fs::write(&file, "{} {}").unwrap();
        let error = before.check_sources().unwrap_err().to_string();
        assert!(error.contains("changed while it was read"), "{error}");
        assert_ne!(before.path, entry("a").path, "other content is another entry");
    }

    #[test]
    fn what_was_abandoned_goes_and_what_is_at_work_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = TokenCache {
            dir: Some(dir.path().to_path_buf()),
            ..TokenCache::default()
        };
        let old = SystemTime::now() - 2 * ABANDONED;
        for (name, modified) in [("a.1-0.partial", old), ("b.1-0.partial", SystemTime::now())] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let tokens = File::create(dir.path().join(name).join(TOKENS)).unwrap();
            tokens.set_modified(modified).unwrap();
        }
        cache.make_room(Path::new("none"));
        assert!(!dir.path().join("a.1-0.partial").exists());
        assert!(dir.path().join("b.1-0.partial").exists());
    }
}
