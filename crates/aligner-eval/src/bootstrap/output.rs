//! Rows and manifest as files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::manifest::{BootstrapManifest, FILE, HashedFile};
use super::select::Rows;
use super::summary::Summary;
use crate::error::{EvalError, Result};
use crate::files::named;

/// The files of rows.
const TRAIN: &str = "train.jsonl";
const VALID: &str = "valid.jsonl";

/// Writes `train.jsonl`, `valid.jsonl` (where there are rows for it) and `manifest.json` into `dir`, which is
/// made. Every file is written beside its place, synced and renamed when it is whole, the manifest last: where one lies, the
/// rows beside it are those of which it has the hashes.
///
/// # Errors
/// When one of these files is there already and `overwrite` is not set, or one cannot be written.
pub fn write(rows: &Rows<'_>, dir: &Path, inputs: &[HashedFile], overwrite: bool) -> Result<Summary> {
    if let Some(name) = [TRAIN, VALID, FILE]
        .into_iter()
        .find(|name| dir.join(name).exists())
        && !overwrite
    {
        let reason = "is there already: choose another directory, or say that it may be overwritten";
        return Err(EvalError::file(&dir.join(name), reason));
    }
    std::fs::create_dir_all(dir).map_err(EvalError::io("write", dir))?;
    let (format, seed) = (rows.options.format, rows.options.seed);
    let mut parts = vec![Part::of_rows(dir, TRAIN, format.rows(&rows.train, seed))?];
    if !rows.valid.is_empty() {
        parts.push(Part::of_rows(dir, VALID, format.rows(&rows.valid, seed))?);
    }
    let files = parts.iter().map(|part| part.file.clone()).collect();
    let manifest = BootstrapManifest::of(rows, inputs, files);
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|cause| EvalError::file(&dir.join(FILE), cause.to_string()))?;
    let last = Part::of_lines(dir, FILE, [Ok(text)])?;
    // Old rows under a new manifest, or new ones under an old one, would be neither.
    for name in [FILE, VALID] {
        remove(&dir.join(name))?;
    }
    for part in parts {
        part.finish()?;
    }
    last.finish()?;
    sync_dir(dir)?;
    Ok(Summary::of(dir, manifest))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EvalError::io("write", path)(error))
        }
        _ => Ok(()),
    }
}

/// Makes renamings last.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(EvalError::io("write", dir))?;
    }
    Ok(())
}

/// A file that is written beside its place; it goes away again when it is not finished.
struct Part {
    place: PathBuf,
    beside: PathBuf,
    file: HashedFile,
}

impl Part {
    fn of_rows(dir: &Path, name: &str, rows: impl Iterator<Item = Value>) -> Result<Self> {
        Self::of_lines(dir, name, rows.map(|row| serde_json::to_string(&row)))
    }

    fn of_lines(
        dir: &Path,
        name: &str,
        lines: impl IntoIterator<Item = serde_json::Result<String>>,
    ) -> Result<Self> {
        let beside = dir.join(format!(".{name}.{}.partial", std::process::id()));
        let mut part = Self {
            place: dir.join(name),
            beside,
            file: HashedFile {
                file: name.into(),
                rows: 0,
                sha256: String::new(),
            },
        };
        let written = part.write(lines);
        written.map_err(EvalError::io("write", &part.beside))?;
        Ok(part)
    }

    fn write(&mut self, lines: impl IntoIterator<Item = serde_json::Result<String>>) -> std::io::Result<()> {
        let mut hash = Sha256::new();
        let mut file = BufWriter::new(File::create(&self.beside)?);
        for line in lines {
            let line = line? + "\n";
            hash.update(&line);
            file.write_all(line.as_bytes())?;
            self.file.rows += 1;
        }
        self.file.sha256 = named(hash);
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()
    }

    fn finish(self) -> Result<()> {
        std::fs::rename(&self.beside, &self.place).map_err(EvalError::io("write", &self.place))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Nothing is left when it was renamed.
        let _ = std::fs::remove_file(&self.beside);
    }
}
