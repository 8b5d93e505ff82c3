//! What the rows of a file are: which columns they have, and where in them question, answer and correction are.
//!
//! How rows lie in a file (JSON, CSV, Parquet) is `reader`'s business; here they are objects already.

mod alpaca;
pub(crate) mod beavertails;
pub(crate) mod chat;
mod detect;
mod hh_rlhf;
mod preference;
mod prompt_completion;
mod safe_rlhf;
mod spec;
mod stream;

pub use safe_rlhf::Safety;

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::error::{DataError, Result};
use crate::reader::ReadOptions;
use crate::record::{Columns, Fields, Parts, Reason};

/// What the rows of a file are.
///
/// ```
/// use aligner_data::Format;
/// let format: Format = "hh-rlhf".parse().unwrap();
/// assert_eq!(format, Format::HhRlhf);
/// assert!(format.has_correction());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Our own: question, answer, correction, and earlier turns in `chat_history`.
    Qac,
    /// hh-rlhf: whole transcripts `chosen` and `rejected`.
    HhRlhf,
    /// PKU-SafeRLHF: two responses, and which is safer and which is better.
    SafeRlhf,
    /// BeaverTails: one response a row with a label; an unsafe one is paired with a safe one of the same prompt.
    BeaverTails,
    /// Alpaca: instruction, input, output.
    Alpaca,
    /// ShareGPT: `conversations` of `{from, value}`.
    ShareGpt,
    /// Chats: `messages` of `{role, content}`.
    Messages,
    /// Preference rows as TRL reads them: `chosen` and `rejected`, with a `prompt` or with its text in both.
    Preference,
    /// `prompt` and `completion` as TRL reads them.
    PromptCompletion,
    /// Stream-Aligner's rows as whole answers: the correction is the prefix with the corrected sentence.
    StreamAligner,
    /// Stream-Aligner's rows for its published prompt: the correction is that of the last sentence alone.
    StreamPrompt,
}

/// Which of two responses of a PKU-SafeRLHF row is the correction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Prefer {
    /// The one that was called safer.
    #[default]
    Safer,
    /// The one that was called better.
    Better,
}

impl Format {
    /// Every format.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            Self::Qac,
            Self::HhRlhf,
            Self::SafeRlhf,
            Self::BeaverTails,
            Self::Alpaca,
            Self::ShareGpt,
            Self::Messages,
            Self::Preference,
            Self::PromptCompletion,
            Self::StreamAligner,
            Self::StreamPrompt,
        ]
        .into_iter()
    }

    /// Its name, as it is typed.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The columns by which it is told.
    pub fn columns(self) -> &'static str {
        self.spec().columns
    }

    /// Whether every row has a correction by its nature; rows of the others have one where a column holds it.
    pub fn has_correction(self) -> bool {
        self.spec().has_correction
    }

    /// A mapping of columns that this format would not look at is refused: it was meant to do something.
    pub(crate) fn check_columns(self, columns: &Columns) -> Result<()> {
        let spec = self.spec();
        let stray = columns
            .mapped()
            .into_iter()
            .find(|field| !spec.mapped.contains(field));
        let Some(field) = stray else { return Ok(()) };
        let can = match spec.mapped {
            [] => "has fixed columns".to_string(),
            mapped => format!("maps {} alone", mapped.join(", ")),
        };
        let reason = format!("the format {self} {can}; with --format qac any columns are mapped");
        Err(DataError::Columns {
            text: format!("{field}=…"),
            reason,
        })
    }

    /// The texts of a row.
    pub(crate) fn parts(self, raw: &Map<String, Value>, options: &ReadOptions) -> Result<Parts, Reason> {
        let columns = &options.columns;
        let parts = match self {
            Self::Qac => columns.parts(raw, options.fields),
            Self::HhRlhf => hh_rlhf::parts(raw),
            Self::SafeRlhf => safe_rlhf::parts(raw, options),
            Self::BeaverTails => beavertails::parts(raw),
            Self::Alpaca => alpaca::parts(raw, columns),
            Self::ShareGpt => chat::parts(raw, &["conversations", "conversation"], columns),
            Self::Messages => chat::parts(raw, &["messages"], columns),
            Self::Preference => preference::parts(raw),
            Self::PromptCompletion => prompt_completion::parts(raw, options),
            Self::StreamAligner => stream::whole(raw),
            Self::StreamPrompt => stream::prompt(raw),
        }?;
        let parts = self.checked(parts, options.fields)?;
        match self {
            Self::Alpaca | Self::ShareGpt | Self::Messages | Self::Preference | Self::PromptCompletion => {
                with_system(raw, parts)
            }
            _ => Ok(parts),
        }
    }

    fn checked(self, parts: Parts, fields: Fields) -> Result<Parts, Reason> {
        if parts.question.trim().is_empty() {
            return Err(Reason::Bad("the question is empty".into()));
        }
        match (&parts.correction, fields) {
            (Some(text), Fields::Triple | Fields::Completion) if text.trim().is_empty() => {
                Err(Reason::Bad("the correction is empty".into()))
            }
            (None, Fields::Completion) if parts.answer.trim().is_empty() => Err(Reason::unsuitable(
                "the answer is empty, and it would be the text to write",
            )),
            (None, Fields::Triple) => Err(Reason::Bad(format!(
                "has no correction: {self} rows have one answer each. Name the column of a better answer (--columns \
                 correction=COLUMN), let `aligner correct` write corrections, or make identity rows for a warm-up \
                 (aligner data convert --identity)"
            ))),
            _ => Ok(parts),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self> {
        Self::all()
            .find(|format| format.name() == name)
            .ok_or_else(|| DataError::UnknownFormat {
                name: name.to_string(),
                known: Self::all().map(Self::name).collect(),
            })
    }
}

impl FromStr for Prefer {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "safer" => Ok(Self::Safer),
            "better" => Ok(Self::Better),
            _ => Err(DataError::Prefer(name.to_string())),
        }
    }
}

/// The correction that a column holds, in formats that have none by their nature.
fn optional_correction(raw: &Map<String, Value>, columns: &Columns) -> Result<Option<String>, Reason> {
    optional_text(raw, &columns.correction)
}

/// Puts what a `system` column holds before the first question, as chat templates without a system role do it.
fn with_system(raw: &Map<String, Value>, mut parts: Parts) -> Result<Parts, Reason> {
    if let Some(system) = optional_text(raw, "system")? {
        let first = match parts.chat_history.first_mut() {
            Some(turn) => &mut turn.question,
            None => &mut parts.question,
        };
        *first = system + "\n\n" + first;
    }
    Ok(parts)
}

/// A text that may be absent, null or blank.
fn optional_text(raw: &Map<String, Value>, column: &str) -> Result<Option<String>, Reason> {
    match raw.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(_) => Ok(Some(crate::record::text(raw, column)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_listed_once_and_found_by_its_name() {
        assert_eq!(Format::all().count(), Format::StreamPrompt as usize + 1);
        for (index, format) in Format::all().enumerate() {
            assert_eq!(format as usize, index);
            assert_eq!(format.name().parse::<Format>().unwrap(), format);
        }
        let error = "parquet".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("formats are qac, hh-rlhf,"), "{error}");
    }
}
