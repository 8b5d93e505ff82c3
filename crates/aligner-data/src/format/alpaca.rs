//! Alpaca: an instruction, perhaps with an input, and one output.

use serde_json::{Map, Value};

use super::{optional_correction, optional_text};
use crate::record::{Columns, Parts, Reason, text};

pub(super) fn parts(raw: &Map<String, Value>, columns: &Columns) -> Result<Parts, Reason> {
    let mapped = columns.mapped();
    let column = |field: &'static str, ours: &'static str| match field {
        "question" if mapped.contains(&field) => columns.question.clone(),
        "answer" if mapped.contains(&field) => columns.answer.clone(),
        _ => ours.to_string(),
    };
    let mut question = text(raw, &column("question", "instruction"))?;
    if let Some(input) = optional_text(raw, "input")? {
        question = question + "\n\n" + &input;
    }
    let mut chat_history = columns.history(raw)?;
    if chat_history.is_empty() && raw.contains_key("history") {
        let published = Columns {
            chat_history: "history".into(),
            ..Columns::default()
        };
        chat_history = published.history(raw)?;
    }
    Ok(Parts {
        question,
        answer: text(raw, &column("answer", "output"))?,
        correction: optional_correction(raw, columns)?,
        chat_history,
    })
}
