//! Prompt and completion as TRL reads them, texts or messages; rows for KTO have a `label` beside them.

use serde_json::{Map, Value};

use super::beavertails::truth;
use super::chat::{Message, Role, answered, column, prompt};
use super::optional_correction;
use crate::reader::ReadOptions;
use crate::record::{Fields, Parts, Reason, Turn, text};

pub(super) fn parts(raw: &Map<String, Value>, options: &ReadOptions) -> Result<Parts, Reason> {
    let correction = optional_correction(raw, &options.columns)?;
    let is_target = options.fields == Fields::Completion && correction.is_none();
    if is_target && matches!(truth(raw, "label"), Ok(false)) {
        return Err(Reason::unsuitable(
            "`label` is false, and the completion would be the text to write",
        ));
    }
    let mut list = match raw.get("prompt") {
        Some(value) => prompt(value).map_err(|reason| reason.within("prompt"))?,
        None => vec![Message::new(Role::User, &text(raw, "prompt")?)],
    };
    if !list.last().is_some_and(|last| last.role == Role::User) {
        return Err(Reason::unsuitable("`prompt` does not end with a question"));
    }
    match column(raw, "completion")? {
        Some(messages) => list.extend(messages),
        None => list.push(Message::new(Role::Assistant, text(raw, "completion")?.trim())),
    }
    let (chat_history, Turn { question, answer }) = answered(list)?;
    Ok(Parts {
        question,
        answer,
        correction,
        chat_history,
    })
}
