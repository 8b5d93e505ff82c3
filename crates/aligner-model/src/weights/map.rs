//! Weight files as memory: one mapping, read where it lies.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{ModelError, Result};

/// A file whose bytes are read without being copied first, or bytes that stand in for one.
///
/// The pages of a mapping are the kernel's copy of the file: they can be dropped at any time and do not add to what the
/// process allocates. What is mapped must stay as it is: when another process *truncates* the file meanwhile, reading
/// behind its new end raises SIGBUS, which ends this process; when it overwrites the file in place, weights of both are
/// read. Neither happens to a file that is replaced as this crate and the Hugging Face libraries replace files: written
/// beside its place and renamed, which leaves the mapped one untouched until the mapping is gone.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl MappedFile {
    /// Maps a regular file.
    ///
    /// # Errors
    /// When it cannot be read, or is something else: a pipe would block, a device has no end.
    pub fn open(path: &Path) -> Result<Self> {
        let io = || ModelError::io("read", path);
        let metadata = std::fs::metadata(path).map_err(io())?;
        if !metadata.is_file() {
            return Err(ModelError::weights(path, "is not a file"));
        }
        // SAFETY: The mapping is read-only and private to this type, and only bytes are read from it, of which every
        // pattern is valid. That no other process changes the file is a demand on the user (see the type's text): no
        // system offers a way to enforce it. Should one, values are wrong or SIGBUS ends the process; nothing that was
        // checked is trusted again after a second look at the bytes (headers are parsed into owned values once).
        let map = unsafe { Mmap::map(&File::open(path).map_err(io())?) }.map_err(io())?;
        // What has to come from the disk comes in large pages, where the file system has some.
        #[cfg(target_os = "linux")]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            tracing::debug!(path = %path.display(), %error, "the file lies in small pages");
        }
        Ok(Self {
            path: path.to_path_buf(),
            bytes: Bytes::Mapped(map),
        })
    }

    /// Bytes from elsewhere; `path` stands for the file in messages.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_path_buf(),
            bytes: Bytes::Owned(bytes),
        }
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the kernel that a part has been read and is not needed soon, so that the pages of a file of many gigabytes
    /// do not pile up in the process's resident memory. The part can still be read.
    pub fn release(&mut self, range: Range<usize>) {
        let Bytes::Mapped(map) = &mut self.bytes else {
            return;
        };
        #[cfg(unix)]
        if range.start < range.end && range.end <= map.len() {
            // SAFETY: `&mut self` says that nobody borrows the bytes, and dropping pages of a read-only mapping of a
            // file loses nothing: they are read from the file again.
            let advised = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            if let Err(error) = advised {
                tracing::debug!(path = %self.path.display(), %error, "pages could not be released");
            }
        }
        #[cfg(not(unix))]
        let _ = (map, range);
    }
}

/// What a file that is no weight file may be instead, as the end of a message.
pub(crate) fn what_else(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        " (it is empty)"
    } else if bytes.starts_with(b"version https://git-lfs") {
        " (it is a Git LFS pointer: fetch the file itself with `git lfs pull`)"
    } else if bytes.starts_with(b"GGUF") {
        " (it is a GGUF file)"
    } else if bytes.starts_with(b"<!DOCTYPE") || bytes.starts_with(b"<html") {
        " (it is a web page)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_part_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let mut file = MappedFile::open(&path).unwrap();
        file.release(5000..70_000);
        assert!(file.bytes().iter().all(|&byte| byte == 7));
        assert_eq!(file.bytes().len(), 100_000);
    }

    #[test]
    fn a_mapped_file_that_is_replaced_by_renaming_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let file = MappedFile::open(&path).unwrap();
        std::fs::write(&other, [1]).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(file.bytes(), vec![7; 10_000]);
    }

    #[test]
    fn empty_files_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, []).unwrap();
        assert!(MappedFile::open(&path).unwrap().bytes().is_empty());
        let error = MappedFile::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is not a file"), "{error}");
    }
}
