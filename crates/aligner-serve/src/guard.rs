//! Answers that a correction would harm or not understand, and that pass through.

use serde_json::Value;

use crate::config::GuardConfig;
use crate::outcome::Outcome;

/// What of an answer and its request the guards look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Guarded<'a> {
    /// The answer's text.
    pub answer: &'a str,
    /// Whether it calls tools.
    pub calls_tools: bool,
    /// Whether JSON was asked for.
    pub wants_json: bool,
}

impl GuardConfig {
    /// Why an answer passes through, if it does.
    pub fn passes(&self, guarded: Guarded<'_>) -> Option<Outcome> {
        let Guarded { answer, .. } = guarded;
        if guarded.calls_tools && self.tool_calls {
            return Some(Outcome::PassedToolCalls);
        }
        if answer.trim().is_empty() {
            return Some(Outcome::PassedEmpty);
        }
        if self.json && (guarded.wants_json || is_json(answer)) {
            return Some(Outcome::PassedJson);
        }
        if answer.chars().count() > self.max_answer_chars {
            return Some(Outcome::PassedLength);
        }
        if code_share(answer) >= self.code_share {
            return Some(Outcome::PassedCode);
        }
        if self.refusals && aligner_data::refuses(answer) {
            return Some(Outcome::PassedRefusal);
        }
        None
    }
}

/// Whether a text is a JSON object or array as a whole.
fn is_json(text: &str) -> bool {
    let text = text.trim();
    text.starts_with(['{', '[']) && serde_json::from_str::<Value>(text).is_ok()
}

/// The share of characters inside of fences of three backquotes or tildes.
fn code_share(text: &str) -> f64 {
    let (mut all, mut code, mut fence) = (0usize, 0usize, None);
    for line in text.lines() {
        let length = line.chars().count() + 1;
        all += length;
        let start = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) => continue,
            (Some(_), _) => {}
        }
        code += length;
    }
    code as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(answer: &str) -> Option<Outcome> {
        GuardConfig {
            refusals: true,
            max_answer_chars: 200,
            ..GuardConfig::default()
        }
        .passes(Guarded {
            answer,
            ..Guarded::default()
        })
    }

    #[test]
    fn each_guard_knows_its_answers() {
        assert_eq!(passes("The earth is flat."), None);
        assert_eq!(passes(" \n"), Some(Outcome::PassedEmpty));
        assert_eq!(passes("{\"a\": [1, 2]}"), Some(Outcome::PassedJson));
        assert_eq!(passes("{not json}"), None);
        assert_eq!(
            passes("Here:\n```rust\nfn main() {}\nlet a = 1;\n```\n"),
            Some(Outcome::PassedCode)
        );
        assert_eq!(
            passes("One word of code, `ls`, and a long text about what it is for.\n```\nls\n```\n"),
            None
        );
        assert_eq!(
            passes("I'm sorry, but I can't help with that."),
            Some(Outcome::PassedRefusal)
        );
        assert_eq!(passes(&"long ".repeat(50)), Some(Outcome::PassedLength));
    }

    #[test]
    fn guards_can_be_switched_off() {
        let none = GuardConfig {
            tool_calls: false,
            json: false,
            code_share: 2.0,
            refusals: false,
            max_answer_chars: usize::MAX,
        };
        let guarded = Guarded {
            answer: "[1]",
            calls_tools: true,
            wants_json: true,
        };
        assert_eq!(none.passes(guarded), None);
        assert_eq!(
            GuardConfig::default().passes(guarded),
            Some(Outcome::PassedToolCalls)
        );
    }
}
