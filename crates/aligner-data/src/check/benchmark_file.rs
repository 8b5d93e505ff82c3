//! The texts of a benchmark file.
//!
//! JSON (an array, an object, or values one after another, so also JSON lines): every string in it at any depth is a text.
//! Anything else: every line is a text. Plain or gzipped.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::{Deserializer, Value};

use crate::error::{DataError, Result};

/// The longest line of a file of plain lines, in bytes.
const LONGEST_LINE: u64 = 16 << 20;

/// Calls `each` with every text of a file.
pub(super) fn for_each_text(path: &Path, each: &mut dyn FnMut(&str)) -> Result<()> {
    let format = |reason: String| DataError::Format {
        path: path.to_path_buf(),
        reason,
    };
    let mut input = open(path)?;
    let head = input.fill_buf().map_err(DataError::io("read", path))?;
    if head.iter().take(512).any(|&byte| byte == 0) {
        return Err(format(
            "is not a text file; a benchmark is read from JSON or lines of text".into(),
        ));
    }
    let first = head
        .iter()
        .find(|byte| !byte.is_ascii_whitespace() && !matches!(byte, 0xef | 0xbb | 0xbf));
    if !matches!(first, Some(b'[' | b'{')) {
        return lines(path, input, each);
    }
    let mut texts = 0_u64;
    let read = json(input, &mut |text| {
        texts += 1;
        each(text);
    });
    match read {
        Ok(()) => Ok(()),
        // Lines of text may begin with a bracket.
        Err(_) if texts == 0 => lines(path, open(path)?, each),
        Err(error) => Err(format(format!("is not valid JSON: {error}"))),
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let io = || DataError::io("read", path);
    let file = File::open(path).map_err(io())?;
    if file.metadata().map_err(io())?.is_dir() {
        return Err(DataError::Format {
            path: path.to_path_buf(),
            reason: "is a directory; name the files in it".into(),
        });
    }
    let mut file = BufReader::with_capacity(1 << 16, file);
    let zipped = file.fill_buf().map_err(io())?.starts_with(&[0x1f, 0x8b]);
    let mut input: Box<dyn BufRead> = if zipped {
        Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    };
    if input.fill_buf().map_err(io())?.starts_with(&[0xef, 0xbb, 0xbf]) {
        input.consume(3);
    }
    Ok(input)
}

fn lines(path: &Path, mut input: Box<dyn BufRead>, each: &mut dyn FnMut(&str)) -> Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = input.by_ref().take(LONGEST_LINE);
        if limited
            .read_until(b'\n', &mut line)
            .map_err(DataError::io("read", path))?
            == 0
        {
            return Ok(());
        }
        each(&String::from_utf8_lossy(&line));
    }
}

/// Values one after another; of an array at the top its elements, one at a time.
fn json(mut input: Box<dyn BufRead>, each: &mut dyn FnMut(&str)) -> serde_json::Result<()> {
    let head = input.fill_buf().map_err(serde_json::Error::io)?;
    let is_array = head.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let mut deserializer = Deserializer::from_reader(input);
    if is_array {
        deserializer.deserialize_seq(Elements { each })?;
        return deserializer.end();
    }
    for value in deserializer.into_iter::<Value>() {
        strings(&value?, each);
    }
    Ok(())
}

struct Elements<'a> {
    each: &'a mut dyn FnMut(&str),
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(value) = elements.next_element::<Value>()? {
            strings(&value, self.each);
        }
        Ok(())
    }
}

fn strings(value: &Value, each: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => each(text),
        Value::Array(values) => values.iter().for_each(|value| strings(value, each)),
        Value::Object(fields) => fields.values().for_each(|value| strings(value, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(bytes: &[u8]) -> Result<Vec<String>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut texts = Vec::new();
        for_each_text(file.path(), &mut |text| texts.push(text.trim().to_string()))?;
        Ok(texts)
    }

    #[test]
    fn every_string_of_json_and_every_line_of_text_is_read() {
        let want = ["What?", "This", "That"];
        for file in [
            "[{\"q\": \"What?\", \"n\": 3,\n \"a\": [\"This\", {\"b\": \"That\"}]}]",
            "{\"q\": \"What?\"}\n{\"a\": [\"This\", \"That\"], \"none\": null}\n",
            "{\n \"data\": [{\"q\": \"What?\"}, \"This\", \"That\"]\n}",
            "\u{feff}What?\r\nThis\nThat",
        ] {
            assert_eq!(texts(file.as_bytes()).unwrap(), want, "{file}");
        }
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(b"What?\nThis\nThat").unwrap();
        assert_eq!(texts(&zip.finish().unwrap()).unwrap(), want);
    }

    #[test]
    fn lines_that_begin_with_a_bracket_are_lines_and_broken_json_is_an_error() {
        assert_eq!(texts(b"[1] Who?\nTwo").unwrap_or_default().len(), 2);
        let error = texts(b"{\"q\": \"a\"}\n{\"q\": ").unwrap_err().to_string();
        assert!(error.contains("not valid JSON"), "{error}");
        assert!(
            texts(b"PAR1\0\0")
                .unwrap_err()
                .to_string()
                .contains("not a text file")
        );
        assert!(texts(b"").unwrap().is_empty());
    }
}
