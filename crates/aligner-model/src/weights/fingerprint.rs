//! Whether a model's files are still those that something was made of: quantised weights, a control vector.

use std::fs::{DirEntry, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::error::{ModelError, Result};

/// What is read of a file's beginning, where its header is.
const HEAD_BYTES: u64 = 1 << 16;
/// Places behind it, evenly spaced, and the bytes that are read at each.
const PLACES: u64 = 64;
const PLACE_BYTES: u64 = 1 << 12;

/// What a model's directory may have beside the model: made of it, or of no use to who runs it.
const NOT_OF_MODEL: [&str; 2] = ["steering.safetensors", "optimizer.safetensors"];

/// `sha256:` and a hash of the names and sizes of a model's files and of parts of what they hold: the same wherever they are copied to.
///
/// Training changes every weight. A file of which a few numbers were changed on purpose, elsewhere, is taken for the old one.
///
/// # Errors
/// When the directory has no weights, or a file cannot be read.
pub fn weights_fingerprint(dir: &Path) -> Result<String> {
    Ok(format!("sha256:{}", of_files(dir, Times::AreLeftOut)?))
}

/// [`weights_fingerprint`] that also tells a file by its time: one that was changed must also have its old time, to the nanosecond,
/// to be taken for the old one. Reading all of a model would take longer than quantising it.
///
/// # Errors
/// As [`weights_fingerprint`].
pub(super) fn of_dir(dir: &Path) -> Result<String> {
    of_files(dir, Times::Count)
}

#[derive(Clone, Copy, PartialEq)]
enum Times {
    Count,
    AreLeftOut,
}

fn of_files(dir: &Path, times: Times) -> Result<String> {
    let io = || ModelError::io("read", dir);
    let entries: Vec<DirEntry> = std::fs::read_dir(dir)
        .map_err(io())?
        .collect::<std::io::Result<_>>()
        .map_err(io())?;
    let mut names: Vec<_> = entries.iter().map(DirEntry::file_name).collect();
    names.retain(|name| is_of_model(&name.to_string_lossy()));
    if !names.iter().any(|name| is_weights(&name.to_string_lossy())) {
        return Err(ModelError::NoWeights(dir.to_path_buf()));
    }
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        let path = dir.join(&name);
        hash.update(name.as_encoded_bytes());
        add_file(&mut hash, &path, times).map_err(ModelError::io("read", &path))?;
    }
    Ok(hex(&hash.finalize()))
}

fn is_of_model(name: &str) -> bool {
    name == "config.json" || name.ends_with(".index.json") || is_weights(name)
}

fn is_weights(name: &str) -> bool {
    !NOT_OF_MODEL.contains(&name) && [".safetensors", ".bin"].iter().any(|end| name.ends_with(end))
}

fn add_file(hash: &mut Sha256, path: &Path, times: Times) -> std::io::Result<()> {
    // Of what a link points to.
    let metadata = std::fs::metadata(path)?;
    let len = metadata.len();
    hash.update(len.to_le_bytes());
    if times == Times::Count {
        let modified = metadata.modified().ok();
        let age = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        hash.update(age.map_or(0, |age| age.as_nanos()).to_le_bytes());
    }
    if !metadata.is_file() {
        return Ok(());
    }
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes)?;
    hash.update(&bytes);
    let rest = len.saturating_sub(HEAD_BYTES + PLACE_BYTES);
    for place in 1..=PLACES {
        if rest == 0 {
            break;
        }
        bytes.clear();
        let at = HEAD_BYTES + (u128::from(rest) * u128::from(place) / u128::from(PLACES)) as u64;
        file.seek(SeekFrom::Start(at))?;
        file.by_ref().take(PLACE_BYTES).read_to_end(&mut bytes)?;
        hash.update(&bytes);
    }
    Ok(())
}

/// A name for a directory.
pub(super) fn of_path(dir: &Path) -> String {
    let path = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    hex(&hash[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_change_of_size_time_name_or_content_shows() {
        let dir = tempfile::tempdir().unwrap();
        let (path, when) = (
            dir.path().join("model.safetensors"),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        );
        let write = |bytes: &[u8], when| {
            std::fs::write(&path, bytes).unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(when)
                .unwrap();
            of_dir(dir.path()).unwrap()
        };
        let bytes = vec![7; 300_000];
        let first = write(&bytes, when);
        assert_eq!(first, write(&bytes, when));
        assert_ne!(first, write(&bytes, when + Duration::from_nanos(1)));
        assert_ne!(first, write(&bytes[1..], when));
        for at in [0, HEAD_BYTES as usize - 1, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(first, write(&changed, when), "{at}");
        }
        assert_eq!(first, write(&bytes, when));
        // What is no part of the model does not count, and what may be one does.
        std::fs::write(dir.path().join("model.q8.aligner"), "x").unwrap();
        assert_eq!(first, of_dir(dir.path()).unwrap());
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert_ne!(first, of_dir(dir.path()).unwrap());
    }

    #[test]
    fn small_and_empty_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.bin"), "").unwrap();
        std::fs::write(dir.path().join("b.bin"), "b").unwrap();
        assert_eq!(of_dir(dir.path()).unwrap().len(), 64);
        assert!(of_dir(&dir.path().join("none")).is_err());
    }
}
