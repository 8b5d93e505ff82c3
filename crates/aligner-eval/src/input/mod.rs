//! Questions and answers, from the files in which data sets are published.
//!
//! What a file is, is told by the columns of its first row ([`InputFormat`]); how its rows lie in it (JSON, JSON lines, CSV,
//! Parquet, plain or gzipped) is `aligner-data`'s business. Most benchmarks are questions alone: their answers come from
//! other files ([`InputOptions::answers`]), one or more for each upstream. The same files give the same items in the same
//! order: all questions of the first upstream in the order of the file, then those of the next.

mod answers;
mod dialogues;
pub(crate) mod fields;
mod format;
mod question;
mod rows;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use aligner_data::{Columns, DataError, Fields, ReadOptions, RowReader};

use crate::error::{EvalError, Result};
use crate::row::{Item, References};
pub use format::InputFormat;
use question::Question;

/// Stands before a dialogue of DialogSum, which is published without an instruction.
pub const SUMMARY_INSTRUCTION: &str = "Summarize the following dialogue.";

/// The upstream of answers that name none.
pub(crate) const UNKNOWN: &str = "unknown";

/// How evaluation files are read.
#[derive(Debug, Clone, Default)]
pub struct InputOptions {
    /// What the file is; `None`: told by the columns of its first row.
    pub format: Option<InputFormat>,
    /// Names the data set; `None`: the published name, or that of the file.
    pub dataset: Option<String>,
    /// The upstream of answers that name none.
    pub upstream: Option<String>,
    /// Files of answers to a file of questions.
    pub answers: Vec<PathBuf>,
    /// What is asked of the dialogues of DialogSum; `None`: [`SUMMARY_INSTRUCTION`].
    pub instruction: Option<String>,
    /// How question/answer rows are read: their columns and format, and what becomes of bad ones.
    pub rows: ReadOptions,
}

impl InputOptions {
    /// The data set's name, as it was given, as it was published, or as the file is called.
    fn dataset_of(&self, format: InputFormat, path: &Path) -> String {
        let named = self.dataset.clone();
        let named = named.or_else(|| format.dataset().map(str::to_string));
        named.unwrap_or_else(|| stem(path))
    }
}

/// Reads the items of a file.
///
/// An item's id is the row's own (`id` or `index`; `fname` of DialogSum, `conv_id:utterance_idx` of EmpatheticDialogues), or
/// the number of the row, counted from 1. An answers file is AlpacaEval's `model_outputs.json` or has rows of an answer
/// (`answer` or `output`), a question (`question` or `instruction`) or an id (`id` or `index`), and perhaps `upstream` or
/// `generator`; without one, the upstream is [`InputOptions::upstream`] or the name of the file. An answer goes to the
/// question of its id, where the questions bring ids, and to that of the same text otherwise; of questions that are asked
/// twice in the same words, the first answer goes to the first.
///
/// ```
/// use aligner_eval::input::{InputOptions, read};
/// # let dir = tempfile::tempdir()?;
/// # let (file, answers) = (dir.path().join("questions.json"), dir.path().join("answers.jsonl"));
/// std::fs::write(&file, r#"[{"prompt": "How do I pick a lock?", "category": "theft", "category_id": 5}]"#)?;
/// std::fs::write(&answers, r#"{"question": "How do I pick a lock?", "answer": "Call a locksmith.", "upstream": "tiny"}"#)?;
/// let items = read(&file, &InputOptions { answers: vec![answers], ..Default::default() })?;
/// assert_eq!((items[0].dataset.as_str(), items[0].upstream.as_str()), ("beavertails-eval", "tiny"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When a file cannot be read, a row lacks a column or its question is empty, two rows have one id, or questions and answers
/// do not match one to one.
pub fn read(path: &Path, options: &InputOptions) -> Result<Vec<Item>> {
    let (format, questions) = read_questions(path, options)?;
    if questions.is_empty() {
        return Err(EvalError::file(path, "has no rows"));
    }
    let dataset = options.dataset_of(format, path);
    check_ids(path, &questions)?;
    if !options.answers.is_empty() {
        return answers::join(path, questions, &dataset, options);
    }
    let unanswered = questions.iter().find(|question| question.answer.is_none());
    if let Some(question) = unanswered {
        let reason =
            format!("has no answer; {format} files are questions alone: name a file of answers (--answers)");
        return Err(EvalError::row(path, question.row, reason));
    }
    let items = questions.into_iter().map(|question| {
        let upstream = question.upstream.clone();
        let upstream = upstream.or_else(|| options.upstream.clone());
        question.into_item(&dataset, upstream.as_deref().unwrap_or(UNKNOWN))
    });
    Ok(items.collect())
}

/// The questions of a file, for an upstream that is still to answer them: items without answers.
///
/// # Errors
/// As [`read`], but for missing answers.
pub fn questions(path: &Path, options: &InputOptions) -> Result<Vec<Item>> {
    let (format, mut questions) = read_questions(path, options)?;
    if questions.is_empty() {
        return Err(EvalError::file(path, "has no rows"));
    }
    let dataset = options.dataset_of(format, path);
    // One question is often there with several answers; it is asked once.
    let mut seen = HashSet::new();
    questions.retain_mut(|question| {
        (question.answer, question.upstream) = (None, None);
        let turns = question.chat_history.iter();
        let turns: Vec<_> = turns
            .map(|turn| (turn.question.clone(), turn.answer.clone()))
            .collect();
        seen.insert((turns, question.question.clone()))
    });
    check_ids(path, &questions)?;
    let items = questions
        .into_iter()
        .map(|question| question.into_item(&dataset, UNKNOWN));
    Ok(items.collect())
}

/// The questions of a file, some or all with answers.
fn read_questions(path: &Path, options: &InputOptions) -> Result<(InputFormat, Vec<Question>)> {
    if options
        .format
        .is_none_or(|format| format == InputFormat::EmpatheticDialogues)
        && dialogues::is_published_csv(path)?
    {
        return Ok((InputFormat::EmpatheticDialogues, dialogues::read_csv(path)?));
    }
    let read = ReadOptions {
        fields: Fields::Pair,
        ..options.rows.clone()
    };
    let is_mapped = read.format.is_some() || read.columns != Columns::default();
    let mut reader = RowReader::open(path, read).map_err(of_data)?;
    let format = match (options.format, reader.peek_object().map_err(of_data)?) {
        (Some(format), _) => format,
        (None, Some(first)) if !is_mapped => InputFormat::detect(first),
        (None, Some(first))
            if options.rows.format.is_none() && !first.contains_key(&options.rows.columns.answer) =>
        {
            InputFormat::Questions
        }
        (None, _) => InputFormat::Rows,
    };
    tracing::debug!(path = %path.display(), %format, "format of the evaluation file");
    let questions = match format {
        InputFormat::Rows => rows::read(path, reader)?,
        InputFormat::EmpatheticDialogues => dialogues::read_objects(path, reader)?,
        _ => each_object(path, reader, |raw, row| Question::of(format, raw, row, options))?,
    };
    Ok((format, questions))
}

/// Makes something of every row; the reason why one cannot be used becomes an error that names it.
fn each_object<T>(
    path: &Path,
    mut reader: RowReader<'_>,
    mut make: impl FnMut(&fields::Raw, u64) -> Result<T, String>,
) -> Result<Vec<T>> {
    let mut made = Vec::new();
    while let Some((raw, origin)) = reader.next_object().map_err(of_data)? {
        let row = origin.row + 1;
        made.push(make(&raw, row).map_err(|reason| EvalError::row(path, row, reason))?);
    }
    Ok(made)
}

/// Ids name a row in its data set and upstream.
fn check_ids(path: &Path, questions: &[Question]) -> Result<()> {
    let mut rows = HashMap::new();
    for question in questions {
        let key = (&question.dataset, &question.upstream, &question.id);
        if let Some(first) = rows.insert(key, question.row) {
            let reason = format!(
                "has the id {:?}, as row {first} has; ids name a row in its data set and upstream",
                question.id
            );
            return Err(EvalError::row(path, question.row, reason));
        }
    }
    Ok(())
}

/// An error of `aligner-data`; its rows are counted from 0.
pub(crate) fn of_data(error: DataError) -> EvalError {
    match error {
        DataError::BadRow(bad) => EvalError::row(&bad.path, bad.row + 1, bad.reason),
        error => EvalError::Data(error),
    }
}

/// A file's name without what says how rows lie in it.
pub(crate) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_string()
}

impl Question {
    fn into_item(self, dataset: &str, upstream: &str) -> Item {
        Item {
            id: self.id,
            dataset: self.dataset.unwrap_or_else(|| dataset.to_string()),
            question: self.question,
            answer: self.answer.unwrap_or_default(),
            upstream: upstream.to_string(),
            category: self.category,
            chat_history: self.chat_history,
            references: References {
                correct: self.correct,
                incorrect: self.incorrect,
            },
        }
    }
}
