//! Preference rows as TRL reads them: a chosen and a rejected completion, as texts or as messages, with their prompt in a
//! column of its own or in front of both.

use serde_json::{Map, Value};

use super::chat::{Message, Role, dialogue, messages, pair, prompt};
use super::hh_rlhf;
use crate::record::{Parts, Reason, text};

pub(super) fn parts(raw: &Map<String, Value>) -> Result<Parts, Reason> {
    // LLaMA-Factory calls the prompt `conversations`.
    let before = ["prompt", "conversations"].into_iter().find_map(|name| {
        raw.get(name)
            .filter(|value| !value.is_null())
            .map(|value| (name, value))
    });
    let list = |column: &str| {
        raw.get(column)
            .filter(|value| !value.is_string() || is_json(value))
    };
    match (list("chosen"), list("rejected"), before) {
        (Some(chosen), Some(rejected), before) => conversations(chosen, rejected, before),
        (_, _, Some((name, before))) => {
            let before = prompt(before).map_err(|reason| reason.within(name))?;
            texts(&text(raw, "chosen")?, &text(raw, "rejected")?, before)
        }
        (_, _, None) if hh_rlhf::looks_like(raw) => hh_rlhf::parts(raw),
        (_, _, None) => implicit(&text(raw, "chosen")?, &text(raw, "rejected")?),
    }
}

/// Whether a text is messages, as a CSV file holds them.
fn is_json(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.trim_start().starts_with("[{"))
        && messages(value).is_ok()
}

/// Lists of messages: whole conversations, or what follows the prompt.
fn conversations(chosen: &Value, rejected: &Value, before: Option<(&str, &Value)>) -> Result<Parts, Reason> {
    let whole = |column: &str, list: &Value| -> Result<Vec<Message>, Reason> {
        let list = messages(list).map_err(|reason| reason.within(column))?;
        match before {
            Some((name, before)) if list.first().is_some_and(|first| first.role == Role::Assistant) => {
                let mut whole = prompt(before).map_err(|reason| reason.within(name))?;
                whole.extend(list);
                Ok(whole)
            }
            _ => Ok(list),
        }
    };
    pair(whole("chosen", chosen)?, whole("rejected", rejected)?)
}

/// Texts behind a prompt. The blanks at their seams are the tokenizer's, not the answer's.
fn texts(chosen: &str, rejected: &str, before: Vec<Message>) -> Result<Parts, Reason> {
    let dialogue = dialogue(before).map_err(|reason| reason.within("prompt"))?;
    let question = dialogue
        .open
        .ok_or_else(|| Reason::unsuitable("`prompt` does not end with a question"))?;
    Ok(Parts {
        question,
        answer: rejected.trim().to_string(),
        correction: Some(chosen.trim().to_string()),
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
