//! Directories that are filled beside their place.

use std::fs::DirBuilder;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The ending of a directory that is being filled.
pub(super) const ENDING: &str = ".partial";

/// A new directory that is removed when it goes, unless it was renamed to its place.
#[derive(Debug)]
pub(super) struct Scratch {
    path: Option<PathBuf>,
}

impl Scratch {
    /// A directory in `parent` that nobody else has.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(parent)?;
        let process = std::process::id();
        let mut number = 0u32;
        loop {
            let path = parent.join(format!("{name}.{process}-{number}{ENDING}"));
            match private().create(&path) {
                Ok(()) => return Ok(Self { path: Some(path) }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Gives the directory its place, or says why that is impossible and stays as it is.
    pub fn rename(&mut self, place: &Path) -> Result<()> {
        std::fs::rename(self.path(), place)?;
        self.path = None;
        // The name itself must outlast a loss of power too; not every system can promise it.
        if let Some(parent) = place.parent()
            && let Ok(parent) = std::fs::File::open(parent)
        {
            let _ = parent.sync_all();
        }
        Ok(())
    }

    /// Removes the directory now where the system allows it of files in use, and otherwise when it goes.
    pub fn remove(&mut self) {
        if let Some(path) = &self.path
            && std::fs::remove_dir_all(path).is_ok()
        {
            self.path = None;
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Rows may be confidential: what is made of them is for their user alone.
fn private() -> DirBuilder {
    #[allow(unused_mut)] // only Unix has modes
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}
