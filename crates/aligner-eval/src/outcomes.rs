//! Outcomes on disk: written row by row by a run that may be killed, and read back.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::path::Path;

use crate::error::{EvalError, Result};
use crate::files::{Hashing, write_whole};
use crate::growing::Growing;
use crate::row::{Item, Outcome};
use crate::text::shortened;

/// Writes `outcomes.jsonl`: all items of the first Aligner in their order, then all of the next.
///
/// A row is handed to the system as soon as it is written, so a process that is killed loses at most the row it was at:
/// half a line is cut off at the next [`open`](Self::open), and the run goes on behind it. A run that was resumed leaves the
/// same bytes as one that was not.
///
/// ```
/// use aligner_eval::outcomes::OutcomeWriter;
/// use aligner_eval::{Item, Outcome};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("outcomes.jsonl");
/// let items = [Item { id: "1".into(), upstream: "llama".into(), ..Item::default() }];
/// let aligners = ["aligner-2b".to_string()];
/// let mut writer = OutcomeWriter::open(&path, &items, &aligners)?;
/// while let Some((item, aligner)) = writer.next_planned() {
///     let output = "a correction".into();
///     let generator = format!("{}+{aligner}", item.upstream);
///     let aligner = aligner.to_string();
///     writer.write(&Outcome { item: item.clone(), output, generator, aligner, ..Outcome::default() })?;
/// }
/// drop(writer);
/// assert_eq!(OutcomeWriter::open(&path, &items, &aligners)?.done(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OutcomeWriter<'a> {
    file: Growing,
    plan: Plan<'a>,
}

/// What is corrected by whom, in order.
#[derive(Debug, Clone, Copy)]
struct Plan<'a> {
    items: &'a [Item],
    aligners: &'a [String],
}

impl<'a> Plan<'a> {
    fn len(self) -> usize {
        self.items.len() * self.aligners.len()
    }

    fn get(self, row: usize) -> Option<(&'a Item, &'a str)> {
        let (aligner, item) = (
            row.checked_div(self.items.len())?,
            row.checked_rem(self.items.len())?,
        );
        Some((&self.items[item], self.aligners.get(aligner)?.as_str()))
    }

    /// Why an outcome is not that of a row, if so.
    fn check(self, row: usize, outcome: &Outcome) -> Result<(), String> {
        let reason = match self.get(row) {
            Some((item, aligner)) if outcome.item == *item && outcome.aligner == aligner => return Ok(()),
            Some((item, aligner)) => difference(outcome, item, aligner),
            None => format!("is one more than the {} that are asked for", self.len()),
        };
        Err(format!(
            "{reason}. These are outcomes of another run: name another directory, or delete the file"
        ))
    }
}

impl<'a> OutcomeWriter<'a> {
    /// Opens a file, or begins it. Rows that are there must be the first of those that are asked for.
    ///
    /// # Errors
    /// When the file cannot be read or written, another process writes it, a row in it is damaged or is of another item or
    /// Aligner than the one at its place, or it has more rows than are asked for.
    pub fn open(path: &Path, items: &'a [Item], aligners: &'a [String]) -> Result<Self> {
        let plan = Plan { items, aligners };
        let file = Growing::open(path, |row, outcome| plan.check(row as usize, &outcome))?;
        Ok(Self { file, plan })
    }

    /// Rows that are written.
    pub fn done(&self) -> usize {
        self.file.rows() as usize
    }

    /// Rows that there will be.
    pub fn planned(&self) -> usize {
        self.plan.len()
    }

    /// The item that is to be corrected next, and by which Aligner; `None` at the end.
    pub fn next_planned(&self) -> Option<(&'a Item, &'a str)> {
        self.plan.get(self.done())
    }

    /// What is still to be corrected, in order: for who corrects several at once.
    pub fn pending(&self) -> impl Iterator<Item = (&'a Item, &'a str)> + use<'a> {
        let plan = self.plan;
        (self.done()..plan.len()).filter_map(move |row| plan.get(row))
    }

    /// Writes the outcome of [`next_planned`](Self::next_planned).
    ///
    /// # Errors
    /// When it is of another item or Aligner, its likelihood is no number, or the file cannot be written. What was written
    /// of such a row is taken back.
    pub fn write(&mut self, outcome: &Outcome) -> Result<()> {
        let placed = self.plan.check(self.done(), outcome);
        placed.map_err(|reason| self.file.error(reason))?;
        if outcome.reference_nll.is_some_and(|nll| !nll.is_finite()) {
            return Err(self
                .file
                .error("reference_nll is not finite, which JSON cannot say"));
        }
        self.file.append(outcome)
    }
}

/// In what an outcome is not the one that is asked for.
fn difference(outcome: &Outcome, item: &Item, aligner: &str) -> String {
    let found = &outcome.item;
    let fields = [
        ("aligner", outcome.aligner.as_str(), aligner),
        ("dataset", &found.dataset, &item.dataset),
        ("upstream", &found.upstream, &item.upstream),
        ("id", &found.id, &item.id),
        ("question", &found.question, &item.question),
        ("answer", &found.answer, &item.answer),
    ];
    match fields.into_iter().find(|(_, found, asked)| found != asked) {
        Some((field, found, asked)) => {
            let [found, asked] = [found, asked].map(shortened);
            format!("its {field} is {found:?}, where {asked:?} is asked for")
        }
        None => format!(
            "its history, category or references are not those of the item {:?}",
            item.id
        ),
    }
}

/// Reads `outcomes.jsonl`.
///
/// # Errors
/// When the file cannot be read, or a row is no outcome, or is of the same data set, upstream, Aligner and id as one before.
pub fn read(path: &Path) -> Result<Vec<Outcome>> {
    Ok(read_hashed(path)?.0)
}

/// Reads `outcomes.jsonl`, and gives `sha256:` and the hash of the bytes that were read.
///
/// # Errors
/// As [`read`].
pub fn read_hashed(path: &Path) -> Result<(Vec<Outcome>, String)> {
    let mut lines = Hashing::open(path)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut rows = HashMap::new();
    let mut line = Vec::new();
    for row in 1_u64.. {
        line.clear();
        if lines
            .read_until(b'\n', &mut line)
            .map_err(EvalError::io("read", path))?
            == 0
        {
            break;
        }
        let outcome: Outcome = serde_json::from_slice(&line).map_err(|error| {
            let cut = line.last() != Some(&b'\n');
            let what = if cut {
                "was cut off; run the evaluation again, and it goes on there"
            } else {
                "is no outcome"
            };
            EvalError::row(path, row, format!("{what} ({error})"))
        })?;
        let Item {
            dataset,
            upstream,
            id,
            ..
        } = &outcome.item;
        let key = (
            dataset.clone(),
            upstream.clone(),
            outcome.aligner.clone(),
            id.clone(),
        );
        if let Some(first) = rows.insert(key, row) {
            let reason = format!(
                "is of the data set {dataset:?}, the upstream {upstream:?}, the Aligner {:?} and the id {id:?}, as row {first} \
                 is",
                outcome.aligner
            );
            return Err(EvalError::row(path, row, reason));
        }
        outcomes.push(outcome);
    }
    Ok((outcomes, lines.into_inner().hash()))
}

/// Writes AlpacaEval's `model_outputs.json` into a directory: an array of `instruction`, `output`, `generator`, `dataset`,
/// `original_output` and the rest of an [`Outcome`], which AlpacaEval leaves alone. AlpacaEval compares one generator at a time:
/// where there are several, each has a file `model_outputs.GENERATOR.json`.
///
/// # Errors
/// When a file cannot be written; what was there of it stays.
pub fn write_alpaca(dir: &Path, outcomes: &[Outcome]) -> Result<()> {
    let mut by_generator: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        by_generator.entry(&outcome.generator).or_default().push(outcome);
    }
    let is_one = by_generator.len() <= 1;
    for (index, (generator, outcomes)) in by_generator.into_iter().enumerate() {
        let path = dir.join(match is_one {
            true => "model_outputs.json".into(),
            false => format!("model_outputs.{}.json", file_name(generator, index)),
        });
        let text = serde_json::to_string_pretty(&outcomes);
        let text = text.map_err(|error| EvalError::file(&path, error.to_string()))?;
        write_whole(&path, &(text + "\n"))?;
    }
    Ok(())
}

/// A generator's name as a part of a file's; those with characters that a file's name may not have are told apart by a number.
fn file_name(generator: &str, index: usize) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-_.".contains(c);
    match generator.chars().all(is_plain) {
        true => generator.to_string(),
        false => format!("{}-{index}", generator.replace(|c: char| !is_plain(c), "-")),
    }
}
