//! Files that are there whole or not at all.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file: whole, or what was there stays. A pipe or a device is written to as it is.
///
/// # Errors
/// When it cannot be written.
pub fn write_whole(out: &Path, content: &str) -> io::Result<()> {
    let is_special = std::fs::metadata(out).is_ok_and(|found| !found.is_file());
    if is_special {
        // A pipe or a terminal cannot be renamed to.
        return std::fs::write(out, content);
    }
    let part = part_name(out);
    let written = std::fs::File::create(&part).and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        // Else a machine that stops could leave an empty file under the name.
        file.sync_all()
    });
    written
        .and_then(|()| std::fs::rename(&part, out))
        .inspect_err(|_| {
            // The error is the one to tell.
            let _ = std::fs::remove_file(&part);
        })
}

fn part_name(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    out.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("page.html");
        write_whole(&out, "first").unwrap();
        write_whole(&out, "second").unwrap();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "second");
        // A directory where the part would be written.
        std::fs::create_dir(dir.path().join("page.html.part")).unwrap();
        assert!(write_whole(&out, "third").is_err());
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "second");
    }
}
