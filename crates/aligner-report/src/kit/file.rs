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

/// Beside the file, and of this process alone: another that writes the same file must not rename half of ours.
fn part_name(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
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
        std::fs::create_dir(part_name(&out)).unwrap();
        assert!(write_whole(&out, "third").is_err());
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "second");
    }

    #[test]
    fn the_part_of_another_process_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("page.html");
        let process = std::process::id();
        assert_eq!(
            part_name(&out),
            dir.path().join(format!("page.html.{process}.part"))
        );
        let other = dir.path().join(format!("page.html.{}.part", process + 1));
        std::fs::write(&other, "half").unwrap();
        write_whole(&out, "whole").unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "half");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
