//! JSON lines, or one JSON array.

use serde_json::Value;

use super::source::{Found, Input, Row};
use super::split::{Chunk, Splitter};

pub(super) struct JsonRows<'a> {
    splitter: Splitter<Input<'a>>,
}

impl<'a> JsonRows<'a> {
    pub fn new(input: Input<'a>, max_bytes: usize) -> Result<Self, String> {
        Ok(Self {
            splitter: Splitter::new(input, max_bytes)?,
        })
    }

    pub fn next_row(&mut self) -> std::io::Result<Option<Found>> {
        Ok(self.splitter.next_chunk()?.map(|chunk| row(chunk?)))
    }
}

fn row(Chunk { line, bytes }: Chunk) -> Found {
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(raw)) => Ok(Row { line, raw }),
        Ok(_) => Err((line, "is not an object".into())),
        Err(error) => Err((line, reason(&error, &bytes))),
    }
}

fn reason(error: &serde_json::Error, bytes: &[u8]) -> String {
    if std::str::from_utf8(bytes).is_err() {
        return "is not valid UTF-8".to_string();
    }
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    let advice = if what.contains("hex escape") {
        " (a \\u escape that is cut, or half of a surrogate pair)"
    } else {
        ""
    };
    format!("is not valid JSON: {what}{advice} at column {}", error.column())
}
