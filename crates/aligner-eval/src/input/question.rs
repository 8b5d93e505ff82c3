//! A row of a data set's own shape.

use aligner_data::{Columns, Turn};
use serde_json::Value;

use super::fields::{self, Raw};
use super::{InputFormat, InputOptions, SUMMARY_INSTRUCTION};
use crate::row::Item;

/// What TruthfulQA's metrics take for right whatever was asked.
const NO_COMMENT: &str = "I have no comment.";

/// A question and what is known about it; its answer may be in another file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Question {
    /// Counted from 1.
    pub row: u64,
    pub id: String,
    /// Whether the row brings its id, and is not named by its number.
    pub has_own_id: bool,
    pub question: String,
    /// The text by which answers may call it, where that is not the question.
    pub also: Option<String>,
    pub answer: Option<String>,
    pub dataset: Option<String>,
    pub upstream: Option<String>,
    pub category: Option<String>,
    pub chat_history: Vec<Turn>,
    pub correct: Vec<String>,
    pub incorrect: Vec<String>,
}

impl Question {
    /// The question of a row of a published data set; the error is the reason why there is none.
    pub(super) fn of(
        format: InputFormat,
        raw: &Raw,
        row: u64,
        options: &InputOptions,
    ) -> Result<Self, String> {
        let question = match format {
            InputFormat::Items => return item(raw, row),
            InputFormat::AlpacaEval => alpaca(raw, options)?,
            InputFormat::TruthfulQa => truthful(raw, options)?,
            InputFormat::DialogSum => summary(raw, options)?,
            _ => Self {
                question: fields::question(raw, &of_question(&options.rows.columns))?,
                category: fields::label(raw, &["category", "topic"]),
                chat_history: options.rows.columns.history_of(raw)?,
                ..Self::default()
            },
        };
        Ok(question.named(fields::id(raw, &["id", "index", "fname"]), row))
    }

    /// Gives the question its id, or its number where the row has none.
    pub(super) fn named(self, id: Option<String>, row: u64) -> Self {
        Self {
            row,
            has_own_id: id.is_some(),
            id: id.unwrap_or_else(|| row.to_string()),
            ..self
        }
    }
}

/// The columns in which a question may be: the one that was named before all.
fn of_question(columns: &Columns) -> Vec<&str> {
    let mut names = vec!["question", "instruction", "prompt"];
    names.retain(|name| *name != columns.question);
    names.insert(0, &columns.question);
    names
}

/// A row of ours.
fn item(raw: &Raw, row: u64) -> Result<Question, String> {
    let item: Item = serde_json::from_value(Value::Object(raw.clone())).map_err(|error| error.to_string())?;
    if item.question.trim().is_empty() {
        return Err("`instruction` is empty".into());
    }
    Ok(Question {
        row,
        id: item.id,
        has_own_id: true,
        question: item.question,
        also: None,
        answer: Some(item.answer),
        dataset: Some(item.dataset),
        upstream: Some(item.upstream),
        category: item.category,
        chat_history: item.chat_history,
        correct: item.references.correct,
        incorrect: item.references.incorrect,
    })
}

fn alpaca(raw: &Raw, options: &InputOptions) -> Result<Question, String> {
    let (answer, upstream) = alpaca_answer(raw, options)?;
    Ok(Question {
        question: fields::question(raw, &["instruction"])?,
        answer: Some(answer),
        upstream,
        category: fields::label(raw, &["dataset"]),
        ..Question::default()
    })
}

/// The answer of a row of AlpacaEval and who gave it. Of an Aligner's output it is what the Aligner was given.
pub(super) fn alpaca_answer(raw: &Raw, options: &InputOptions) -> Result<(String, Option<String>), String> {
    let Some(original) = fields::optional(raw, &["original_output"])? else {
        return Ok((
            fields::required(raw, &["output"])?,
            fields::label(raw, &["generator"]),
        ));
    };
    let upstream = fields::label(raw, &["upstream"]).or_else(|| options.upstream.clone());
    let Some(upstream) = upstream else {
        return Err("is the output of an Aligner (it has `original_output`), and `generator` names the Aligner: say whose \
                    original answers these are (--upstream NAME), and they are read"
            .into());
    };
    Ok((original, Some(upstream)))
}

fn truthful(raw: &Raw, options: &InputOptions) -> Result<Question, String> {
    let best = fields::optional(raw, &["Best Answer", "best_answer"])?;
    let mut correct: Vec<String> = best.iter().map(|best| best.trim().to_string()).collect();
    correct.retain(|best| !best.is_empty());
    for answer in fields::texts(raw, &["Correct Answers", "correct_answers"])? {
        if !correct.contains(&answer) {
            correct.push(answer);
        }
    }
    if correct.is_empty() {
        return Err("has no right answer in `Correct Answers` or `correct_answers`".into());
    }
    let declines = |answer: &String| answer.trim_end_matches('.') == NO_COMMENT.trim_end_matches('.');
    if !correct.iter().any(declines) {
        correct.push(NO_COMMENT.to_string());
    }
    Ok(Question {
        question: fields::question(raw, &["Question", "question"])?,
        answer: fields::optional(raw, &["answer"])?.filter(|answer| !answer.trim().is_empty()),
        upstream: fields::label(raw, &["upstream", "generator"]),
        category: fields::label(raw, &["Category", "category"]),
        chat_history: options.rows.columns.history_of(raw)?,
        correct,
        incorrect: fields::texts(raw, &["Incorrect Answers", "incorrect_answers"])?,
        ..Question::default()
    })
}

fn summary(raw: &Raw, options: &InputOptions) -> Result<Question, String> {
    let dialogue = fields::question(raw, &["dialogue"])?;
    let instruction = options.instruction.as_deref().unwrap_or(SUMMARY_INSTRUCTION);
    let mut correct = Vec::new();
    for column in ["summary", "summary1", "summary2", "summary3"] {
        correct.extend(fields::optional(raw, &[column])?.filter(|text| !text.trim().is_empty()));
    }
    Ok(Question {
        question: format!("{instruction}\n\n{dialogue}"),
        also: Some(dialogue),
        category: fields::label(raw, &["topic", "topic1"]),
        correct,
        ..Question::default()
    })
}
