//! hh-rlhf: `chosen` and `rejected` are transcripts that differ in their last reply.

use serde_json::{Map, Value};

use super::chat::{Message, Role, dialogue};
use crate::record::{Parts, Reason, text};

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Whether a row's `chosen` and `rejected` are transcripts, and there is no prompt apart from them.
pub(super) fn looks_like(raw: &Map<String, Value>) -> bool {
    let is_transcript = |column| {
        raw.get(column)
            .and_then(Value::as_str)
            .is_some_and(starts_as_transcript)
    };
    raw.get("prompt").is_none_or(Value::is_null) && is_transcript("chosen") && is_transcript("rejected")
}

pub(super) fn parts(raw: &Map<String, Value>) -> Result<Parts, Reason> {
    let (chosen, rejected) = (text(raw, "chosen")?, text(raw, "rejected")?);
    let cut = |column: &str, whole: &str| {
        let at = whole
            .rfind(ASSISTANT)
            .ok_or_else(|| format!("`{column}` has no {ASSISTANT:?}"))?;
        let behind = &whole[at + ASSISTANT.len()..];
        // What the user says after the last reply is no part of it.
        let reply = behind.split(HUMAN).next().unwrap_or_default();
        Ok::<_, String>((whole[..at].to_string(), reply.trim().to_string()))
    };
    let (before, chosen) = cut("chosen", &chosen)?;
    let (rejected_before, rejected) = cut("rejected", &rejected)?;
    if before != rejected_before {
        return Err(Reason::unsuitable(
            "`chosen` and `rejected` differ before their last reply",
        ));
    }
    for (column, reply) in [("chosen", &chosen), ("rejected", &rejected)] {
        if reply.is_empty() {
            return Err(Reason::unsuitable(format!(
                "the last reply of `{column}` is empty"
            )));
        }
    }
    let list = transcript(&before).ok_or_else(|| format!("`chosen` does not begin with {HUMAN:?}"))?;
    let dialogue = dialogue(list).map_err(|reason| reason.within("chosen"))?;
    let Some(question) = dialogue.open else {
        return Err(Reason::unsuitable("the last reply does not follow a question"));
    };
    Ok(Parts {
        question,
        answer: rejected,
        correction: Some(chosen),
        chat_history: dialogue.turns,
    })
}

/// Whether a text begins as a transcript does.
fn starts_as_transcript(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with(HUMAN.trim_start()) || text.starts_with(ASSISTANT.trim_start())
}

/// The messages of a transcript, trimmed; `None` when a text is not one.
pub(super) fn transcript(whole: &str) -> Option<Vec<Message>> {
    if !starts_as_transcript(whole) {
        return None;
    }
    // The first marker may have lost its line feeds.
    let whole = format!("\n\n{}", whole.trim_start());
    let mut messages = Vec::new();
    let mut rest = whole.as_str();
    while !rest.is_empty() {
        let (role, marker) = if rest.starts_with(HUMAN) {
            (Role::User, HUMAN)
        } else {
            (Role::Assistant, ASSISTANT)
        };
        let behind = rest.get(marker.len()..)?;
        // Both are looked for in one pass: a search for one that is not there would go to the end for every message.
        let end = behind.match_indices('\n').map(|(at, _)| at).find(|at| {
            let next = &behind[*at..];
            next.starts_with(HUMAN) || next.starts_with(ASSISTANT)
        });
        let (said, next) = behind.split_at(end.unwrap_or(behind.len()));
        messages.push(Message::new(role, said.trim()));
        rest = next;
    }
    Some(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_is_taken_apart_at_its_speakers() {
        let list = transcript("\n\nHuman: a\n\nb \n\nAssistant: x\n\nHuman:\n\nAssistant:").unwrap();
        let texts: Vec<&str> = list.iter().map(|message| message.text.as_str()).collect();
        assert_eq!(texts, ["a\n\nb", "x", "", ""]);
        assert!(transcript("Who is Human: 7?").is_none());
        assert_eq!(transcript("Human: a").unwrap().len(), 1);
        let list = transcript("Human: a\n\n\nAssistant: x\n\n\n\nHuman: b").unwrap();
        let texts: Vec<&str> = list.iter().map(|message| message.text.as_str()).collect();
        assert_eq!(texts, ["a", "x", "b"]);
    }

    #[test]
    fn many_replies_take_no_longer_than_their_length() {
        let start = std::time::Instant::now();
        let whole = "\n\nHuman: q".to_string() + &"\n\nAssistant: a".repeat(300_000);
        assert_eq!(transcript(&whole).unwrap().len(), 300_001);
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }
}
