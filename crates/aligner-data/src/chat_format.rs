//! How a conversation is written for models that were made for conversations: those that score answers, and upstreams.
//!
//! A model's own chat template is a program in Jinja. It is not run here: the families that answers are scored and trained
//! for have few forms, which are told by their control tokens, as llama.cpp does it. A template that is none of them, or does
//! more than write the turns down, is refused instead of guessed at.

mod recorded;
mod told;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::record::Turn;

/// What stands around the texts of a conversation.
///
/// ```
/// use aligner_data::ChatFormat;
/// let chat = ChatFormat::named("chatml")?;
/// let text = chat.render("Hello?", "Hi.", &[], "</s>");
/// assert_eq!(text, "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\nHi.<|im_end|>\n");
/// # Ok::<(), aligner_data::DataError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatFormat {
    kind: Kind,
    /// What a template says in the system's name when nobody else does.
    system: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    SafeRlhf,
    ChatMl,
    Llama3,
    Gemma,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::SafeRlhf, "safe-rlhf"),
    (Kind::ChatMl, "chatml"),
    (Kind::Llama3, "llama3"),
    (Kind::Gemma, "gemma"),
];

/// A part of a conversation's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The format's own text: control tokens in it are control tokens.
    Own(String),
    /// A user's or model's text: nothing in it becomes a control token.
    Text(&'a str),
    /// The end of a sequence, whatever the tokenizer calls it.
    End,
}

impl ChatFormat {
    /// What Safe-RLHF's models read (Dai et al. 2023, arXiv 2310.12773, and their code):
    /// `BEGINNING OF CONVERSATION: USER: … ASSISTANT:…` and the end of the sequence behind each answer.
    pub const SAFE_RLHF: Self = Self {
        kind: Kind::SafeRlhf,
        system: None,
    };

    /// A format by its name: `safe-rlhf`, `chatml`, `llama3` or `gemma`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        match KINDS.iter().find(|(_, known)| *known == name) {
            Some((kind, _)) => Ok(Self {
                kind: *kind,
                system: None,
            }),
            None => Err(DataError::ChatFormat {
                found: format!("{name:?}"),
                reason: "is no chat format".into(),
            }),
        }
    }

    /// The names of all formats.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(_, name)| *name)
    }

    /// Everything that decides a text, in one line.
    pub fn fingerprint(&self) -> String {
        match &self.system {
            Some(system) => format!("{self} system {system:?}"),
            None => self.to_string(),
        }
    }

    /// The conversation as one text, for display; `eos` stands for the end of a sequence.
    pub fn render(&self, question: &str, answer: &str, history: &[Turn], eos: &str) -> String {
        let mut text = String::new();
        for part in self.conversation(question, answer, history) {
            match part {
                Part::Own(own) => text.push_str(&own),
                Part::Text(given) => text.push_str(given),
                Part::End => text.push_str(eos),
            }
        }
        text
    }

    /// The tokens that the format cannot do without.
    fn control_tokens(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::SafeRlhf => &[],
            Kind::ChatMl => &["<|im_start|>", "<|im_end|>"],
            Kind::Llama3 => &[
                "<|begin_of_text|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
            ],
            Kind::Gemma => &["<bos>", "<start_of_turn>", "<end_of_turn>"],
        }
    }

    /// Whether the tokenizer adds its own beginning of a sequence; the others write it themselves or have none.
    pub(crate) fn adds_special_tokens(&self) -> bool {
        self.kind == Kind::SafeRlhf
    }

    /// All of a conversation, to the end of its last answer.
    pub(crate) fn conversation<'a>(
        &self,
        question: &'a str,
        answer: &'a str,
        history: &'a [Turn],
    ) -> Vec<Part<'a>> {
        let mut parts = self.prompt(question, history);
        parts.push(Part::Text(self.trimmed(answer)));
        parts.extend(self.end());
        parts
    }

    /// The conversation up to where the answer begins.
    pub(crate) fn prompt<'a>(&self, question: &'a str, history: &'a [Turn]) -> Vec<Part<'a>> {
        let mut parts = vec![Part::Own(self.start())];
        for turn in history {
            self.ask(&turn.question, &mut parts);
            parts.push(Part::Text(self.trimmed(&turn.answer)));
            parts.extend(self.end());
        }
        self.ask(question, &mut parts);
        parts
    }

    /// What stands behind an answer.
    pub(crate) fn end(&self) -> Vec<Part<'static>> {
        let own = |text: &str| vec![Part::Own(text.to_string())];
        match self.kind {
            Kind::SafeRlhf => vec![Part::End],
            Kind::ChatMl => own("<|im_end|>\n"),
            Kind::Llama3 => own("<|eot_id|>"),
            Kind::Gemma => own("<end_of_turn>\n"),
        }
    }

    fn start(&self) -> String {
        match (self.kind, &self.system) {
            (Kind::SafeRlhf, _) => "BEGINNING OF CONVERSATION: ".into(),
            (Kind::ChatMl, None) => String::new(),
            (Kind::ChatMl, Some(system)) => format!("<|im_start|>system\n{system}<|im_end|>\n"),
            (Kind::Llama3, None) => "<|begin_of_text|>".into(),
            (Kind::Llama3, Some(system)) => {
                format!("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>")
            }
            (Kind::Gemma, _) => "<bos>".into(),
        }
    }

    fn ask<'a>(&self, question: &'a str, parts: &mut Vec<Part<'a>>) {
        let (before, behind) = match self.kind {
            Kind::SafeRlhf => ("USER: ", " ASSISTANT:"),
            Kind::ChatMl => ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
            Kind::Llama3 => (
                "<|start_header_id|>user<|end_header_id|>\n\n",
                "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            Kind::Gemma => ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
        };
        parts.push(Part::Own(before.into()));
        parts.push(Part::Text(self.trimmed(question)));
        parts.push(Part::Own(behind.into()));
    }

    /// The templates of Llama 3 and Gemma trim what they are given; a template is part of the model.
    fn trimmed<'a>(&self, text: &'a str) -> &'a str {
        match self.kind {
            Kind::Llama3 | Kind::Gemma => text.trim(),
            Kind::SafeRlhf | Kind::ChatMl => text,
        }
    }
}

impl fmt::Display for ChatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = KINDS.iter().find(|(kind, _)| *kind == self.kind);
        f.write_str(known.map_or("", |(_, name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn() -> Vec<Turn> {
        vec![Turn {
            question: "a".into(),
            answer: "b".into(),
        }]
    }

    #[test]
    fn safe_rlhf_is_written_as_its_code_writes_it() {
        let chat = ChatFormat::SAFE_RLHF;
        assert_eq!(
            chat.render("q", "x", &[], "</s>"),
            "BEGINNING OF CONVERSATION: USER: q ASSISTANT:x</s>"
        );
        assert_eq!(
            chat.render("q", "x", &turn(), "</s>"),
            "BEGINNING OF CONVERSATION: USER: a ASSISTANT:b</s>USER: q ASSISTANT:x</s>"
        );
    }

    #[test]
    fn the_others_are_written_as_their_templates_do() {
        let render = |name| {
            ChatFormat::named(name)
                .unwrap()
                .render(" q", "x ", &turn(), "</s>")
        };
        assert_eq!(
            render("llama3"),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|><|start_header_id|>assistant\
             <|end_header_id|>\n\nb<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nx<|eot_id|>"
        );
        assert_eq!(
            render("gemma"),
            "<bos><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n<start_of_turn>user\nq\
             <end_of_turn>\n<start_of_turn>model\nx<end_of_turn>\n"
        );
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_that_are_known() {
        let error = ChatFormat::named("chat-ml").unwrap_err().to_string();
        assert!(error.contains("chatml") && error.contains("safe-rlhf"), "{error}");
    }
}
