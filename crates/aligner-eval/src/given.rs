//! Corrections that were made elsewhere: by another program, or by a service that wrote them down.

use std::path::Path;

use aligner_data::{Fields, ReadOptions, RowReader};

use crate::error::{EvalError, Result};
use crate::input::{UNKNOWN, fields, of_data, stem};
use crate::row::{Item, Outcome, References};

/// Whose corrections a file holds.
#[derive(Debug, Clone, Default)]
pub struct GivenOptions {
    /// Names the data set; `None`: the file's name.
    pub dataset: Option<String>,
    /// The upstream of rows that name none in `upstream`.
    pub upstream: Option<String>,
    /// The Aligner.
    pub aligner: String,
    /// How rows are read: their columns and format, and what becomes of bad ones.
    pub rows: ReadOptions,
}

/// Question/answer/correction rows as outcomes. The rows that `aligner serve` keeps are such rows; of AlpacaEval's
/// `model_outputs.json` of an Aligner the columns are `question=instruction,answer=original_output,correction=output`.
///
/// A row's id is its own (`id` or `index`), or its number, counted from 1.
///
/// # Errors
/// When the file cannot be read, a row has no correction, or two rows of one upstream have one id.
pub fn read(path: &Path, options: &GivenOptions) -> Result<Vec<Outcome>> {
    let dataset = options.dataset.clone().unwrap_or_else(|| stem(path));
    let rows = ReadOptions {
        fields: Fields::Triple,
        ..options.rows.clone()
    };
    let mut outcomes = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for record in RowReader::open(path, rows).map_err(of_data)? {
        let record = record.map_err(of_data)?;
        let number = record.origin.row + 1;
        let texts = |column| {
            fields::texts(&record.raw, &[column]).map_err(|reason| EvalError::row(path, number, reason))
        };
        let references = References {
            correct: texts("correct_answers")?,
            incorrect: texts("incorrect_answers")?,
        };
        let category = fields::label(&record.raw, &["category"]);
        let upstream = upstream_of(&record.raw).or_else(|| options.upstream.clone());
        let upstream = upstream.unwrap_or_else(|| UNKNOWN.into());
        let id = fields::id(&record.raw, &["id", "index"]);
        let id = id.unwrap_or_else(|| number.to_string());
        if !seen.insert((upstream.clone(), id.clone())) {
            let reason = format!("another row of {upstream} has the id {id} as well; ids must differ");
            return Err(EvalError::row(path, number, reason));
        }
        outcomes.push(Outcome {
            generator: format!("{upstream}+{}", options.aligner),
            aligner: options.aligner.clone(),
            output: record.correction.unwrap_or_default(),
            item: Item {
                id,
                upstream,
                dataset: dataset.clone(),
                question: record.question,
                answer: record.answer,
                chat_history: record.chat_history,
                category,
                references,
            },
            ..Outcome::default()
        });
    }
    if outcomes.is_empty() {
        return Err(EvalError::file(path, "has no rows"));
    }
    // All rows of one upstream side by side, as an evaluation has them.
    let mut order: Vec<String> = Vec::new();
    for outcome in &outcomes {
        if !order.contains(&outcome.item.upstream) {
            order.push(outcome.item.upstream.clone());
        }
    }
    outcomes.sort_by_key(|outcome| order.iter().position(|name| *name == outcome.item.upstream));
    Ok(outcomes)
}

/// Who answered: rows that a service kept say it of the model that it asked.
fn upstream_of(raw: &fields::Raw) -> Option<String> {
    let kept = || fields::label(raw.get("aligner")?.as_object()?, &["upstream_model"]);
    fields::label(raw, &["upstream"]).or_else(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read_rows(rows: &str, columns: &str) -> Result<Vec<Outcome>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, rows).unwrap();
        let options = GivenOptions {
            aligner: "ours".into(),
            rows: ReadOptions {
                columns: columns.parse().unwrap(),
                ..ReadOptions::default()
            },
            ..GivenOptions::default()
        };
        read(&path, &options)
    }

    #[test]
    fn rows_become_outcomes_upstream_by_upstream() {
        let rows = r#"{"question": "q", "answer": "a", "correction": "c", "upstream": "b", "index": 7}
{"question": "q", "answer": "a", "correction": "a", "upstream": "a"}
{"question": "p", "answer": "x", "correction": "y", "upstream": "b", "correct_answers": ["z"], "category": "k"}
{"question": "o", "answer": "x", "correction": "y", "aligner": {"upstream_model": "served"}}"#;
        let outcomes = read_rows(rows, "").unwrap();
        let names: Vec<_> = outcomes
            .iter()
            .map(|outcome| (outcome.item.upstream.as_str(), outcome.item.id.as_str()))
            .collect();
        assert_eq!(names, [("b", "7"), ("b", "3"), ("a", "2"), ("served", "4")]);
        let known = &outcomes[1].item;
        assert_eq!(
            (known.references.correct.as_slice(), known.category.as_deref()),
            (["z".to_string()].as_slice(), Some("k"))
        );
        assert_eq!(
            (outcomes[0].generator.as_str(), outcomes[0].output.as_str()),
            ("b+ours", "c")
        );
        assert_eq!(outcomes[0].item.dataset, "rows");
    }

    #[test]
    fn outputs_of_an_aligner_as_alpaca_eval_has_them_are_read_by_their_columns() {
        let rows = r#"{"instruction": "q", "original_output": "a", "output": "c", "generator": "g"}"#;
        let columns = "question=instruction,answer=original_output,correction=output";
        let outcomes = read_rows(rows, columns).unwrap();
        assert_eq!(
            (outcomes[0].item.answer.as_str(), outcomes[0].output.as_str()),
            ("a", "c")
        );
    }

    #[test]
    fn rows_that_cannot_be_told_apart_are_named() {
        let row = r#"{"question": "q", "answer": "a", "correction": "c", "id": "x"}"#;
        let error = read_rows(&format!("{row}\n{row}"), "").unwrap_err().to_string();
        assert!(error.contains("row 2") && error.contains('x'), "{error}");
        assert!(read_rows(r#"{"question": "q", "answer": "a"}"#, "").is_err());
    }
}
