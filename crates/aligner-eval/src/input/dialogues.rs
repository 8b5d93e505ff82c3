//! EmpatheticDialogues: utterances, one a row, made into questions.
//!
//! The published CSV has no quoting: a comma in a text is `_comma_`, and a quotation mark is a quotation mark.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use aligner_data::{RowReader, Turn};
use csv::{ReaderBuilder, StringRecord};

use super::each_object;
use super::fields::{self, Raw};
use super::question::Question;
use crate::error::{EvalError, Result};

/// How the published file begins.
const HEAD: &[u8] = b"conv_id,utterance_idx,";

/// What somebody said.
#[derive(Debug)]
struct Utterance {
    /// Counted from 1.
    row: u64,
    conversation: String,
    number: String,
    emotion: String,
    text: String,
}

/// Whether a file is CSV without quoting.
pub(super) fn is_published_csv(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    // What was read of a pipe is gone.
    if is_file {
        let file = File::open(path).map_err(EvalError::io("read", path))?;
        file.take(HEAD.len() as u64)
            .read_to_end(&mut head)
            .map_err(EvalError::io("read", path))?;
    }
    Ok(head == HEAD)
}

pub(super) fn read_csv(path: &Path) -> Result<Vec<Question>> {
    let file = File::open(path).map_err(EvalError::io("read", path))?;
    // As the published reader does, which looks at the first six fields alone.
    let mut reader = ReaderBuilder::new()
        .quoting(false)
        .flexible(true)
        .from_reader(file);
    let wrong = |row: u64| move |error: csv::Error| EvalError::row(path, row, error.to_string());
    let header = reader.headers();
    let header = header
        .map_err(|error| EvalError::file(path, error.to_string()))?
        .clone();
    let column = |name: &str| {
        let missing = || EvalError::file(path, format!("has no column `{name}`"));
        header.iter().position(|found| found == name).ok_or_else(missing)
    };
    let columns = [
        column("conv_id")?,
        column("utterance_idx")?,
        column("context")?,
        column("utterance")?,
    ];
    let mut utterances = Vec::new();
    for (record, row) in reader.records().zip(1..) {
        let record = record.map_err(wrong(row))?;
        let said = utterance(&record, columns, row).map_err(|reason| EvalError::row(path, row, reason))?;
        utterances.push(said);
    }
    replies(path, utterances)
}

fn utterance(record: &StringRecord, columns: [usize; 4], row: u64) -> Result<Utterance, String> {
    let [conversation, number, emotion, text] = columns.map(|column| record.get(column).unwrap_or_default());
    if number.parse::<u32>().is_err() || text.is_empty() {
        return Err(format!(
            "has {} fields, and they are not those of the header; the published file has no quotes, and `_comma_` for a \
             comma",
            record.len()
        ));
    }
    Ok(Utterance {
        row,
        conversation: conversation.to_string(),
        number: number.to_string(),
        emotion: plain(emotion),
        text: plain(text),
    })
}

/// Rows of the same columns in another kind of file.
pub(super) fn read_objects(path: &Path, reader: RowReader<'_>) -> Result<Vec<Question>> {
    let utterances = each_object(path, reader, |raw: &Raw, row| {
        let number = fields::id(raw, &["utterance_idx"]);
        Ok(Utterance {
            row,
            conversation: fields::required(raw, &["conv_id"])?,
            number: number.ok_or("has no `utterance_idx`")?,
            emotion: plain(&fields::label(raw, &["context"]).unwrap_or_default()),
            text: plain(&fields::question(raw, &["utterance"])?),
        })
    })?;
    replies(path, utterances)
}

fn plain(text: &str) -> String {
    text.replace("_comma_", ",").trim().to_string()
}

/// A question for every reply of the listener, who speaks second.
fn replies(path: &Path, utterances: Vec<Utterance>) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for conversation in utterances.chunk_by(|a, b| a.conversation == b.conversation) {
        let mut chat_history: Vec<Turn> = Vec::new();
        let (turns, _) = conversation.as_chunks::<2>();
        for [said, reply] in turns {
            if said.text.is_empty() {
                return Err(EvalError::row(path, said.row, "`utterance` is empty"));
            }
            let id = format!("{}:{}", reply.conversation, reply.number);
            let question = Question {
                question: said.text.clone(),
                category: Some(reply.emotion.clone()).filter(|emotion| !emotion.is_empty()),
                chat_history: chat_history.clone(),
                correct: vec![reply.text.clone()],
                ..Question::default()
            };
            questions.push(question.named(Some(id), reply.row));
            chat_history.push(Turn {
                question: said.text.clone(),
                answer: reply.text.clone(),
            });
        }
    }
    Ok(questions)
}
