//! Directories that are replaced as a whole, and files with checksums.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RunState;
use crate::error::{Result, TrainError};

/// `checkpoint.json`
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub state: RunState,
    pub files: Vec<FileRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FileRecord {
    name: String,
    bytes: u64,
    sha256: String,
}

impl FileRecord {
    pub fn of(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let (bytes, sha256) = digest(path).map_err(TrainError::io("read", path))?;
        Ok(Self { name, bytes, sha256 })
    }

    pub fn verify(&self, dir: &Path) -> Result<(), String> {
        let Self { name, bytes, sha256 } = self;
        // The name comes from a file that may be damaged: it must stay inside the directory.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(format!("{name:?} is not a file name"));
        }
        let path = dir.join(name);
        let found = std::fs::metadata(&path)
            .map_err(|error| format!("{name}: {error}"))?
            .len();
        if found != *bytes {
            return Err(format!("{name}: {found} bytes instead of {bytes}"));
        }
        let (_, found) = digest(&path).map_err(|error| format!("{name}: {error}"))?;
        if found == *sha256 {
            Ok(())
        } else {
            Err(format!("{name}: its checksum does not match"))
        }
    }
}

fn digest(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
    }
    Ok((
        bytes,
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}

/// Files of a directory, sorted by name.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(TrainError::io("read", dir))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry.map_err(TrainError::io("read", dir))?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let io = || TrainError::io("write", path);
    let text = serde_json::to_vec_pretty(value).map_err(|error| io()(error.into()))?;
    File::create(path)
        .and_then(|mut file| file.write_all(&text))
        .map_err(io())
}

/// Brings a directory and its files to the disk.
fn sync_all(dir: &Path) -> Result<()> {
    for path in list(dir)? {
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(TrainError::io("sync", &path))?;
    }
    sync_dir(dir)
}

/// Makes a rename of one of `dir`'s entries durable.
fn sync_dir(dir: &Path) -> Result<()> {
    // Only Unix can open a directory; elsewhere the rename itself is all there is.
    if cfg!(unix) {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(TrainError::io("sync", dir))?;
    }
    Ok(())
}

/// Replaces the directory `place` by one that `fill` makes: complete or not at all.
///
/// # Errors
/// When `fill` fails or the directory cannot be put in place; what was there before is there still.
pub fn replace_dir(place: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    recover_dir(place)?;
    let (part, old) = (place.with_extension("part"), place.with_extension("old"));
    std::fs::create_dir_all(&part).map_err(TrainError::io("create", &part))?;
    if let Err(error) = fill(&part).and_then(|()| sync_all(&part)) {
        // On a full disk the half-written directory holds the space that is wanted. The error is the one to tell.
        let _ = std::fs::remove_dir_all(&part);
        return Err(error);
    }
    if place.is_dir() {
        std::fs::rename(place, &old).map_err(TrainError::io("replace", place))?;
    }
    std::fs::rename(&part, place).map_err(TrainError::io("replace", place))?;
    if let Some(parent) = place.parent() {
        sync_dir(parent)?;
    }
    remove_dir(&old)
}

/// Cleans up behind a [`replace_dir`] of `place` that was killed: the old directory comes back when the new one had not
/// taken its place.
///
/// # Errors
/// When a directory cannot be renamed or removed.
pub fn recover_dir(place: &Path) -> Result<()> {
    let old = place.with_extension("old");
    if old.is_dir() && !place.exists() {
        std::fs::rename(&old, place).map_err(TrainError::io("restore", place))?;
    }
    remove_dir(&old)?;
    remove_dir(&place.with_extension("part"))
}

fn remove_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        std::fs::remove_dir_all(dir).map_err(TrainError::io("remove", dir))
    } else {
        Ok(())
    }
}
