//! Prompt templates and their fingerprints.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};
use crate::record::Turn;

const QUESTION: &str = "{question}";
const ANSWER: &str = "{answer}";

/// The built-in templates. An Aligner only works with the one it was trained on.
const BUILTIN: [(&str, &str); 3] = [
    (
        "edit",
        "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more helpful and harmless: \
         {question} | {answer} ASSISTANT:",
    ),
    (
        "revision",
        "BEGINNING OF CONVERSATION: USER: ##Question: {question} ##Answer: {answer} ##Revision:  ASSISTANT:",
    ),
    (
        "correction",
        "BEGINNING OF CONVERSATION: USER: ##Question: {question}\n##Answer: {answer}\n##Correction:  ASSISTANT:",
    ),
];

/// A prompt with places for the question and the answer.
///
/// The text is fixed when a model is trained and travels with it; its [fingerprint](PromptTemplate::fingerprint) tells
/// two texts apart. Three templates are built in, each inside the conversation frame of the original Aligner:
///
/// | id | used by |
/// |---|---|
/// | `edit` | aligner-7b-v1.0 |
/// | `revision` | Aligner-2B |
/// | `correction` | the original repository since December 2024; the default here |
///
/// ```
/// use aligner_data::PromptTemplate;
/// let template = PromptTemplate::default();
/// let prompt = template.render("Is it raining?", "Yes, no {question}.", &[]);
/// assert!(prompt.contains("##Answer: Yes, no {question}.\n")); // braces in the texts stay text
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct PromptTemplate {
    id: String,
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    id: String,
    text: String,
}

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The template's own text.
    Literal(String),
    /// The place of the question.
    Question,
    /// The place of the answer.
    Answer,
}

impl PromptTemplate {
    /// A built-in template: `edit`, `revision` or `correction`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn builtin(id: &str) -> Result<Self> {
        match BUILTIN.iter().find(|(known, _)| *known == id) {
            Some((id, text)) => Self::custom(id, text),
            None => {
                let reason = format!("is not built in; built in are {}", Self::builtin_ids().join(", "));
                Err(DataError::Template {
                    id: id.to_string(),
                    reason,
                })
            }
        }
    }

    /// Names of the built-in templates.
    pub fn builtin_ids() -> Vec<&'static str> {
        BUILTIN.iter().map(|(id, _)| *id).collect()
    }

    /// A template of one's own. `{question}` and `{answer}` each stand in it once; `{{` and `}}` are braces.
    ///
    /// # Errors
    /// When a place is missing, doubled or unknown, or a brace stands alone.
    pub fn custom(id: &str, text: &str) -> Result<Self> {
        let error = |reason: String| DataError::Template {
            id: id.to_string(),
            reason,
        };
        let pieces = parse(text).map_err(error)?;
        for (piece, place) in [(Piece::Question, QUESTION), (Piece::Answer, ANSWER)] {
            let count = pieces.iter().filter(|found| **found == piece).count();
            if count != 1 {
                return Err(error(format!("has {place} {count} times; it must have it once")));
            }
        }
        Ok(Self {
            id: id.to_string(),
            text: text.to_string(),
            pieces,
        })
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The text, with its places.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `sha256:` and the hash of the text in hexadecimal. The name does not count: equal texts give equal prompts.
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::digest(self.text.as_bytes());
        hash.iter()
            .fold("sha256:".to_string(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// The prompt for a question and an answer.
    ///
    /// Earlier turns of a conversation stand before the question, as the original Aligner's multi-turn data are written:
    /// `USER: … ASSISTANT: …` for each, and then the question itself behind `USER: `.
    pub fn render(&self, question: &str, answer: &str, history: &[Turn]) -> String {
        self.segments(question, answer, history)
            .into_iter()
            .map(|(text, _)| text)
            .collect()
    }

    /// The parts of the text.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The prompt in pieces, each with whether it is the template's own text.
    pub(crate) fn segments(&self, question: &str, answer: &str, history: &[Turn]) -> Vec<(String, bool)> {
        let segment = |piece: &Piece| match piece {
            Piece::Literal(text) => (text.clone(), true),
            Piece::Question => (with_history(question, history), false),
            Piece::Answer => (answer.to_string(), false),
        };
        self.pieces.iter().map(segment).collect()
    }
}

impl Default for PromptTemplate {
    fn default() -> Self {
        let (id, text) = BUILTIN[2];
        let pieces = parse(text).unwrap_or_default();
        Self {
            id: id.to_string(),
            text: text.to_string(),
            pieces,
        }
    }
}

impl TryFrom<Stored> for PromptTemplate {
    type Error = DataError;

    fn try_from(stored: Stored) -> Result<Self> {
        Self::custom(&stored.id, &stored.text)
    }
}

impl From<PromptTemplate> for Stored {
    fn from(template: PromptTemplate) -> Self {
        Self {
            id: template.id,
            text: template.text,
        }
    }
}

fn with_history(question: &str, history: &[Turn]) -> String {
    if history.is_empty() {
        return question.to_string();
    }
    let mut text = String::new();
    for turn in history {
        text.push_str(&format!("USER: {} ASSISTANT: {} ", turn.question, turn.answer));
    }
    text + "USER: " + question
}

fn parse(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        rest = &rest[at..];
        let (piece, len) = if rest.starts_with("{{") || rest.starts_with("}}") {
            literal.push_str(&rest[..1]);
            rest = &rest[2..];
            continue;
        } else if rest.starts_with(QUESTION) {
            (Piece::Question, QUESTION.len())
        } else if rest.starts_with(ANSWER) {
            (Piece::Answer, ANSWER.len())
        } else {
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            let found: String = rest[..end].chars().take(40).collect();
            return Err(format!(
                "has {found:?}; known places are {QUESTION} and {ANSWER}, a brace is written twice"
            ));
        };
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(piece);
        rest = &rest[len..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_texts_are_those_of_the_released_models() {
        let render = |id| PromptTemplate::builtin(id).unwrap().render("Q", "A", &[]);
        assert_eq!(
            render("edit"),
            "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more helpful and \
             harmless: Q | A ASSISTANT:"
        );
        assert_eq!(
            render("revision"),
            "BEGINNING OF CONVERSATION: USER: ##Question: Q ##Answer: A ##Revision:  ASSISTANT:"
        );
        assert_eq!(
            render("correction"),
            "BEGINNING OF CONVERSATION: USER: ##Question: Q\n##Answer: A\n##Correction:  ASSISTANT:"
        );
    }

    #[test]
    fn texts_that_look_like_places_stay_text() {
        let template = PromptTemplate::custom("t", "{{{question}|{answer}}}").unwrap();
        assert_eq!(
            template.render("{answer}", "{question}}", &[]),
            "{{answer}|{question}}}"
        );
    }

    #[test]
    fn templates_that_cannot_work_say_why() {
        for (text, part) in [
            ("{question}", "{answer} 0 times"),
            ("{question}{answer}{answer}", "2 times"),
            ("{question}{answer}{history}", "{history}"),
            ("{question}{answer} }", "\"}\""),
            ("{question}{answer}{", "\"{\""),
        ] {
            let error = PromptTemplate::custom("t", text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(
            PromptTemplate::builtin("edits")
                .unwrap_err()
                .to_string()
                .contains("edit, revision, correction")
        );
    }

    #[test]
    fn the_fingerprint_is_of_the_text() {
        let (a, b) = (
            PromptTemplate::custom("a", "{question}{answer}"),
            PromptTemplate::custom("b", "{question}{answer}"),
        );
        assert_eq!(a.unwrap().fingerprint(), b.unwrap().fingerprint());
        assert_eq!(
            PromptTemplate::default().fingerprint(),
            "sha256:e560b304dc9b05939bd21e9e7ac42c1d97b6b0b35da764a99a142ea1de537964"
        );
    }

    #[test]
    fn history_stands_before_the_question() {
        let turn = Turn {
            question: "Hi".into(),
            answer: "Hello".into(),
        };
        let prompt = PromptTemplate::custom("t", "<{question}|{answer}>")
            .unwrap()
            .render("Q", "A", &[turn]);
        assert_eq!(prompt, "<USER: Hi ASSISTANT: Hello USER: Q|A>");
    }

    #[test]
    fn stored_templates_are_checked_when_read() {
        let json = serde_json::to_string(&PromptTemplate::default()).unwrap();
        assert_eq!(
            serde_json::from_str::<PromptTemplate>(&json).unwrap(),
            PromptTemplate::default()
        );
        assert!(serde_json::from_str::<PromptTemplate>(r#"{"id":"x","text":"{question}"}"#).is_err());
    }
}
