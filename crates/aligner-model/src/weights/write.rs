//! Files that are either the old ones or the new ones, never half of each.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{ModelError, Result};

/// Writes `path` through a temporary file beside it: written, synced, renamed.
pub(crate) fn write_atomic(
    path: &Path,
    fill: impl FnOnce(&mut InLargePages<File>) -> Result<()>,
) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let io = || ModelError::io("write", path);
    let written = File::create(&part).map_err(io()).and_then(|file| {
        let mut writer = InLargePages::new(file);
        fill(&mut writer)?;
        writer.flush().map_err(io())?;
        writer.file.sync_all().map_err(io())
    });
    written
        .and_then(|()| std::fs::rename(&part, path).map_err(io()))
        .inspect_err(|_| {
            // Best effort: the error that matters is the one being reported.
            let _ = std::fs::remove_file(&part);
        })
}

/// Writes by whole large pages, which Linux then keeps as such: a program that maps the file misses fewer translations of
/// addresses.
#[derive(Debug)]
pub(crate) struct InLargePages<W> {
    file: W,
    /// What there is of the next one.
    held: Vec<u8>,
}

const LARGE_PAGE: usize = 2 << 20;

impl<W> InLargePages<W> {
    fn new(file: W) -> Self {
        Self {
            file,
            held: Vec::with_capacity(LARGE_PAGE),
        }
    }
}

impl<W: Write> Write for InLargePages<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let part = &bytes[..bytes.len().min(LARGE_PAGE - self.held.len())];
        self.held.extend_from_slice(part);
        if self.held.len() == LARGE_PAGE {
            self.file.write_all(&self.held)?;
            self.held.clear();
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.held)?;
        self.held.clear();
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pages_are_written_whole() {
        #[derive(Default)]
        struct Sizes(Vec<usize>, Vec<u8>);
        impl Write for Sizes {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.push(bytes.len());
                self.1.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let bytes: Vec<u8> = (0..2 * LARGE_PAGE + 77).map(|at| (at % 251) as u8).collect();
        let mut file = InLargePages::new(Sizes::default());
        for part in bytes.chunks(700_001) {
            file.write_all(part).unwrap();
        }
        file.flush().unwrap();
        assert_eq!(file.file.0, [LARGE_PAGE, LARGE_PAGE, 77]);
        assert!(file.file.1 == bytes);
    }
}
