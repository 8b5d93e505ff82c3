//! Prompt and completion as TRL reads them, texts or messages.

use serde_json::{Map, Value};

use super::chat::{Message, Role, answered, messages, prompt};
use super::optional_correction;
use crate::record::{Columns, Parts, Reason, Turn, text};

pub(super) fn parts(raw: &Map<String, Value>, columns: &Columns) -> Result<Parts, Reason> {
    let mut list = match raw.get("prompt") {
        Some(value) => prompt(value).map_err(|reason| reason.within("prompt"))?,
        None => vec![Message::new(Role::User, &text(raw, "prompt")?)],
    };
    if !list.last().is_some_and(|last| last.role == Role::User) {
        return Err(Reason::unsuitable("`prompt` does not end with a question"));
    }
    match raw.get("completion") {
        Some(value @ (Value::Array(_) | Value::Object(_))) => {
            list.extend(messages(value).map_err(|reason| reason.within("completion"))?);
        }
        _ => list.push(Message::new(Role::Assistant, text(raw, "completion")?.trim())),
    }
    let (chat_history, Turn { question, answer }) = answered(list)?;
    Ok(Parts {
        question,
        answer,
        correction: optional_correction(raw, columns)?,
        chat_history,
    })
}
