//! What a model writes on a sample of the validation rows, beside its loss.
//!
//! Training knows no decoding: an [`Evaluator`] is given the model in memory and the rows, and says of each what was
//! written. The `aligner` command brings one made of `aligner-infer`.

use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

use aligner_data::{Encoder, Order, PromptTemplate, ReadOptions, Record, RowReader, Target, Tokenizer, Turn};
use aligner_model::Loaded;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::checkpoint::RunState;
use crate::error::{Result, TrainError};
use crate::metrics::MetricsLog;
use crate::plan::StageKind;
use crate::repair::repair;

/// The model of a run as it stands, without gradients; its weights are shared with the run, not copied.
#[derive(Debug)]
pub struct ModelInMemory {
    /// Configuration and decoder.
    pub loaded: Loaded,
    /// Where the decoder's tensors are.
    pub device: Device,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The template the model is trained on.
    pub template: PromptTemplate,
}

/// A validation row as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleRow {
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: String,
    /// The correction of the row.
    pub reference: String,
    /// Earlier turns, oldest first.
    pub chat_history: Vec<Turn>,
}

/// What a model made of a [`SampleRow`].
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The correction it wrote.
    pub correction: String,
    /// How much of the answer it changed: 0 for a copy, 1 when no word was kept.
    pub edit_ratio: f64,
    /// Whether the correction is the answer.
    pub is_copy: bool,
    /// Whether the correction is the reference.
    pub is_exact: bool,
    /// Whether it left the reference alone where that was the answer.
    pub is_retained: bool,
}

/// Lets a model correct a sample of rows: the validation hook.
///
/// It must leave no trace in the run: no seed, no state, no handle to a tensor that outlives the call.
pub trait Evaluator: Send {
    /// One verdict a row, in the order of the rows.
    ///
    /// # Errors
    /// When the model cannot be run; the run ends with it.
    fn evaluate(
        &mut self,
        model: ModelInMemory,
        rows: &[SampleRow],
    ) -> Result<Vec<Verdict>, Box<dyn std::error::Error + Send + Sync>>;
}

/// What the verdicts of a sample amount to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextMetrics {
    /// Share of the corrections that are the answer, unchanged.
    pub copy_rate: f64,
    /// Mean share of the words that were changed.
    pub edit_ratio: f64,
    /// Share of the references that are left alone when they are the answer.
    pub copy_retention: f64,
    /// Share of the corrections that are the reference.
    pub exact_match: f64,
    /// Time it took, in seconds.
    pub eval_seconds: f64,
}

impl TextMetrics {
    /// The means over the verdicts; `None` when there are none.
    pub fn of(verdicts: &[Verdict], eval_seconds: f64) -> Option<Self> {
        if verdicts.is_empty() {
            return None;
        }
        let mean =
            |value: &dyn Fn(&Verdict) -> f64| verdicts.iter().map(value).sum::<f64>() / verdicts.len() as f64;
        Some(Self {
            copy_rate: mean(&|verdict| f64::from(verdict.is_copy)),
            edit_ratio: mean(&|verdict| verdict.edit_ratio),
            copy_retention: mean(&|verdict| f64::from(verdict.is_retained)),
            exact_match: mean(&|verdict| f64::from(verdict.is_exact)),
            eval_seconds,
        })
    }
}

/// One line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// Optimizer steps done.
    pub step: u64,
    /// The stage they ended in.
    #[serde(default)]
    pub stage: StageKind,
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: String,
    /// The correction of the row.
    pub reference: String,
    /// The correction the model wrote.
    pub correction: String,
    /// How much of the answer it changed.
    pub edit_ratio: f64,
    /// Whether the correction is the answer.
    pub is_copy: bool,
    /// Whether the correction is the reference.
    pub is_exact: bool,
    /// Whether it left the reference alone where that was the answer.
    pub is_retained: bool,
}

impl SampleRecord {
    fn new(step: u64, stage: StageKind, row: &SampleRow, verdict: Verdict) -> Self {
        Self {
            step,
            stage,
            question: row.question.clone(),
            answer: row.answer.clone(),
            reference: row.reference.clone(),
            correction: verdict.correction,
            edit_ratio: verdict.edit_ratio,
            is_copy: verdict.is_copy,
            is_exact: verdict.is_exact,
            is_retained: verdict.is_retained,
        }
    }
}

/// An evaluator with the rows it is given and the file that keeps what they became.
pub(crate) struct Evaluation {
    evaluator: Box<dyn Evaluator>,
    rows: Vec<SampleRow>,
    log: MetricsLog,
}

impl Evaluation {
    /// Goes on in `file` where the run stands.
    pub fn new(
        evaluator: Box<dyn Evaluator>,
        rows: Vec<SampleRow>,
        file: &Path,
        state: &RunState,
    ) -> Result<Self> {
        let log = MetricsLog::open(file, repair(file, state.step, state.samples_bytes)?)?;
        Ok(Self { evaluator, rows, log })
    }

    /// Evaluates the model after `step` steps; the state learns the file's new length.
    pub fn run(
        &mut self,
        model: ModelInMemory,
        stage: StageKind,
        state: &mut RunState,
    ) -> Result<Option<TextMetrics>> {
        let started = std::time::Instant::now();
        let step = state.step;
        let failed = |source| TrainError::Evaluation { step, source };
        let verdicts = self.evaluator.evaluate(model, &self.rows).map_err(failed)?;
        if verdicts.len() != self.rows.len() {
            let reason = format!("{} verdicts on {} rows", verdicts.len(), self.rows.len());
            return Err(failed(reason.into()));
        }
        let metrics = TextMetrics::of(&verdicts, started.elapsed().as_secs_f64());
        for (row, verdict) in self.rows.iter().zip(verdicts) {
            self.log.append(&SampleRecord::new(step, stage, row, verdict))?;
        }
        state.samples_bytes = self.log.bytes();
        Ok(metrics)
    }

    /// Brings what was written to the disk, before a checkpoint that counts on it.
    pub fn sync(&self) -> Result<()> {
        self.log.sync()
    }
}

impl From<Record> for SampleRow {
    fn from(record: Record) -> Self {
        Self {
            question: record.question,
            answer: record.answer,
            reference: record.correction.unwrap_or_default(),
            chat_history: record.chat_history,
        }
    }
}

/// Chooses `count` validation rows.
///
/// Rows that do not fit the encoder are passed over, and so are those whose reference would not, were it the answer.
pub(crate) fn sample(
    files: &[PathBuf],
    encoder: &Encoder,
    options: &ReadOptions,
    count: usize,
    seed: u64,
) -> Result<Vec<SampleRow>> {
    let right_already = encoder.clone().with_target(Target::CorrectionUnchanged);
    let encoders = [encoder.clone(), right_already];
    let rows = draw_rows(files, options, count, seed, |record| fits(&encoders, record))?;
    Ok(rows.into_iter().map(SampleRow::from).collect())
}

/// Chooses `count` of the rows of some files that are wanted, the same for the same seed and each as likely as the others, and gives
/// them in their order.
///
/// # Errors
/// As [`RowReader`].
pub fn draw_rows(
    files: &[PathBuf],
    options: &ReadOptions,
    count: usize,
    seed: u64,
    is_wanted: impl Fn(&Record) -> bool,
) -> Result<Vec<Record>> {
    /// More rows than any file has: a position's place in a shuffled order of so many is its lot.
    const MANY: usize = 1 << 31;
    let lots = Order::new(seed, MANY, true);
    let mut drawn: BinaryHeap<Drawn> = BinaryHeap::new();
    let mut position = 0;
    for file in files {
        for record in RowReader::open(file, options.clone())? {
            let record = record?;
            let lot = lots.at(0, position);
            position += 1;
            let has_room = drawn.len() < count || drawn.peek().is_some_and(|last| lot < last.lot);
            if !has_room || !is_wanted(&record) {
                continue;
            }
            drawn.push(Drawn {
                lot,
                position,
                record,
            });
            if drawn.len() > count {
                drawn.pop();
            }
        }
    }
    let mut drawn = drawn.into_vec();
    drawn.sort_by_key(|drawn| drawn.position);
    Ok(drawn.into_iter().map(|drawn| drawn.record).collect())
}

fn fits(encoders: &[Encoder; 2], record: &Record) -> bool {
    encoders.iter().all(|encoder| encoder.encode(record).is_ok())
}

/// A row in the hat, compared by its lot.
struct Drawn {
    lot: usize,
    position: u64,
    record: Record,
}

impl PartialEq for Drawn {
    fn eq(&self, other: &Self) -> bool {
        self.lot == other.lot
    }
}

impl Eq for Drawn {}

impl PartialOrd for Drawn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Drawn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.lot.cmp(&other.lot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_means_over_the_sample() {
        let verdict = |edit_ratio, is_copy, is_exact, is_retained| Verdict {
            correction: String::new(),
            edit_ratio,
            is_copy,
            is_exact,
            is_retained,
        };
        let metrics = TextMetrics::of(
            &[
                verdict(0.0, true, true, true),
                verdict(0.5, false, false, true),
                verdict(1.0, false, true, true),
                verdict(0.5, false, true, false),
            ],
            2.0,
        );
        assert_eq!(
            metrics,
            Some(TextMetrics {
                copy_rate: 0.25,
                edit_ratio: 0.5,
                copy_retention: 0.75,
                exact_match: 0.75,
                eval_seconds: 2.0
            })
        );
        assert_eq!(TextMetrics::of(&[], 0.0), None);
    }
}
