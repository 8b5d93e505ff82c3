//! Files of JSON objects, line by line, in constant memory, whole or damaged.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{ReportError, Result};

/// No line of ours is as long; damage can be.
const LONGEST_LINE_BYTES: u64 = 4 << 20;

/// Hands every JSON object of a file to `take`; gives the number of lines that are none. No file: no objects.
///
/// A last line without its end is one that is being written, or that a crash cut off: it counts only when it is whole.
///
/// # Errors
/// When the file cannot be read.
pub fn objects(path: &Path, mut take: impl FnMut(Map<String, Value>)) -> Result<u64> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(ReportError::io("read", path)(error)),
    };
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut line, mut damaged) = (Vec::new(), 0);
    loop {
        line.clear();
        let mut limited = (&mut reader).take(LONGEST_LINE_BYTES);
        let read = limited.read_until(b'\n', &mut line);
        if read.map_err(ReportError::io("read", path))? == 0 {
            return Ok(damaged);
        }
        match serde_json::from_slice(&line) {
            Ok(Value::Object(object)) => take(object),
            _ if line.ends_with(b"\n") || limited.limit() == 0 => damaged += 1,
            _ => {}
        }
    }
}

/// The beginning of a text file, at most so many bytes; `None` when it cannot be had.
pub fn beginning(path: &Path, most_bytes: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(most_bytes).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_counted_and_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        let mut bytes = b"{\"step\":1}\n\xff\x00\n[2]\n{\"step\":3}\n".to_vec();
        bytes.resize(bytes.len() + (5 << 20), 0);
        bytes.extend(b"\n{\"step\":4}\n{\"step\":5");
        std::fs::write(&path, bytes).unwrap();
        let mut steps = Vec::new();
        let damaged = objects(&path, |object| steps.push(object["step"].as_u64().unwrap())).unwrap();
        assert_eq!(steps, [1, 3, 4]);
        assert_eq!(damaged, 4, "two lines, and a block in two pieces");
        assert_eq!(objects(&dir.path().join("none"), |_| {}).unwrap(), 0);
        assert!(objects(dir.path(), |_| {}).is_err());
    }
}
