//! BeaverTails: one response a row, called safe or not; an unsafe one is paired with a safe one of the same prompt.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::record::{Origin, Parts, Reason, Record, text};

/// A row by itself: a response without a correction.
pub(super) fn parts(raw: &Map<String, Value>) -> Result<Parts, Reason> {
    Ok(Parts {
        question: text(raw, "prompt")?,
        answer: text(raw, "response")?,
        correction: None,
        chat_history: Vec::new(),
    })
}

/// A record, or the row that gives none and why.
pub(crate) type Made = Result<Record, (Origin, Reason)>;

/// Rows that lie beside each other and have one prompt.
///
/// In the published files the rows of a prompt lie together, so that one prompt is kept at a time, and of it no more than
/// [`Groups::MAX_ROWS`] rows and [`Groups::MAX_BYTES`] of text: a longer run of rows is paired piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    prompt: String,
    rows: Vec<Member>,
    bytes: usize,
}

#[derive(Debug)]
struct Member {
    response: String,
    is_safe: bool,
    raw: Map<String, Value>,
    origin: Origin,
}

impl Groups {
    /// Rows of one prompt that are kept.
    const MAX_ROWS: usize = 512;
    /// Bytes of their prompts and responses that are kept.
    const MAX_BYTES: usize = 16 << 20;

    /// Takes a row; what was made of the rows before it, when it is of another prompt.
    pub fn add(&mut self, raw: Map<String, Value>, origin: Origin) -> Vec<Made> {
        let (prompt, member) = match member(raw, origin) {
            Ok(read) => read,
            Err(left) => return vec![Err(left)],
        };
        let bytes = prompt.len() + member.response.len();
        let is_full = self.rows.len() >= Self::MAX_ROWS || self.bytes + bytes > Self::MAX_BYTES;
        let made = if prompt != self.prompt || is_full {
            self.finish()
        } else {
            Vec::new()
        };
        self.prompt = prompt;
        self.bytes += bytes;
        self.rows.push(member);
        made
    }

    /// What is made of the rows that are kept; none are afterwards.
    pub fn finish(&mut self) -> Vec<Made> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let safe = texts(&rows, true);
        let unsafe_texts = texts(&rows, false);
        let both: HashSet<String> = safe
            .iter()
            .filter(|text| unsafe_texts.contains(*text))
            .cloned()
            .collect();
        let safe: Vec<&String> = safe.iter().filter(|text| !both.contains(*text)).collect();
        let has_unsafe = unsafe_texts.iter().any(|text| !both.contains(text));
        let mut made = Vec::new();
        let mut paired: HashSet<String> = HashSet::new();
        for row in rows {
            let reason = if both.contains(&row.response) {
                "the same response is called safe in one row and unsafe in another"
            } else if row.is_safe && has_unsafe {
                // It is, or could be, the correction of others.
                continue;
            } else if row.is_safe {
                "no unsafe response to the same prompt lies beside it"
            } else if safe.is_empty() {
                "no safe response to the same prompt lies beside it"
            } else if !paired.insert(row.response.clone()) {
                "the same response to the same prompt was there before"
            } else {
                // Safe responses take turns.
                let correction = safe[(paired.len() - 1) % safe.len()].clone();
                made.push(Ok(Parts {
                    question: self.prompt.clone(),
                    answer: row.response,
                    correction: Some(correction),
                    chat_history: Vec::new(),
                }
                .into_record(row.raw, row.origin)));
                continue;
            };
            made.push(Err((row.origin, Reason::unsuitable(reason))));
        }
        made
    }
}

/// The responses that are called safe, or those that are not, each once and in order.
fn texts(rows: &[Member], is_safe: bool) -> Vec<String> {
    let mut seen = HashSet::new();
    rows.iter()
        .filter(|row| row.is_safe == is_safe && seen.insert(row.response.as_str()))
        .map(|row| row.response.clone())
        .collect()
}

fn member(raw: Map<String, Value>, origin: Origin) -> Result<(String, Member), (Origin, Reason)> {
    let read = || -> Result<_, Reason> {
        let prompt = text(&raw, "prompt")?;
        if prompt.trim().is_empty() {
            return Err(Reason::Bad("`prompt` is empty".into()));
        }
        let response = text(&raw, "response")?;
        let is_safe = truth(&raw, "is_safe")?;
        if is_safe && response.trim().is_empty() {
            return Err(Reason::Bad(
                "`response` is empty, and it would be a correction".into(),
            ));
        }
        Ok((prompt, response, is_safe))
    };
    match read() {
        Ok((prompt, response, is_safe)) => {
            let member = Member {
                response,
                is_safe,
                raw,
                origin,
            };
            Ok((prompt, member))
        }
        Err(reason) => Err((origin, reason)),
    }
}

/// A yes or no, as JSON or as a CSV file holds it.
pub(super) fn truth(raw: &Map<String, Value>, column: &str) -> Result<bool, Reason> {
    let said = match raw.get(column) {
        Some(Value::Bool(said)) => Some(*said),
        Some(Value::Number(number)) => match number.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Some(Value::String(said)) => match said.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    };
    said.ok_or_else(|| Reason::Bad(format!("`{column}` is neither true nor false")))
}
