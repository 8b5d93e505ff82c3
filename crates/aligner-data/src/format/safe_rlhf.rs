//! PKU-SafeRLHF: two responses to a prompt, and which of them was called safer and which better.

use serde_json::{Map, Value};

use super::Prefer;
use crate::record::{Parts, Reason, text};

pub(super) fn parts(raw: &Map<String, Value>, prefer: Prefer) -> Result<Parts, Reason> {
    let column = match prefer {
        Prefer::Safer => "safer_response_id",
        Prefer::Better => "better_response_id",
    };
    let id = match raw.get(column) {
        Some(Value::Number(id)) => id.as_i64(),
        // As a CSV file holds it.
        Some(Value::String(id)) => id.trim().parse().ok(),
        Some(_) => None,
        None => return Err(format!("has no `{column}` (--prefer says which preference is taken)").into()),
    };
    let (better, worse) = match id {
        Some(0) => ("response_0", "response_1"),
        Some(1) => ("response_1", "response_0"),
        _ => return Err(Reason::unsuitable(format!("`{column}` names neither response"))),
    };
    Ok(Parts {
        question: text(raw, "prompt")?,
        answer: text(raw, worse)?,
        correction: Some(text(raw, better)?),
        chat_history: Vec::new(),
    })
}
