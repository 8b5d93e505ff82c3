//! Stream-Aligner's rows: an answer so far, its last sentence, and the correction of that sentence.
//!
//! They are read in two ways. `stream-aligner` makes whole answers of them, which any template and `aligner correct` can be
//! used with. `stream-prompt` keeps prefix and sentence apart as the published prompt does: with the template
//! `##Question: {question} | ##Answer_Prefix: {answer} | ##Your_Revision: ` in the conversation frame it gives that prompt
//! to the letter, and the correction is the sentence alone.

use serde_json::{Map, Value};

use crate::record::{Parts, Reason, text};

/// What stands between prefix and last sentence in the published prompt.
const SEAM: &str = " | ##Answer_Last_Sentence: ";

pub(super) fn whole(raw: &Map<String, Value>) -> Result<Parts, Reason> {
    let (prefix, last, correction) = texts(raw)?;
    Ok(Parts {
        question: text(raw, "question")?,
        answer: behind(&prefix, &last),
        correction: Some(behind(&prefix, &correction)),
        chat_history: Vec::new(),
    })
}

pub(super) fn prompt(raw: &Map<String, Value>) -> Result<Parts, Reason> {
    let (prefix, last, correction) = texts(raw)?;
    Ok(Parts {
        question: text(raw, "question")?,
        answer: prefix + SEAM + &last,
        correction: Some(correction),
        chat_history: Vec::new(),
    })
}

fn texts(raw: &Map<String, Value>) -> Result<(String, String, String), Reason> {
    // The first sentence of an answer has nothing before it.
    let prefix = match raw.get("prefix") {
        Some(Value::Null) => String::new(),
        _ => text(raw, "prefix")?,
    };
    let correction = text(raw, "correction")?;
    if correction.trim().is_empty() {
        return Err(Reason::Bad("`correction` is empty".into()));
    }
    Ok((prefix, text(raw, "last")?, correction))
}

/// A sentence behind others, with a blank between where neither brings one.
fn behind(prefix: &str, sentence: &str) -> String {
    let has_blank = prefix.is_empty()
        || prefix.ends_with(char::is_whitespace)
        || sentence.starts_with(char::is_whitespace);
    if has_blank {
        format!("{prefix}{sentence}")
    } else {
        format!("{prefix} {sentence}")
    }
}
