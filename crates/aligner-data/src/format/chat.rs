//! Chats: lists of messages, and the question, answer and earlier turns in them.

use serde_json::{Map, Value};

use super::{optional_correction, optional_text};
use crate::record::{Columns, Parts, Reason, Turn, kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub role: Role,
    pub text: String,
}

impl Message {
    pub fn new(role: Role, text: &str) -> Self {
        Self {
            role,
            text: text.to_string(),
        }
    }
}

/// Messages in order: turns that were answered, and a question that was not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Dialogue {
    pub turns: Vec<Turn>,
    pub open: Option<String>,
}

/// A row with one list of messages: the last reply is the answer, what comes behind it is not looked at.
pub(super) fn parts(raw: &Map<String, Value>, names: &[&str], columns: &Columns) -> Result<Parts, Reason> {
    let found = names
        .iter()
        .find_map(|name| raw.get(*name).map(|list| (*name, list)));
    let Some((name, list)) = found else {
        return Err(crate::record::text(raw, names[0])
            .err()
            .unwrap_or_default()
            .into());
    };
    let mut list = messages(list).map_err(|reason| reason.within(name))?;
    if let Some(system) = optional_text(raw, "system")? {
        list.insert(0, Message::new(Role::System, &system));
    }
    let (chat_history, Turn { question, answer }) = answered(list).map_err(|reason| reason.within(name))?;
    Ok(Parts {
        question,
        answer,
        correction: optional_correction(raw, columns)?,
        chat_history,
    })
}

/// Messages as they are published: a list of `{role, content}` or `{from, value}`, one such object, an object of two
/// lists, or any of these as JSON text, as a CSV file holds it.
pub(crate) fn messages(value: &Value) -> Result<Vec<Message>, Reason> {
    match value {
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(index, value)| message(index, value))
            .collect(),
        Value::Object(object) => match (object.get("role"), object.get("content")) {
            (Some(Value::Array(roles)), Some(Value::Array(contents))) if roles.len() == contents.len() => {
                let rows = roles.iter().zip(contents).enumerate();
                rows.map(|(index, (role, content))| read(index, Some(role), Some(content)))
                    .collect()
            }
            _ => Ok(vec![message(0, value)?]),
        },
        Value::String(text) => match serde_json::from_str(text) {
            Ok(parsed @ (Value::Array(_) | Value::Object(_))) => messages(&parsed),
            _ => Err(Reason::Bad("is a text, not a list of messages".into())),
        },
        other => Err(Reason::Bad(format!("is {}, not a list of messages", kind(other)))),
    }
}

fn message(index: usize, value: &Value) -> Result<Message, Reason> {
    let get = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| value.get(*name).filter(|value| !value.is_null()))
    };
    read(index, get(["role", "from"]), get(["content", "value"]))
}

fn read(index: usize, role: Option<&Value>, content: Option<&Value>) -> Result<Message, Reason> {
    let Some(name) = role.and_then(Value::as_str) else {
        return Err(Reason::Bad(format!("message {index} has no `role` or `from`")));
    };
    let role = match name.to_ascii_lowercase().as_str() {
        "user" | "human" | "prompter" => Role::User,
        "assistant" | "gpt" | "model" | "bot" | "chatgpt" => Role::Assistant,
        "system" | "developer" => Role::System,
        _ => {
            let reason = format!("message {index} is of {name:?}; a record holds users and assistants alone");
            return Err(Reason::Unsuitable(reason));
        }
    };
    let text = match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(pieces)) => pieces
            .iter()
            .map(|piece| piece.get("text").and_then(Value::as_str))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Reason::unsuitable(format!("message {index} has parts that are not text")))?
            .concat(),
        Some(other) => {
            return Err(Reason::Bad(format!(
                "message {index}: its content is {}, not text",
                kind(other)
            )));
        }
        // A message that calls a tool has no content.
        None => return Err(Reason::unsuitable(format!("message {index} has no text"))),
    };
    Ok(Message { role, text })
}

/// Puts messages into turns. A system prompt goes before the user's next message with a blank line between, as the chat
/// templates without a system role do it; messages of one speaker in a row become one, likewise.
pub(crate) fn dialogue(messages: Vec<Message>) -> Result<Dialogue, Reason> {
    let mut dialogue = Dialogue::default();
    let mut system: Option<String> = None;
    for Message { role, text } in messages {
        match (role, dialogue.open.take(), dialogue.turns.last_mut()) {
            (Role::System, open, _) => {
                dialogue.open = open;
                system = Some(joined(system, &text));
            }
            (Role::User, open, _) => {
                let before = match (open, system.take()) {
                    (Some(open), Some(system)) => Some(joined(Some(open), &system)),
                    (open, system) => open.or(system),
                };
                dialogue.open = Some(joined(before, &text));
            }
            (Role::Assistant, Some(question), _) => dialogue.turns.push(Turn {
                question,
                answer: text,
            }),
            (Role::Assistant, None, Some(last)) => {
                last.answer = joined(Some(std::mem::take(&mut last.answer)), &text)
            }
            (Role::Assistant, None, None) => {
                return Err(Reason::unsuitable("begins with the assistant's message"));
            }
        }
    }
    Ok(dialogue)
}

fn joined(before: Option<String>, text: &str) -> String {
    match before {
        Some(before) if !before.trim().is_empty() => before + "\n\n" + text,
        _ => text.to_string(),
    }
}

/// The turns before the last answered one, and that one.
pub(crate) fn answered(messages: Vec<Message>) -> Result<(Vec<Turn>, Turn), Reason> {
    let mut turns = dialogue(messages)?.turns;
    match turns.pop() {
        Some(last) => Ok((turns, last)),
        None => Err(Reason::unsuitable("no question in it is answered")),
    }
}

/// Two conversations that differ in their last reply: the rejected one is the answer, the chosen one its correction.
pub(super) fn pair(chosen: Vec<Message>, rejected: Vec<Message>) -> Result<Parts, Reason> {
    let (history, chosen) = answered(chosen).map_err(|reason| reason.within("chosen"))?;
    let (other_history, rejected) = answered(rejected).map_err(|reason| reason.within("rejected"))?;
    if history != other_history || chosen.question != rejected.question {
        return Err(Reason::unsuitable(
            "`chosen` and `rejected` differ before their last reply",
        ));
    }
    Ok(Parts {
        question: chosen.question,
        answer: rejected.answer,
        correction: Some(chosen.answer),
        chat_history: history,
    })
}

/// A prompt as messages: a list as it is, a transcript taken apart, another text as the user's message.
pub(super) fn prompt(value: &Value) -> Result<Vec<Message>, Reason> {
    let Value::String(text) = value else {
        return messages(value);
    };
    if let Some(mut list) = super::hh_rlhf::transcript(text) {
        // The prompt ends where the reply is to begin.
        list.pop_if(|last| last.role == Role::Assistant && last.text.is_empty());
        return Ok(list);
    }
    match serde_json::from_str(text) {
        Ok(Value::Array(list))
            if list
                .iter()
                .any(|value| value.get("role").or(value.get("from")).is_some()) =>
        {
            messages(&Value::Array(list))
        }
        _ => Ok(vec![Message::new(Role::User, text)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speakers_in_a_row_and_system_prompts_are_joined() {
        let list = serde_json::json!([
            {"role": "system", "content": "Be kind."}, {"from": "human", "value": "a"}, {"role": "user", "content": "b"},
            {"from": "gpt", "value": "x"}, {"role": "assistant", "content": [{"type": "text", "text": "y"}]},
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "c"},
        ]);
        let dialogue = dialogue(messages(&list).unwrap()).unwrap();
        assert_eq!(dialogue.turns[0].question, "Be kind.\n\na\n\nb");
        assert_eq!(dialogue.turns[0].answer, "x\n\ny");
        assert_eq!(dialogue.open.as_deref(), Some("Be brief.\n\nc"));
    }

    #[test]
    fn what_a_record_cannot_hold_is_named() {
        for (list, part) in [
            (serde_json::json!([{"role": "tool", "content": "1"}]), "\"tool\""),
            (
                serde_json::json!([{"role": "user", "content": [{"type": "image"}]}]),
                "not text",
            ),
            (
                serde_json::json!([{"role": "assistant", "tool_calls": []}]),
                "has no text",
            ),
        ] {
            let Err(Reason::Unsuitable(reason)) = messages(&list) else {
                panic!("{list}")
            };
            assert!(reason.contains(part), "{reason}");
        }
        assert!(matches!(messages(&serde_json::json!([1])), Err(Reason::Bad(_))));
        assert!(matches!(messages(&serde_json::json!("x")), Err(Reason::Bad(_))));
    }
}
