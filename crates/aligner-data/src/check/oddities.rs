//! Characters and strings that do not belong into a text.
//!
//! | kind | what it is |
//! |---|---|
//! | `control_character` | C0 and C1 controls beside tab, line feed and carriage return; delete |
//! | `replacement_character` | U+FFFD: bytes that some program could not decode |
//! | `mojibake` | UTF-8 that was read as Windows-1252 |
//! | `invisible_character` | zero-width space, byte order mark, word joiner, changes of writing direction, tag characters, private use |
//! | `template_marker` | a marker of the prompt template (`##Answer:`, `USER:`): the model cannot tell it from the template's own |
//! | `special_token` | a token of a chat format written out (`<end_of_turn>`): a remnant of generation |
//! | `next_turn` | an answer or correction that goes on with the next turn of a dialogue |
//! | `no_word` | an answer or correction without a letter or digit |

use std::collections::BTreeMap;

use serde::Serialize;

use super::mojibake;
use super::place::{RowExample, excerpt};
use crate::record::Record;
use crate::template::{Piece, PromptTemplate};

/// A kind of oddity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OddityKind {
    /// A control character.
    ControlCharacter,
    /// U+FFFD.
    ReplacementCharacter,
    /// UTF-8 read as Windows-1252.
    Mojibake,
    /// A character that shows nothing.
    InvisibleCharacter,
    /// A marker of the prompt template.
    TemplateMarker,
    /// A chat format's token.
    SpecialToken,
    /// The next turn of a dialogue.
    NextTurn,
    /// No letter and no digit.
    NoWord,
}

/// How many rows have an oddity of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OddityReport {
    /// Rows.
    pub rows: u64,
    /// Some of them.
    pub examples: Vec<RowExample>,
}

/// The oddities of all rows, by kind.
pub type Oddities = BTreeMap<OddityKind, OddityReport>;

/// One oddity of a row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Oddity {
    pub(super) kind: OddityKind,
    /// Field, and what it was.
    pub(super) what: String,
    /// The text there.
    pub(super) text: String,
}

/// What tells the parts of a prompt apart.
#[derive(Debug, Clone, Default)]
pub(super) struct Markers(Vec<String>);

impl Markers {
    /// The words of a template's own text that begin with a sign (`##Answer:`) or are capitals before a colon (`USER:`).
    pub(super) fn of(template: &PromptTemplate) -> Self {
        let mut markers: Vec<String> = Vec::new();
        for piece in template.pieces() {
            let Piece::Literal(text) = piece else { continue };
            for word in text.split_whitespace() {
                let sign = word.len() >= 3 && word.starts_with(['#', '<', '[', '{']);
                let capitals = word.strip_suffix(':').is_some_and(|name| {
                    name.len() >= 3 && name.chars().all(|letter| letter.is_uppercase() || letter == '_')
                });
                if (sign || capitals) && !markers.iter().any(|known| known == word) {
                    markers.push(word.to_string());
                }
            }
        }
        Self(markers)
    }
}

const SPECIAL_TOKENS: [&str; 10] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[/INST]",
    "<|assistant|>",
];

const NEXT_TURN: [&str; 9] = [
    "Human:",
    "Assistant:",
    "USER:",
    "ASSISTANT:",
    "User:",
    "### Human:",
    "### Assistant:",
    "### Instruction:",
    "### Response:",
];

/// What is odd in a row; of each kind in each field the first.
pub(super) fn of(record: &Record, markers: &Markers) -> Vec<Oddity> {
    let mut found = Vec::new();
    let correction = record.correction.as_deref().unwrap_or_default();
    let fields = [
        ("question", &*record.question),
        ("answer", &record.answer),
        ("correction", correction),
    ];
    let turns = record
        .chat_history
        .iter()
        .flat_map(|turn| [("chat_history", &*turn.question), ("chat_history", &*turn.answer)]);
    for (field, text) in fields.into_iter().chain(turns) {
        let is_reply = matches!(field, "answer" | "correction");
        characters(field, text, &mut found);
        strings(field, text, is_reply, markers, &mut found);
        if is_reply && !text.trim().is_empty() && !text.contains(char::is_alphanumeric) {
            found.push(oddity(
                OddityKind::NoWord,
                field,
                "no letter and no digit",
                text,
                0,
            ));
        }
    }
    found
}

/// Whether a character shows nothing and is not a blank; joiners, which scripts and emoji need, are not meant.
pub(super) fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}' | '\u{2060}' | '\u{feff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        | '\u{e000}'..='\u{f8ff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0001}' | '\u{f0000}'..='\u{10ffff}')
}

fn characters(field: &str, text: &str, found: &mut Vec<Oddity>) {
    if text
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t' | b'\r'))
    {
        return;
    }
    let mut seen = [false; 3];
    for (at, letter) in text.chars().enumerate() {
        let (slot, kind) = match letter {
            '\n' | '\t' | '\r' => continue,
            '\u{fffd}' => (0, OddityKind::ReplacementCharacter),
            _ if letter.is_control() => (1, OddityKind::ControlCharacter),
            _ if is_invisible(letter) => (2, OddityKind::InvisibleCharacter),
            _ => continue,
        };
        if !std::mem::replace(&mut seen[slot], true) {
            let name = format!("U+{:04X}", u32::from(letter));
            found.push(oddity(kind, field, &name, text, at));
        }
    }
    if let Some(at) = mojibake::position(text) {
        found.push(oddity(
            OddityKind::Mojibake,
            field,
            "UTF-8 read as Windows-1252",
            text,
            at,
        ));
    }
}

fn strings(field: &str, text: &str, is_reply: bool, markers: &Markers, found: &mut Vec<Oddity>) {
    let position = |at: usize| text[..at].chars().count();
    let whole_words = |marker: &&String| {
        text.match_indices(marker.as_str())
            .map(|(at, _)| at)
            .find(|at| !text[..*at].ends_with(char::is_alphanumeric))
            .map(|at| ((*marker).clone(), at))
    };
    if let Some((marker, at)) = markers.0.iter().find_map(|marker| whole_words(&marker)) {
        found.push(oddity(
            OddityKind::TemplateMarker,
            field,
            &marker,
            text,
            position(at),
        ));
    }
    // Most text has neither bracket, and a search for each token costs.
    let special = text.contains(['<', '[']).then(|| {
        let mut tokens = SPECIAL_TOKENS.iter();
        tokens.find_map(|token| text.find(token).map(|at| (*token, at)))
    });
    let end = text
        .trim_end()
        .strip_suffix("</s>")
        .map(|rest| ("</s>", rest.len()));
    if let Some((token, at)) = special.flatten().or(end) {
        found.push(oddity(OddityKind::SpecialToken, field, token, text, position(at)));
    }
    if !is_reply {
        return;
    }
    if let Some((marker, at)) = next_turn(text) {
        found.push(oddity(OddityKind::NextTurn, field, marker, text, position(at)));
    }
}

/// The marker of the next turn of a dialogue, and where the line before it ends.
fn next_turn(text: &str) -> Option<(&'static str, usize)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find('\n')?;
        let line = text[at..].trim_start();
        if let Some(marker) = NEXT_TURN.iter().find(|marker| line.starts_with(**marker)) {
            return Some((*marker, at));
        }
        // Behind blank lines, which were looked at together: from each of many it would take their number squared.
        from = text.len() - line.len();
    }
}

fn oddity(kind: OddityKind, field: &str, what: &str, text: &str, at: usize) -> Oddity {
    Oddity {
        kind,
        what: format!("{field}: {what}"),
        text: excerpt(text, at.saturating_sub(20)),
    }
}

#[cfg(test)]
mod tests {
    use super::OddityKind::*;
    use super::*;
    use crate::reader::{ReadOptions, RowReader};

    fn kinds(answer: &str, template: &PromptTemplate) -> Vec<OddityKind> {
        let row = serde_json::json!({"question": "Who?", "answer": answer, "correction": "Ada."}).to_string();
        let record = RowReader::from_reader("rows", row.as_bytes(), ReadOptions::default())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        of(&record, &Markers::of(template))
            .into_iter()
            .map(|oddity| oddity.kind)
            .collect()
    }

    #[test]
    fn each_kind_is_found_and_what_is_nearly_one_is_not() {
        let template = PromptTemplate::default();
        for (answer, want) in [
            ("a\u{7}b", vec![ControlCharacter]),
            ("a\u{85}b", vec![ControlCharacter]),
            ("a\tb\r\nc", vec![]),
            ("caf\u{fffd}", vec![ReplacementCharacter]),
            ("donâ€™t", vec![Mojibake]),
            ("don’t, café", vec![]),
            ("a\u{200b}b", vec![InvisibleCharacter]),
            ("👩\u{200d}🔬 می\u{200c}خواهم", vec![]),
            ("x ##Correction: y", vec![TemplateMarker]),
            ("## Correction: y", vec![]),
            ("USER: hi", vec![TemplateMarker]),
            ("SUPERUSER: hi", vec![]),
            ("The user: hi", vec![]),
            ("Yes.<|im_end|>", vec![SpecialToken]),
            ("Yes.</s>", vec![SpecialToken]),
            ("<s>no</s> yes", vec![]),
            ("Yes.\n\nHuman: and now?", vec![NextTurn]),
            ("Yes, Human: it is", vec![]),
            ("…?!", vec![NoWord]),
            ("", vec![]),
        ] {
            assert_eq!(kinds(answer, &template), want, "{answer:?}");
        }
    }

    #[test]
    fn many_blank_lines_take_no_longer_than_their_text() {
        let start = std::time::Instant::now();
        let blank = "a".to_string() + &"\n".repeat(400_000);
        assert_eq!(next_turn(&(blank.clone() + "x")), None);
        assert_eq!(next_turn(&blank), None);
        assert_eq!(
            next_turn(&(blank.clone() + "x\n\n Human: b")),
            Some(("Human:", blank.len() + 1))
        );
        assert_eq!(next_turn(&(blank + "Human: b")), Some(("Human:", 1)));
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }

    #[test]
    fn markers_are_those_of_the_template() {
        let edit = PromptTemplate::builtin("edit").unwrap();
        assert_eq!(Markers::of(&edit).0, ["CONVERSATION:", "USER:", "ASSISTANT:"]);
        assert!(kinds("##Correction: x", &edit).is_empty());
        assert_eq!(kinds("ASSISTANT: x", &edit), [TemplateMarker]);
    }

    #[test]
    fn an_oddity_says_where_and_what() {
        let row = r#"{"question": "q\u0007", "answer": "a", "correction": "c", "chat_history": [["x", "y\u0000"]]}"#;
        let record = RowReader::from_reader("rows", row.as_bytes(), ReadOptions::default())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let found = of(&record, &Markers::default());
        let what: Vec<&str> = found.iter().map(|oddity| oddity.what.as_str()).collect();
        assert_eq!(what, ["question: U+0007", "chat_history: U+0000"]);
        assert_eq!(found[0].text, "q\\u{7}");
    }
}
