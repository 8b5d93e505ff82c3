//! A look over data files before anything is trained on them.
//!
//! Every check is a file of its own whose head defines what it counts. Rows are read once, a portion at a time; what is kept
//! of a row is numbers: four lengths, a few hashes and the sketches of `near`, together at most 1.4 KB, and a few hundred
//! bytes for short texts. Texts are kept of the examples alone; pairs are read a second time to be shown. The same files give
//! the same report.

mod benchmark;
mod benchmark_file;
mod cut_off;
mod display;
mod findings;
mod forecast;
mod identity;
mod leaks;
mod length_bias;
mod lengths;
mod look;
mod mojibake;
mod near;
mod near_questions;
mod oddities;
mod pairs;
mod place;
mod refusal;
mod refusal_phrases;
mod report;
mod sketch;
mod tally;
mod words;

use std::path::PathBuf;

use rayon::prelude::*;

use crate::encode::Encoder;
use crate::error::Result;
use crate::reader::{OnBadRow, ReadOptions, RowReader};
use crate::record::Record;
use crate::template::PromptTemplate;

pub use benchmark::{BenchmarkReport, shares_run};
pub use findings::{Finding, Level};
pub use forecast::{Forecast, Keeps};
pub use identity::IdentityReport;
pub use leaks::LeakReport;
pub use length_bias::LengthBias;
pub use lengths::Lengths;
pub use near::NearReport;
pub use near_questions::near_questions;
pub use oddities::{Oddities, OddityKind, OddityReport};
pub use place::{PairExample, RowExample, RowRef};
pub use refusal::{RefusalReport, refuses};
pub use report::{CheckReport, CutOffReport, FailOn, FileReport};
pub use words::words;

use benchmark::Benchmarks;
use look::{Lens, Look};
use oddities::Markers;
use tally::Tally;

/// What to check, and how.
#[derive(Debug, Clone)]
pub struct CheckOptions<'a> {
    /// How rows are read; bad rows are always counted and left out.
    pub read: ReadOptions,
    /// Counts tokens; without one, lengths are in characters and nothing is forecast.
    pub encoder: Option<&'a Encoder>,
    /// The template whose markers are looked for.
    pub template: PromptTemplate,
    /// Validation files, to be compared with the others.
    pub valid: Vec<PathBuf>,
    /// Benchmark files.
    pub benchmarks: Vec<PathBuf>,
    /// Words of a run that a row may not share with a benchmark.
    pub ngram: usize,
    /// From which similarity on, between 0 and 1, texts are near-duplicates.
    pub near_threshold: f64,
    /// Rows of a micro-batch, for the forecast of what a program that pads would compute.
    pub micro_batch: usize,
    /// Examples of each finding.
    pub examples: usize,
}

impl CheckOptions<'_> {
    /// The usual length of a run: GPT-3's and Llama's decontamination take 13 words.
    pub const NGRAM: usize = 13;
    /// The usual threshold: one changed word among 41, or among the 17 content words of a question.
    pub const NEAR_THRESHOLD: f64 = 0.8;
}

impl Default for CheckOptions<'_> {
    fn default() -> Self {
        Self {
            read: ReadOptions::default(),
            encoder: None,
            template: PromptTemplate::default(),
            valid: Vec::new(),
            benchmarks: Vec::new(),
            ngram: Self::NGRAM,
            near_threshold: Self::NEAR_THRESHOLD,
            micro_batch: 4,
            examples: 3,
        }
    }
}

/// Rows that are looked at together, and the bytes of text from which on a portion is full.
const PORTION_ROWS: usize = 512;
const PORTION_BYTES: usize = 4 << 20;

/// Reads whole files and reports on them together.
///
/// ```
/// use aligner_data::{CheckOptions, check_files};
/// # let dir = tempfile::tempdir()?;
/// # let file = dir.path().join("rows.jsonl");
/// std::fs::write(&file, r#"{"question": "Capital of Italy?", "answer": "Milan.", "correction": "Rome."}"#)?;
/// let report = check_files(&[file], &CheckOptions::default())?;
/// assert!(report.rows == 1 && report.findings.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When a file cannot be read. Bad rows are part of the report.
pub fn check_files(files: &[PathBuf], options: &CheckOptions<'_>) -> Result<CheckReport> {
    let lens = Lens {
        encoder: options.encoder,
        markers: Markers::of(&options.template),
        benchmarks: Benchmarks::read(&options.benchmarks, options.ngram)?,
    };
    let mut tally = Tally::new(files, options, &lens);
    for (number, file) in files.iter().enumerate() {
        let reader = each_row(file, options, &lens, |record, look| {
            tally.add(number, record, look)
        })?;
        tally.end_file(file, reader.skipped());
    }
    if !options.valid.is_empty() {
        // Only what is compared is computed of a validation row.
        let lens = Lens {
            encoder: None,
            markers: Markers::default(),
            benchmarks: Benchmarks::default(),
        };
        for (number, file) in options.valid.iter().enumerate() {
            let place = files.len() + number;
            let reader = each_row(file, options, &lens, |record, look| {
                tally.add_valid(place, record, look)
            })?;
            tally.end_valid_file(file, reader.skipped());
        }
    }
    tally.finish()
}

/// Looks at the rows of a file in parallel and hands them on in their order.
fn each_row(
    file: &std::path::Path,
    options: &CheckOptions<'_>,
    lens: &Lens<'_>,
    mut add: impl FnMut(&Record, Look),
) -> Result<RowReader<'static>> {
    let read = ReadOptions {
        on_bad_row: OnBadRow::Skip,
        ..options.read.clone()
    };
    let mut reader = RowReader::open(file, read)?;
    loop {
        let portion = portion(&mut reader)?;
        if portion.is_empty() {
            return Ok(reader);
        }
        let looks: Vec<Result<Look>> = portion.par_iter().map(|record| Look::at(record, lens)).collect();
        for (record, look) in portion.iter().zip(looks) {
            add(record, look?);
        }
    }
}

fn portion(reader: &mut RowReader<'_>) -> Result<Vec<Record>> {
    let mut portion = Vec::new();
    let mut bytes = 0;
    while portion.len() < PORTION_ROWS && bytes < PORTION_BYTES {
        let Some(record) = reader.next() else { break };
        let record = record?;
        bytes +=
            record.question.len() + record.answer.len() + record.correction.as_ref().map_or(0, String::len);
        portion.push(record);
    }
    Ok(portion)
}

#[cfg(test)]
mod tests;
