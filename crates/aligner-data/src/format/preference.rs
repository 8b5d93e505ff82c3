//! Preference rows as TRL reads them: a chosen and a rejected completion, as texts or as messages, with their prompt in a
//! column of its own or in front of both.

use serde_json::{Map, Value};

use super::chat::{Message, Role, column, dialogue, pair, prompt};
use super::{hh_rlhf, optional_text};
use crate::record::{Parts, Reason, text};

/// The columns of a question, of which the first that is there counts. LLaMA-Factory calls it `conversations`; of an
/// `instruction`, `input` is a part.
const QUESTIONS: [&str; 5] = ["prompt", "conversations", "instruction", "question", "input"];

pub(super) fn parts(raw: &Map<String, Value>) -> Result<Parts, Reason> {
    if hh_rlhf::looks_like(raw) {
        return hh_rlhf::parts(raw);
    }
    let asked = QUESTIONS
        .into_iter()
        .find(|name| raw.get(*name).is_some_and(|value| !value.is_null()));
    match (column(raw, "chosen")?, column(raw, "rejected")?, asked) {
        (None, None, Some(name)) => texts(raw, name),
        (None, None, None) => match QUESTIONS.into_iter().find(|name| raw.contains_key(*name)) {
            Some(name) => Err(Reason::Bad(format!("`{name}` is null"))),
            None => implicit(&text(raw, "chosen")?, &text(raw, "rejected")?),
        },
        (chosen, rejected, asked) => pair(
            conversation(raw, "chosen", chosen, asked)?,
            conversation(raw, "rejected", rejected, asked)?,
        ),
    }
}

/// The messages that the column of a question holds, and the `input` of an instruction behind them.
fn question(raw: &Map<String, Value>, name: &str) -> Result<Vec<Message>, Reason> {
    let value = raw.get(name).unwrap_or(&Value::Null);
    let mut list = prompt(value).map_err(|reason| reason.within(name))?;
    if name == "instruction"
        && let Some(input) = optional_text(raw, "input")?
    {
        list.push(Message::new(Role::User, &input));
    }
    Ok(list)
}

/// A column's messages, or its text as one: a whole conversation, or what follows the question.
fn conversation(
    raw: &Map<String, Value>,
    name: &str,
    list: Option<Vec<Message>>,
    asked: Option<&str>,
) -> Result<Vec<Message>, Reason> {
    let list = match list {
        Some(list) => list,
        None => vec![Message::new(Role::Assistant, text(raw, name)?.trim())],
    };
    match asked {
        Some(asked) if list.first().is_some_and(|first| first.role == Role::Assistant) => {
            let mut whole = question(raw, asked)?;
            whole.extend(list);
            Ok(whole)
        }
        _ => Ok(list),
    }
}

/// Texts behind a question. The blanks at their seams are the tokenizer's, not the answer's.
fn texts(raw: &Map<String, Value>, asked: &str) -> Result<Parts, Reason> {
    let dialogue = dialogue(question(raw, asked)?).map_err(|reason| reason.within(asked))?;
    let question = dialogue
        .open
        .ok_or_else(|| Reason::unsuitable(format!("`{asked}` does not end with a question")))?;
    Ok(Parts {
        question,
        answer: text(raw, "rejected")?.trim().to_string(),
        correction: Some(text(raw, "chosen")?.trim().to_string()),
        chat_history: dialogue.turns,
    })
}

/// Texts with their prompt in front of them: it is what they share, up to a whole word.
fn implicit(chosen: &str, rejected: &str) -> Result<Parts, Reason> {
    if chosen == rejected {
        return Err(Reason::unsuitable(
            "`chosen` and `rejected` are equal, and there is no `prompt`",
        ));
    }
    let shared: usize = chosen
        .chars()
        .zip(rejected.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum();
    let cut = chosen[..shared].rfind(char::is_whitespace).unwrap_or(0);
    let question = chosen[..cut].trim().to_string();
    let (chosen, rejected) = (chosen[cut..].trim(), rejected[cut..].trim());
    if question.is_empty() || chosen.is_empty() || rejected.is_empty() {
        let reason =
            "`chosen` and `rejected` do not begin with a prompt that they share, and there is no `prompt`";
        return Err(Reason::unsuitable(reason));
    }
    Ok(Parts {
        question,
        answer: rejected.to_string(),
        correction: Some(chosen.to_string()),
        chat_history: Vec::new(),
    })
}
