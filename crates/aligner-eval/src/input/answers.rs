//! Answers that come from files of their own.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use aligner_data::{ReadOptions, RowReader};

use super::fields::{self, Raw};
use super::question::{Question, alpaca_answer};
use super::{InputOptions, each_object, of_data, stem};
use crate::error::{EvalError, Result};
use crate::row::Item;
use crate::text::shortened;

/// Questions and answers that an error names.
const NAMED: usize = 3;

/// An answer and what says to which question.
#[derive(Debug)]
struct Answer {
    row: u64,
    id: Option<String>,
    question: Option<String>,
    answer: String,
    upstream: String,
}

/// The questions, once for every upstream that answered them.
pub(super) fn join(
    path: &Path,
    questions: Vec<Question>,
    dataset: &str,
    options: &InputOptions,
) -> Result<Vec<Item>> {
    if let Some(question) = questions.iter().find(|question| question.answer.is_some()) {
        let reason = "has an answer of its own; name files of answers (--answers) for questions alone";
        return Err(EvalError::row(path, question.row, reason));
    }
    let mut items = Vec::new();
    let mut files: HashMap<String, &Path> = HashMap::new();
    for file in &options.answers {
        for (upstream, answers) in read(file, options)? {
            if let Some(first) = files.insert(upstream.clone(), file) {
                let reason = format!("has answers of {upstream:?}, as {} has", first.display());
                return Err(EvalError::file(file, reason));
            }
            let matched = Matching::new(&questions).run(file, answers, path)?;
            for (question, answer) in questions.iter().zip(matched) {
                let question = Question {
                    answer: Some(answer),
                    ..question.clone()
                };
                items.push(question.into_item(dataset, &upstream));
            }
        }
    }
    Ok(items)
}

/// The answers of a file by upstream, in the order in which it names them.
fn read(file: &Path, options: &InputOptions) -> Result<Vec<(String, Vec<Answer>)>> {
    let reader = RowReader::open(file, ReadOptions::default()).map_err(of_data)?;
    let nameless = options.upstream.clone().unwrap_or_else(|| stem(file));
    let mut upstreams: Vec<(String, Vec<Answer>)> = Vec::new();
    for answer in each_object(file, reader, |raw, row| of_row(raw, row, &nameless, options))? {
        match upstreams
            .iter_mut()
            .find(|(upstream, _)| *upstream == answer.upstream)
        {
            Some((_, answers)) => answers.push(answer),
            None => upstreams.push((answer.upstream.clone(), vec![answer])),
        }
    }
    if upstreams.is_empty() {
        return Err(EvalError::file(file, "has no answers"));
    }
    Ok(upstreams)
}

fn of_row(raw: &Raw, row: u64, nameless: &str, options: &InputOptions) -> Result<Answer, String> {
    let (answer, generator) = if raw.contains_key("output") {
        alpaca_answer(raw, options)?
    } else {
        (fields::required(raw, &["answer", "output"])?, None)
    };
    let question = fields::optional(raw, &["instruction", "question"])?;
    let id = fields::id(raw, &["id", "index", "fname"]);
    if question.is_none() && id.is_none() {
        return Err("names no question: it has none of `id`, `index`, `question`, `instruction`".into());
    }
    let upstream = fields::label(raw, &["upstream"]).or(generator);
    Ok(Answer {
        row,
        id,
        question,
        answer,
        upstream: upstream
            .or_else(|| fields::label(raw, &["generator"]))
            .unwrap_or_else(|| nameless.to_string()),
    })
}

/// Which answer goes to which question.
struct Matching<'a> {
    questions: &'a [Question],
    /// Own ids.
    ids: HashMap<&'a str, usize>,
    /// Questions of a text that are not answered yet.
    texts: HashMap<&'a str, VecDeque<usize>>,
    /// Row and text of each question's answer.
    found: Vec<Option<(u64, String)>>,
}

impl<'a> Matching<'a> {
    fn new(questions: &'a [Question]) -> Self {
        let mut texts: HashMap<&str, VecDeque<usize>> = HashMap::new();
        for (index, question) in questions.iter().enumerate() {
            for text in question.also.iter().chain([&question.question]) {
                texts.entry(text.trim()).or_default().push_back(index);
            }
        }
        let ids = questions.iter().enumerate();
        Self {
            questions,
            ids: ids
                .map(|(index, question)| (question.id.as_str(), index))
                .collect(),
            texts,
            found: vec![None; questions.len()],
        }
    }

    /// The answers in the order of the questions.
    fn run(mut self, file: &Path, answers: Vec<Answer>, path: &Path) -> Result<Vec<String>> {
        let mut stray = Vec::new();
        for answer in answers {
            let index = self
                .place(&answer)
                .map_err(|reason| EvalError::row(file, answer.row, reason))?;
            match index {
                Some(index) => self.found[index] = Some((answer.row, answer.answer)),
                None => stray.push(format!("row {} ({})", answer.row, name(&answer))),
            }
        }
        let unanswered = |(question, found): (&Question, &Option<_>)| {
            let named = || format!("row {} ({:?})", question.row, shortened(&question.question));
            found.is_none().then(named)
        };
        let open: Vec<String> = self
            .questions
            .iter()
            .zip(&self.found)
            .filter_map(unanswered)
            .collect();
        if !stray.is_empty() || !open.is_empty() {
            let reason = format!(
                "answers and questions of {} do not match: {} without an answer{}; {} without a question{}. Answers are \
                 matched by `id` or by the text of the question",
                path.display(),
                counted(&open, "question"),
                listed(&open),
                counted(&stray, "answer"),
                listed(&stray),
            );
            return Err(EvalError::file(file, reason));
        }
        Ok(self
            .found
            .into_iter()
            .flatten()
            .map(|(_, answer)| answer)
            .collect())
    }

    /// The question that an answer answers; the error is the reason why it cannot be meant so.
    fn place(&mut self, answer: &Answer) -> Result<Option<usize>, String> {
        let by_id = answer.id.as_deref().and_then(|id| self.ids.get(id).copied());
        let text = answer.question.as_deref().map(str::trim);
        // The number of a row is a name only where there is no better one.
        let by_id = by_id.filter(|&index| self.questions[index].has_own_id || text.is_none());
        let Some(index) = by_id else {
            return Ok(text.and_then(|text| self.next_of_text(text)));
        };
        let question = &self.questions[index];
        if let Some(text) = text
            && text != question.question.trim()
            && question.also.as_deref().map(str::trim) != Some(text)
        {
            return Err(format!(
                "has the id {:?}, but another question than row {}: {:?} instead of {:?}",
                question.id,
                question.row,
                shortened(text),
                shortened(&question.question)
            ));
        }
        if let Some((row, _)) = &self.found[index] {
            return Err(format!("answers the id {:?}, as row {row} does", question.id));
        }
        Ok(Some(index))
    }

    fn next_of_text(&mut self, text: &str) -> Option<usize> {
        let waiting = self.texts.get_mut(text)?;
        while let Some(index) = waiting.pop_front() {
            if self.found[index].is_none() {
                return Some(index);
            }
        }
        None
    }
}

fn name(answer: &Answer) -> String {
    match (&answer.question, &answer.id) {
        (Some(question), _) => format!("{:?}", shortened(question)),
        (None, id) => format!("id {:?}", id.as_deref().unwrap_or_default()),
    }
}

fn counted(names: &[String], what: &str) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{} {what}{plural}", names.len())
}

fn listed(names: &[String]) -> String {
    let more = if names.len() > NAMED { ", …" } else { "" };
    match names {
        [] => String::new(),
        names => format!(" [{}{more}]", names[..names.len().min(NAMED)].join(", ")),
    }
}
