//! Files that are either the old ones or the new ones, never half of each.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{ModelError, Result};

/// Writes `path` through a temporary file beside it: written, synced, renamed.
pub(crate) fn write_atomic(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let io = || ModelError::io("write", path);
    let written = File::create(&part).map_err(io()).and_then(|file| {
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        fill(&mut writer)?;
        writer.flush().map_err(io())?;
        writer.get_ref().sync_all().map_err(io())
    });
    written
        .and_then(|()| std::fs::rename(&part, path).map_err(io()))
        .inspect_err(|_| {
            // Best effort: the error that matters is the one being reported.
            let _ = std::fs::remove_file(&part);
        })
}
