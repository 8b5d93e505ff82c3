//! Results that are there complete or not at all.

use std::path::{Path, PathBuf};

use aligner_data::DataError;

use super::{ExportFormat, ExportOptions, Exported};
use crate::error::{InferError, Result};

/// Whether something may be written to `out`, asked before work begins.
pub(super) fn check(out: &Path, options: &ExportOptions) -> Result<()> {
    let is_file = out
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if options.format == ExportFormat::Gguf && !is_file {
        let reason = format!(
            "a GGUF export is a file: let --out, {}, end in .gguf",
            out.display()
        );
        return Err(InferError::Export(reason));
    }
    if options.format != ExportFormat::Gguf {
        options.dtype.of_safetensors()?;
        if out.is_file() {
            let reason = format!(
                "{} is a file; an export of this format is a directory",
                out.display()
            );
            return Err(InferError::Export(reason));
        }
    }
    if !out.exists() {
        return Ok(());
    }
    let reason = if !options.overwrite {
        "is there already; name another place or add --overwrite"
    } else if options.format != ExportFormat::Gguf && !is_replaceable(out)? {
        "is neither empty nor a model's directory, so nothing replaces it; name another place"
    } else {
        return Ok(());
    };
    Err(InferError::Export(format!("{} {reason}", out.display())))
}

/// Whether a directory is empty or a model's: all that is in it is deleted when another takes its place.
fn is_replaceable(dir: &Path) -> Result<bool> {
    let has = |name: &str| dir.join(name).exists();
    let is_empty = std::fs::read_dir(dir).map_err(io("read", dir))?.next().is_none();
    let is_model = has("config.json") || has("adapter_config.json");
    Ok(is_empty || is_model && !has("run.toml"))
}

/// What is exported may not lie in what the export replaces.
pub(super) fn check_apart<'a>(out: &Path, mut sources: impl Iterator<Item = &'a Path>) -> Result<()> {
    let Ok(replaced) = out.canonicalize() else {
        // It is not there.
        return Ok(());
    };
    let lies_there = |dir: &&Path| dir.canonicalize().is_ok_and(|dir| dir.starts_with(&replaced));
    let Some(source) = sources.find(lies_there) else {
        return Ok(());
    };
    Err(InferError::Export(format!(
        "{} is what is exported, or holds it ({}); name another place",
        out.display(),
        source.display()
    )))
}

pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> InferError {
    let path = path.to_path_buf();
    move |source| InferError::Data(DataError::Io { action, path, source })
}

/// Fills a directory beside `out` and renames it. What was there before is moved aside first and deleted last: a crash
/// leaves the old directory, the new one, or, between two renames, both beside the place.
pub(super) fn directory(out: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (part, old) = (beside(out, "part"), beside(out, "old"));
    remove(&part)?;
    std::fs::create_dir_all(&part).map_err(io("create", &part))?;
    let filled = fill(&part).and_then(|()| sync(&part));
    let placed = filled.and_then(|()| {
        if out.exists() {
            remove(&old)?;
            std::fs::rename(out, &old).map_err(io("rename", out))?;
        }
        std::fs::rename(&part, out).map_err(io("write", out))
    });
    if placed.is_err() {
        // Best effort: the error that matters is the one being reported.
        let _ = std::fs::remove_dir_all(&part);
    }
    placed?;
    remove(&old)
}

fn beside(out: &Path, what: &str) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.{}.{what}", std::process::id()))
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(io("remove", dir))?;
    }
    Ok(())
}

/// Everything on the disk before the name is: a rename may overtake what it names.
fn sync(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(io("read", dir))? {
        let path = entry.map_err(io("read", dir))?.path();
        let file = std::fs::File::open(&path).map_err(io("read", &path))?;
        file.sync_all().map_err(io("write", &path))?;
    }
    Ok(())
}

/// What stands in a directory.
pub(super) fn listed(out: &Path, notes: Vec<String>) -> Result<Exported> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(out).map_err(io("read", out))? {
        let entry = entry.map_err(io("read", out))?;
        let size = entry.metadata().map_err(io("read", &entry.path()))?.len();
        files.push((size, entry.path()));
    }
    files.sort_by(|a, b| b.cmp(a));
    Ok(Exported {
        bytes: files.iter().map(|(size, _)| size).sum(),
        files: files.into_iter().map(|(_, path)| path).collect(),
        notes,
    })
}

/// A small text file, whole or not there.
pub(super) fn text_file(path: &Path, text: &str) -> Result<()> {
    let part = beside(path, "part");
    std::fs::write(&part, text).map_err(io("write", &part))?;
    std::fs::rename(&part, path).map_err(io("write", path))
}
