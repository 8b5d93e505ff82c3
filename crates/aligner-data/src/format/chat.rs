//! Chats: lists of messages, and the question, answer and earlier turns in them.

use serde_json::{Map, Value};

use super::optional_correction;
use crate::record::{Columns, Parts, Reason, Turn, kind};

/// Who speaks, and what is said, in one of two ways to name them.
const ROLE: [&str; 2] = ["role", "from"];
const CONTENT: [&str; 2] = ["content", "value"];

/// What is wrong with messages that Python printed.
const PYTHON: &str = "holds messages as Python prints them, which is not JSON: write them with json.dumps";

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
    let list = messages(list).map_err(|reason| reason.within(name))?;
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
        Value::Object(object) => {
            let list = |names: [&str; 2]| {
                names
                    .iter()
                    .find_map(|name| object.get(*name).and_then(Value::as_array))
            };
            match (list(ROLE), list(CONTENT)) {
                (Some(roles), Some(contents)) if roles.len() == contents.len() => {
                    let rows = roles.iter().zip(contents).enumerate();
                    rows.map(|(index, (role, content))| read(index, Some(role), Some(content)))
                        .collect()
                }
                _ => Ok(vec![message(0, value)?]),
            }
        }
        Value::String(text) => match serde_json::from_str(text) {
            Ok(parsed @ (Value::Array(_) | Value::Object(_))) => messages(&parsed),
            _ if is_python(text) => Err(Reason::Bad(PYTHON.into())),
            _ => Err(Reason::Bad("is a text, not a list of messages".into())),
        },
        other => Err(Reason::Bad(format!("is {}, not a list of messages", kind(other)))),
    }
}

/// The messages of a column; `None` when it holds another text, or is not there.
pub(super) fn column(raw: &Map<String, Value>, name: &str) -> Result<Option<Vec<Message>>, Reason> {
    let read = match raw.get(name) {
        Some(value @ (Value::Array(_) | Value::Object(_))) => messages(value).map(Some),
        Some(Value::String(text)) => in_text(text),
        _ => Ok(None),
    };
    read.map_err(|reason| reason.within(name))
}

/// The messages that a text is, as a CSV file holds them; `None` when it is another text.
fn in_text(text: &str) -> Result<Option<Vec<Message>>, Reason> {
    let text = text.trim();
    if !text.starts_with(['[', '{']) {
        return Ok(None);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(value) if are_messages(&value) => messages(&value).map(Some),
        Err(_) if is_python(text) => Err(Reason::Bad(PYTHON.into())),
        _ => Ok(None),
    }
}

/// Whether JSON says who speaks and what: it may as well be an answer.
fn are_messages(value: &Value) -> bool {
    let is_message = |value: &Value| {
        let mut names = ROLE.into_iter().zip(CONTENT);
        names.any(|(role, content)| value.get(role).is_some() && value.get(content).is_some())
    };
    match value {
        Value::Array(list) => list.iter().any(is_message),
        _ => is_message(value),
    }
}

/// Whether a text is messages as Python, and so pandas, prints them.
fn is_python(text: &str) -> bool {
    let inner = text.trim_start_matches(|letter: char| letter == '[' || letter.is_whitespace());
    let quoted = inner
        .strip_prefix('{')
        .is_some_and(|inside| inside.trim_start().starts_with('\''));
    quoted
        && ["'role':", "'from':", "'content':"]
            .iter()
            .any(|key| text.contains(*key))
}

fn message(index: usize, value: &Value) -> Result<Message, Reason> {
    let get = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| value.get(*name).filter(|value| !value.is_null()))
    };
    read(index, get(ROLE), get(CONTENT))
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
        // A message that calls a tool has no content.
        None | Some(Value::Null) => return Err(Reason::unsuitable(format!("message {index} has no text"))),
        Some(other) => {
            return Err(Reason::Bad(format!(
                "message {index}: its content is {}, not text",
                kind(other)
            )));
        }
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

/// A text behind another. Blank ones are left away, so that what is before ends in the blanks of one text alone, and looking
/// for them again with each of many texts takes no longer than reading all.
fn joined(before: Option<String>, text: &str) -> String {
    match before {
        Some(before) if text.trim().is_empty() => before,
        Some(before) if !before.trim_end().is_empty() => before + "\n\n" + text,
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
    Ok(in_text(text)?.unwrap_or_else(|| vec![Message::new(Role::User, text)]))
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
    fn blank_messages_add_nothing() {
        let list = ["a", " ", "b\n", "", "c"].map(|text| Message::new(Role::User, text));
        assert_eq!(
            dialogue(list.into()).unwrap().open.as_deref(),
            Some("a\n\nb\n\n\nc")
        );
    }

    #[test]
    fn many_messages_of_one_speaker_take_no_longer_than_their_length() {
        let start = std::time::Instant::now();
        let blanks = " ".repeat(1 << 20);
        let mut list = vec![Message::new(Role::User, "q")];
        list.push(Message::new(Role::Assistant, &(blanks.clone() + "x" + &blanks)));
        list.extend((0..200_000).map(|_| Message::new(Role::Assistant, "")));
        list.extend((0..200_000).map(|_| Message::new(Role::Assistant, "y")));
        let answer = &dialogue(list).unwrap().turns[0].answer;
        assert_eq!(answer.len(), (2 << 20) + 1 + 200_000 * 3);
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }

    #[test]
    fn json_and_python_are_told_from_text() {
        let said = r#"[ {"role": "assistant", "content": "a"}]"#;
        for text in [said, r#"{"from": "gpt", "value": "a"}"#] {
            let list = in_text(text).unwrap().unwrap();
            assert_eq!(list, [Message::new(Role::Assistant, "a")]);
        }
        for text in [
            "a",
            "[1] a",
            "[]",
            r#"{"from": "Rome", "to": "Bari"}"#,
            r#"[{"role": "Hamlet"}]"#,
            "[{'a': 1}]",
        ] {
            assert_eq!(in_text(text), Ok(None), "{text}");
        }
        for text in [
            "[{'content': \"a\", 'role': 'user'}]",
            " [ {'role': 'user'",
            "{'from': 1}",
        ] {
            let Err(Reason::Bad(reason)) = in_text(text) else {
                panic!("{text}")
            };
            assert!(reason.contains("json.dumps"), "{reason}");
            assert_eq!(messages(&text.into()), Err(Reason::Bad(reason)));
        }
    }

    #[test]
    fn two_lists_are_read_by_either_names() {
        let want = [Message::new(Role::User, "q"), Message::new(Role::Assistant, "a")];
        for lists in [
            serde_json::json!({"role": ["user", "assistant"], "content": ["q", "a"]}),
            serde_json::json!({"from": ["human", "gpt"], "value": ["q", "a"]}),
        ] {
            assert_eq!(messages(&lists).unwrap(), want);
        }
        let called = serde_json::json!({"from": ["human", "gpt"], "value": ["q", null]});
        assert!(matches!(messages(&called), Err(Reason::Unsuitable(_))));
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
