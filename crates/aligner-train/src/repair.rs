//! A `metrics.jsonl` or `samples.jsonl` that is not as the run left it: what can be kept is kept, and what cannot is said.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Result, TrainError};

/// No record is as long; damage can be.
const LONGEST_LINE_BYTES: u64 = 16 << 20;

/// Makes `path` whole for a run that stands behind step `step`, where the file had `bytes` bytes; gives the length that
/// belongs to the run. What comes behind that are steps that will be taken again.
///
/// # Errors
/// When the file cannot be read, or what was kept of it cannot be written.
pub(crate) fn repair(path: &Path, step: u64, bytes: u64) -> Result<u64> {
    let shown = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if bytes > 0 {
                tracing::warn!(
                    "{shown} is missing: the records up to step {step} are lost; the run itself is whole"
                );
            }
            return Ok(0);
        }
        Err(error) => return Err(TrainError::io("read", path)(error)),
    };
    if is_as_left(file, step, bytes).map_err(TrainError::io("read", path))? {
        return Ok(bytes);
    }
    let part = path.with_extension("jsonl.part");
    let kept = keep(path, &part, step).map_err(TrainError::io("repair", path))?;
    if kept.damaged > 0 {
        let aside = free_name(path);
        std::fs::rename(path, &aside).map_err(TrainError::io("move", path))?;
        tracing::warn!(
            "{shown} has {} lines that cannot be read: the others are kept, and the file as it was is {}",
            kept.damaged,
            aside.display()
        );
    }
    std::fs::rename(&part, path).map_err(TrainError::io("repair", path))?;
    // Samples have no record of most steps.
    if kept.last_step < step && kept.bytes < bytes {
        tracing::warn!(
            "{shown} is shorter than the checkpoint says: the records of steps {} to {step} are lost; the run itself is \
             whole",
            kept.last_step + 1
        );
    }
    Ok(kept.bytes)
}

/// Whether the first `bytes` bytes are whole records of steps up to `step`.
fn is_as_left(file: File, step: u64, bytes: u64) -> io::Result<bool> {
    if file.metadata()?.len() < bytes {
        return Ok(false);
    }
    let mut lines = Lines::new(file.take(bytes));
    while let Some(line) = lines.next()? {
        if !line.is_whole || line.step.is_none_or(|found| found > step) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What [`keep`] found.
#[derive(Debug, Default)]
struct Kept {
    bytes: u64,
    last_step: u64,
    /// Lines that are no records; one that a crash cut off at the end does not count.
    damaged: u64,
}

/// Copies the records of steps up to `step`.
fn keep(path: &Path, part: &Path, step: u64) -> io::Result<Kept> {
    let mut lines = Lines::new(File::open(path)?);
    let mut out = BufWriter::new(File::create(part)?);
    let mut kept = Kept::default();
    while let Some(line) = lines.next()? {
        match line.step {
            // A run that begins anew has taken no step, and records its first validation once more.
            Some(found) if found <= step && step > 0 => {
                out.write_all(line.text)?;
                out.write_all(b"\n")?;
                kept.bytes += line.text.len() as u64 + 1;
                kept.last_step = kept.last_step.max(found);
            }
            Some(_) => {}
            None => kept.damaged += u64::from(line.is_whole),
        }
    }
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(kept)
}

/// `metrics.damaged.jsonl`, or with a number when there is one.
fn free_name(path: &Path) -> PathBuf {
    let first = path.with_extension("damaged.jsonl");
    let others = (2u32..).map(|number| path.with_extension(format!("damaged-{number}.jsonl")));
    let mut names = std::iter::once(first.clone()).chain(others);
    names.find(|name| !name.exists()).unwrap_or(first)
}

/// A line and what it says.
struct Line<'a> {
    text: &'a [u8],
    /// Whether it ended with a line feed.
    is_whole: bool,
    /// The step of a record; `None`: this is none.
    step: Option<u64>,
}

/// The lines of a file in constant memory, however damaged it is.
struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    fn new(file: R) -> Self {
        Self {
            reader: BufReader::with_capacity(1 << 16, file),
            line: Vec::new(),
        }
    }

    fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let mut limited = (&mut self.reader).take(LONGEST_LINE_BYTES);
        if limited.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        let is_whole = self.line.pop_if(|byte| *byte == b'\n').is_some() || limited.limit() == 0;
        let record: Option<Value> = serde_json::from_slice(&self.line).ok();
        Ok(Some(Line {
            step: record.and_then(|record| record.get("step")?.as_u64()),
            text: &self.line,
            is_whole,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with records of these steps; the length behind each line.
    fn file(dir: &Path, steps: impl IntoIterator<Item = u64>) -> (PathBuf, Vec<u64>) {
        let path = dir.join("metrics.jsonl");
        let mut text = String::new();
        let mut ends = Vec::new();
        for step in steps {
            text += &format!("{{\"step\":{step},\"split\":\"train\",\"loss\":1.5}}\n");
            ends.push(text.len() as u64);
        }
        std::fs::write(&path, text).unwrap();
        (path, ends)
    }

    fn steps(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
        text.lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["step"]
                    .as_u64()
                    .unwrap()
            })
            .collect()
    }

    #[test]
    fn a_file_as_the_run_left_it_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends) = file(dir.path(), 1..=5);
        let before = std::fs::read(&path).unwrap();
        assert_eq!(repair(&path, 3, ends[2]).unwrap(), ends[2]);
        // What a crash left behind the checkpoint does not matter.
        std::fs::write(&path, [&before[..], b"{\"step\": 6, \"lo"].concat()).unwrap();
        assert_eq!(repair(&path, 3, ends[2]).unwrap(), ends[2]);
        assert_eq!(repair(&path, 0, 0).unwrap(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_missing_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(repair(&dir.path().join("metrics.jsonl"), 3, 99).unwrap(), 0);
    }

    #[test]
    fn a_short_file_keeps_its_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends) = file(dir.path(), 1..=5);
        let whole = std::fs::read(&path).unwrap();
        for length in [ends[2], ends[2] + 7, ends[3] - 1] {
            std::fs::write(&path, &whole[..length as usize]).unwrap();
            // All but the line feed is a whole record.
            let rest = if length == ends[3] - 1 { 4 } else { 3 };
            assert_eq!(repair(&path, 5, ends[4]).unwrap(), ends[rest - 1]);
            assert_eq!(steps(&path), (1..=rest as u64).collect::<Vec<_>>());
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "a torn line is nothing to keep"
        );
    }

    #[test]
    fn garbage_is_put_aside_and_every_record_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends) = file(dir.path(), 1..=4);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = ends[1] as usize;
        bytes.splice(middle..middle, b"\xff\x00 garbage\n[1]\n".iter().copied());
        std::fs::write(&path, &bytes).unwrap();
        // Steps 1 to 3 belong to the run; step 4 will be taken again.
        assert_eq!(repair(&path, 3, ends[2]).unwrap(), ends[2]);
        assert_eq!(steps(&path), [1, 2, 3]);
        let aside = dir.path().join("metrics.damaged.jsonl");
        assert_eq!(std::fs::read(&aside).unwrap(), bytes);
        // A second time does not overwrite the first.
        std::fs::write(&path, "x\n").unwrap();
        assert_eq!(repair(&path, 3, ends[2]).unwrap(), 0);
        assert_eq!(std::fs::read(&aside).unwrap(), bytes);
        assert!(dir.path().join("metrics.damaged-2.jsonl").exists());
    }

    #[test]
    fn a_block_of_zeros_after_a_power_failure_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (path, ends) = file(dir.path(), 1..=3);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[ends[1] as usize..].fill(0);
        bytes.resize(3 << 20, 0);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(repair(&path, 3, ends[2]).unwrap(), ends[1]);
        assert_eq!(steps(&path), [1, 2]);
    }
}
