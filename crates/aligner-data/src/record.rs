//! One row: a question, an answer, and the correction of the answer.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{DataError, Result, RowError};
use crate::format::chat;

/// A row of a data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What was asked.
    pub question: String,
    /// What was answered; may be empty.
    pub answer: String,
    /// The better answer; absent where none is needed.
    pub correction: Option<String>,
    /// Earlier turns of the conversation, oldest first.
    pub chat_history: Vec<Turn>,
    /// The row as it was read, with all its fields in their order.
    pub raw: Map<String, Value>,
    /// Where it was read.
    pub origin: Origin,
}

/// An earlier turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: String,
}

/// Where a row was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub path: Arc<Path>,
    /// Line of the decompressed file in which the row starts, counted from 1; in a Parquet file, which has no lines, the
    /// number of the row, counted from 1.
    pub line: u64,
    /// The row of the file, counted from 0.
    pub row: u64,
}

impl Origin {
    pub(crate) fn error(&self, reason: impl Into<String>) -> RowError {
        RowError {
            path: PathBuf::from(&*self.path),
            line: self.line,
            row: self.row,
            reason: reason.into(),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: row {}", self.path.display(), self.line, self.row)
    }
}

/// Which fields a row must have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fields {
    /// Question and answer: rows to be corrected.
    Pair,
    /// Question and a text to write, the correction where there is one and else the answer: rows to teach an upstream. A
    /// row whose text is labelled as a bad one gives no record.
    Completion,
    /// Question, answer and correction: rows to train or score on.
    #[default]
    Triple,
}

/// Which column of a file holds which of our fields.
///
/// ```
/// use aligner_data::Columns;
/// let columns: Columns = "question=prompt,answer=response".parse().unwrap();
/// assert_eq!(columns.question, "prompt");
/// assert_eq!(columns.correction, "correction");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Column of the question.
    pub question: String,
    /// Column of the answer.
    pub answer: String,
    /// Column of the correction.
    pub correction: String,
    /// Column of earlier turns.
    pub chat_history: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            question: "question".into(),
            answer: "answer".into(),
            correction: "correction".into(),
            chat_history: "chat_history".into(),
        }
    }
}

impl FromStr for Columns {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self> {
        let error = |reason: String| DataError::Columns {
            text: text.to_string(),
            reason,
        };
        let mut columns = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (field, column) = part
                .split_once('=')
                .ok_or_else(|| error(format!("{part:?} is not of the form field=column")))?;
            let (field, column) = (field.trim(), column.trim());
            if column.is_empty() {
                return Err(error(format!("{part:?} names no column")));
            }
            let place = match field {
                "question" => &mut columns.question,
                "answer" => &mut columns.answer,
                "correction" => &mut columns.correction,
                "chat_history" => &mut columns.chat_history,
                _ => {
                    let known = "question, answer, correction, chat_history";
                    return Err(error(format!("{field:?} is not a field; fields are {known}")));
                }
            };
            *place = column.to_string();
        }
        Ok(columns)
    }
}

impl Columns {
    /// The texts of a row; the error is the reason why it cannot be used.
    pub(crate) fn parts(&self, raw: &Map<String, Value>, fields: Fields) -> Result<Parts, Reason> {
        let question = text(raw, &self.question)?;
        if question.trim().is_empty() {
            return Err(format!("`{}` is empty", self.question).into());
        }
        let answer = text(raw, &self.answer)?;
        let correction = match (fields, raw.get(&self.correction)) {
            (Fields::Triple, _) => Some(text(raw, &self.correction)?),
            (_, None | Some(Value::Null)) => None,
            // A cell of a CSV file is empty where a field of a JSON object is absent.
            (_, Some(Value::String(text))) if text.trim().is_empty() => None,
            _ => Some(text(raw, &self.correction)?),
        };
        if fields == Fields::Triple && correction.as_ref().is_some_and(|text| text.trim().is_empty()) {
            return Err(format!("`{}` is empty", self.correction).into());
        }
        Ok(Parts {
            question,
            answer,
            correction,
            chat_history: self.history(raw)?,
        })
    }

    /// Earlier turns of a row of questions alone; the error is the reason why they cannot be read.
    ///
    /// # Errors
    /// When the column holds something else, or is one that was mapped and is not there.
    pub fn history_of(&self, raw: &Map<String, Value>) -> std::result::Result<Vec<Turn>, String> {
        self.history(raw).map_err(Reason::into_text)
    }

    /// Earlier turns of a row.
    pub(crate) fn history(&self, raw: &Map<String, Value>) -> Result<Vec<Turn>, Reason> {
        match raw.get(&self.chat_history) {
            // Who maps a column means one that is there.
            None if self.chat_history != "chat_history" => Err(absent(raw, &self.chat_history).into()),
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(Vec::new()),
            Some(history) => turns(history).map_err(|reason| reason.within(&self.chat_history)),
        }
    }

    /// The fields that are mapped to other columns than those of our name.
    pub(crate) fn mapped(&self) -> Vec<&'static str> {
        let fields = [
            ("question", &self.question),
            ("answer", &self.answer),
            ("correction", &self.correction),
            ("chat_history", &self.chat_history),
        ];
        let mapped = fields.into_iter().filter(|(field, column)| field != column);
        mapped.map(|(field, _)| field).collect()
    }
}

/// The texts of a row, before it is known whether they suffice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parts {
    pub question: String,
    pub answer: String,
    pub correction: Option<String>,
    pub chat_history: Vec<Turn>,
}

impl Parts {
    pub fn into_record(self, raw: Map<String, Value>, origin: Origin) -> Record {
        Record {
            question: self.question,
            answer: self.answer,
            correction: self.correction,
            chat_history: self.chat_history,
            raw,
            origin,
        }
    }
}

/// Why a row gives no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is not what its format says it is.
    Bad(String),
    /// It is, but there is nothing in it for us: left out and counted whatever is done with bad rows.
    Unsuitable(String),
}

impl Reason {
    /// The reason, as it concerns one column.
    pub fn within(self, column: &str) -> Self {
        match self {
            Self::Bad(reason) => Self::Bad(format!("`{column}`: {reason}")),
            Self::Unsuitable(reason) => Self::Unsuitable(format!("`{column}`: {reason}")),
        }
    }

    /// The reason alone.
    pub fn into_text(self) -> String {
        match self {
            Self::Bad(reason) | Self::Unsuitable(reason) => reason,
        }
    }

    pub fn unsuitable(reason: impl Into<String>) -> Self {
        Self::Unsuitable(reason.into())
    }
}

impl From<String> for Reason {
    fn from(reason: String) -> Self {
        Self::Bad(reason)
    }
}

pub(crate) fn text(raw: &Map<String, Value>, column: &str) -> Result<String, String> {
    match raw.get(column) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{column}` is {}, not a string", kind(other))),
        None => Err(absent(raw, column)),
    }
}

/// What is said of a row that lacks a column.
fn absent(raw: &Map<String, Value>, column: &str) -> String {
    let present = raw
        .keys()
        .map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ");
    format!("has no `{column}`; it has {present} (map columns with --columns)")
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Earlier turns in any of the shapes they are published in: pairs `[question, answer]`, objects `{question, answer}`, or
/// messages `{role, content}`.
fn turns(history: &Value) -> Result<Vec<Turn>, Reason> {
    if let Value::String(text) = history
        && let Ok(parsed @ Value::Array(_)) = serde_json::from_str(text)
    {
        return turns(&parsed);
    }
    let list = history
        .as_array()
        .ok_or_else(|| format!("is {}, not an array", kind(history)))?;
    if list.iter().any(|turn| turn.get("role").is_some()) {
        let dialogue = chat::dialogue(chat::messages(history)?)?;
        return match dialogue.open {
            None => Ok(dialogue.turns),
            Some(_) => {
                let reason = "ends with a user's message that was not answered; that one is the question";
                Err(Reason::Bad(reason.into()))
            }
        };
    }
    let field = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_string);
    list.iter()
        .enumerate()
        .map(|(index, turn)| {
            let (question, answer) = match turn {
                Value::Array(pair) if pair.len() == 2 => (field(pair.first()), field(pair.get(1))),
                _ => (field(turn.get("question")), field(turn.get("answer"))),
            };
            match (question, answer) {
                (Some(question), Some(answer)) => Ok(Turn { question, answer }),
                _ => Err(Reason::Bad(format!(
                    "turn {index} is neither [question, answer] nor {{question, answer}} nor {{role, content}}"
                ))),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: Value, columns: &str, fields: Fields) -> Result<Record, String> {
        let origin = Origin {
            path: Path::new("rows.jsonl").into(),
            line: 1,
            row: 0,
        };
        let raw = json.as_object().unwrap().clone();
        match columns.parse::<Columns>().unwrap().parts(&raw, fields) {
            Ok(parts) => Ok(parts.into_record(raw, origin)),
            Err(Reason::Bad(reason) | Reason::Unsuitable(reason)) => Err(reason),
        }
    }

    #[test]
    fn columns_are_mapped_and_extra_fields_kept_in_order() {
        let row = serde_json::json!({"id": 7, "prompt": "q", "response": "a", "correction": "c"});
        let read = record(row, "question=prompt, answer=response", Fields::Triple).unwrap();
        assert_eq!(
            (
                read.question.as_str(),
                read.answer.as_str(),
                read.correction.as_deref()
            ),
            ("q", "a", Some("c"))
        );
        assert_eq!(
            read.raw.keys().collect::<Vec<_>>(),
            ["id", "prompt", "response", "correction"]
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (row, part) in [
            (
                serde_json::json!({"prompt": "q"}),
                "has no `question`; it has `prompt`",
            ),
            (
                serde_json::json!({"question": 3, "answer": "a"}),
                "`question` is a number",
            ),
            (
                serde_json::json!({"question": " ", "answer": "a"}),
                "`question` is empty",
            ),
            (
                serde_json::json!({"question": "q", "answer": "a"}),
                "has no `correction`",
            ),
            (
                serde_json::json!({"question": "q", "answer": "a", "correction": "\n"}),
                "`correction` is empty",
            ),
            (
                serde_json::json!({"question": "q", "answer": "a", "correction": "c", "chat_history": [[1]]}),
                "turn 0",
            ),
        ] {
            let error = record(row, "", Fields::Triple).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_empty_answer_can_be_corrected() {
        let row = serde_json::json!({"question": "q", "answer": "", "correction": null});
        assert_eq!(record(row, "", Fields::Pair).unwrap().answer, "");
    }

    #[test]
    fn all_shapes_of_history_read_the_same() {
        let read = |history: Value| {
            let row = serde_json::json!({"question": "q", "answer": "a", "chat_history": history});
            record(row, "", Fields::Pair).map(|record| record.chat_history)
        };
        let want = vec![Turn {
            question: "x".into(),
            answer: "y".into(),
        }];
        assert_eq!(read(serde_json::json!([["x", "y"]])).unwrap(), want);
        assert_eq!(
            read(serde_json::json!([{"question": "x", "answer": "y"}])).unwrap(),
            want
        );
        let messages =
            serde_json::json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]);
        assert_eq!(read(messages).unwrap(), want);
        assert!(
            read(serde_json::json!([{"role": "user", "content": "x"}]))
                .unwrap_err()
                .contains("not answered")
        );
        assert!(read(serde_json::json!("x")).unwrap_err().contains("not an array"));
    }

    #[test]
    fn a_mapped_column_of_earlier_turns_has_to_be_there() {
        let row = serde_json::json!({"question": "q", "answer": "a", "turns": null});
        assert!(
            record(row.clone(), "chat_history=turns", Fields::Pair)
                .unwrap()
                .chat_history
                .is_empty()
        );
        let error = record(row, "chat_history=history", Fields::Pair).unwrap_err();
        assert!(error.contains("has no `history`; it has `question`"), "{error}");
    }

    #[test]
    fn a_row_to_be_written_may_lack_a_correction() {
        for (correction, want) in [
            (Value::Null, None),
            (" ".into(), None),
            ("c".into(), Some("c".to_string())),
        ] {
            let row = serde_json::json!({"question": "q", "answer": "a", "correction": correction});
            assert_eq!(record(row, "", Fields::Completion).unwrap().correction, want);
        }
    }

    #[test]
    fn a_mapping_that_cannot_be_meant_is_refused() {
        for text in ["question", "question=", "prompt=question", "q=x"] {
            assert!(text.parse::<Columns>().is_err(), "{text}");
        }
    }
}
