//! Outcomes on disk: written row by row by a run that may be killed, and read back.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{EvalError, Result};
use crate::files::write_whole;
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
    file: File,
    path: PathBuf,
    items: &'a [Item],
    aligners: &'a [String],
    done: usize,
    /// Bytes of the rows that are written.
    end: u64,
}

impl<'a> OutcomeWriter<'a> {
    /// Opens a file, or begins it. Rows that are there must be the first of those that are asked for.
    ///
    /// # Errors
    /// When the file cannot be read or written, another process writes it, a row in it is damaged or is of another item or
    /// Aligner than the one at its place, or it has more rows than are asked for.
    pub fn open(path: &Path, items: &'a [Item], aligners: &'a [String]) -> Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(EvalError::io("write", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = "is being written by another process; wait for it, or end it";
                return Err(EvalError::file(path, reason));
            }
            // Some file systems know no locks.
            Err(TryLockError::Error(error)) => tracing::debug!(%error, path = %path.display(), "not locked"),
        }
        let mut writer = Self {
            file,
            path: path.to_path_buf(),
            items,
            aligners,
            done: 0,
            end: 0,
        };
        writer.read_done()?;
        writer.cut().map_err(EvalError::io("write", path))?;
        Ok(writer)
    }

    /// Rows that are written.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Rows that there will be.
    pub fn planned(&self) -> usize {
        self.items.len() * self.aligners.len()
    }

    /// The item that is to be corrected next, and by which Aligner; `None` at the end.
    pub fn next_planned(&self) -> Option<(&'a Item, &'a str)> {
        self.pending().next()
    }

    /// What is still to be corrected, in order: for who corrects several at once.
    pub fn pending(&self) -> impl Iterator<Item = (&'a Item, &'a str)> + use<'a> {
        let (items, aligners) = (self.items, self.aligners);
        (self.done..self.planned()).map(move |row| {
            let (aligner, item) = (row / items.len(), row % items.len());
            (&items[item], aligners[aligner].as_str())
        })
    }

    /// Writes the outcome of [`next_planned`](Self::next_planned).
    ///
    /// # Errors
    /// When it is of another item or Aligner, its likelihood is no number, or the file cannot be written. What was written
    /// of such a row is taken back.
    pub fn write(&mut self, outcome: &Outcome) -> Result<()> {
        self.check_place(outcome)?;
        if outcome.reference_nll.is_some_and(|nll| !nll.is_finite()) {
            let reason = "reference_nll is not finite, which JSON cannot say";
            return Err(EvalError::row(&self.path, self.row(), reason));
        }
        let line = serde_json::to_vec(outcome);
        let mut line = line.map_err(|error| EvalError::row(&self.path, self.row(), error.to_string()))?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            if let Err(error) = self.cut() {
                tracing::debug!(%error, path = %self.path.display(), "half a row is left; the next run cuts it off");
            }
            return Err(EvalError::io("write", &self.path)(error));
        }
        self.done += 1;
        self.end += line.len() as u64;
        Ok(())
    }

    /// The row that is next, counted from 1.
    fn row(&self) -> u64 {
        self.done as u64 + 1
    }

    /// Checks the whole lines that are there.
    fn read_done(&mut self) -> Result<()> {
        let mut lines = BufReader::new(self.file.try_clone().map_err(EvalError::io("read", &self.path))?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line);
            let read = read.map_err(EvalError::io("read", &self.path))?;
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            let outcome: Outcome = serde_json::from_slice(&line).map_err(|error| {
                let reason = format!(
                    "is damaged ({error}); delete this row and those behind it, and they are made anew"
                );
                EvalError::row(&self.path, self.row(), reason)
            })?;
            self.check_place(&outcome)?;
            self.done += 1;
            self.end += read as u64;
        }
    }

    /// Cuts off what is behind the last whole row, and goes on there.
    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.end)?;
        self.file.seek(SeekFrom::Start(self.end)).map(|_| ())
    }

    /// Whether an outcome is the next one.
    fn check_place(&self, outcome: &Outcome) -> Result<()> {
        let reason = match self.next_planned() {
            Some((item, aligner)) if outcome.item == *item && outcome.aligner == aligner => return Ok(()),
            Some((item, aligner)) => difference(outcome, item, aligner),
            None => format!("is one more than the {} that are asked for", self.planned()),
        };
        let reason = format!(
            "{reason}. These are outcomes of another run: name another directory, or delete the file"
        );
        Err(EvalError::row(&self.path, self.row(), reason))
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
    let file = File::open(path).map_err(EvalError::io("read", path))?;
    let mut lines = BufReader::new(file);
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
    Ok(outcomes)
}

/// Writes AlpacaEval's `model_outputs.json`: an array of `instruction`, `output`, `generator`, `dataset`, `original_output`
/// and the rest of an [`Outcome`], which AlpacaEval leaves alone. It is written beside its place and renamed, so that a
/// file that is there is whole.
///
/// # Errors
/// When the file cannot be written.
pub fn write_alpaca(path: &Path, outcomes: &[Outcome]) -> Result<()> {
    let text = serde_json::to_string_pretty(outcomes);
    let text = text.map_err(|error| EvalError::file(path, error.to_string()))?;
    write_whole(path, &(text + "\n"))
}
