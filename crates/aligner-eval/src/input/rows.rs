//! Question/answer rows, as `aligner-data` reads them.

use std::path::Path;

use aligner_data::RowReader;

use super::fields;
use super::of_data;
use super::question::Question;
use crate::error::{EvalError, Result};

pub(super) fn read(path: &Path, reader: RowReader<'_>) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for record in reader {
        let record = record.map_err(of_data)?;
        let (raw, row) = (&record.raw, record.origin.row + 1);
        let wrong = |reason: String| EvalError::row(path, row, reason);
        let mut correct: Vec<String> = record.correction.into_iter().collect();
        correct.extend(fields::texts(raw, &["correct_answers"]).map_err(wrong)?);
        let question = Question {
            question: record.question,
            answer: Some(record.answer),
            upstream: fields::label(raw, &["upstream", "generator"]),
            category: fields::label(raw, &["category"]),
            chat_history: record.chat_history,
            correct,
            incorrect: fields::texts(raw, &["incorrect_answers"]).map_err(wrong)?,
            ..Question::default()
        };
        questions.push(question.named(fields::id(raw, &["id", "index"]), row));
    }
    Ok(questions)
}
