//! What a check found, as one value.

use serde::Serialize;

use super::benchmark::BenchmarkReport;
use super::findings::{Finding, Level};
use super::forecast::Forecast;
use super::identity::IdentityReport;
use super::leaks::LeakReport;
use super::length_bias::LengthBias;
use super::lengths::Lengths;
use super::near::NearReport;
use super::oddities::Oddities;
use super::place::RowExample;
use super::refusal::RefusalReport;

/// What [`check_files`](super::check_files) found. Row numbers count from 0.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// The files.
    pub files: Vec<FileReport>,
    /// Usable rows.
    pub rows: u64,
    /// Rows that cannot be used.
    pub bad_rows: u64,
    /// The first of them, with the reasons.
    pub first_bad_rows: Vec<String>,
    /// Rows that are as they should be and hold no pair of answers; they are left out.
    pub unsuitable_rows: u64,
    /// Rows equal to an earlier one in question, history, answer and correction.
    pub duplicate_rows: u64,
    /// Rows whose question, with its history, occurred before.
    pub repeated_questions: u64,
    /// Rows whose correction is the answer to the letter.
    pub identical: u64,
    /// Rows with earlier turns.
    pub with_history: u64,
    /// Unit of the lengths: `tokens`, or `characters` when there is no tokenizer.
    pub unit: &'static str,
    /// Length of the questions, without earlier turns.
    pub question: Lengths,
    /// Length of the answers.
    pub answer: Lengths,
    /// Length of the corrections.
    pub correction: Lengths,
    /// Length of prompt, correction and end of sequence together; tokens only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<Lengths>,
    /// The longest row that would be trained on, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Rows longer than that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub too_long: Option<u64>,
    /// Answers that are, or are in, their corrections.
    pub identity: IdentityReport,
    /// Correction against answer in length.
    pub length_bias: LengthBias,
    /// Texts that begin by declining.
    pub refusals: RefusalReport,
    /// Texts that end unfinished.
    pub cut_off: CutOffReport,
    /// Characters and strings that do not belong.
    pub oddities: Oddities,
    /// From which similarity on texts are near-duplicates.
    pub near_threshold: f64,
    /// Near-duplicates among the different questions.
    pub near_questions: NearReport,
    /// Near-duplicates among the different rows.
    pub near_rows: NearReport,
    /// What becomes of the lengths; with a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// What validation files share with these; when any are named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaks: Option<LeakReport>,
    /// What benchmarks share with these, one by one.
    pub benchmarks: Vec<BenchmarkReport>,
    /// What to look at, errors first.
    pub findings: Vec<Finding>,
}

/// One file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its name.
    pub file: String,
    /// Usable rows.
    pub rows: u64,
    /// Rows that cannot be used.
    pub bad_rows: u64,
    /// Rows that are as they should be and hold no pair of answers.
    pub unsuitable_rows: u64,
}

/// Texts that end unfinished.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CutOffReport {
    /// Answers.
    pub answers: u64,
    /// Corrections.
    pub corrections: u64,
    /// Ends of some of the corrections.
    pub examples: Vec<RowExample>,
}

impl CheckReport {
    /// Whether every row can be trained on and nothing leaks: no finding is an error.
    pub fn is_clean(&self) -> bool {
        !self.fails(FailOn::Error)
    }

    /// Whether there is a finding that counts as a failure.
    pub fn fails(&self, on: FailOn) -> bool {
        self.failures(on).next().is_some()
    }

    /// The findings that count as failures.
    pub fn failures(&self, on: FailOn) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| match on {
            FailOn::Warning => true,
            FailOn::Error => finding.level == Level::Error,
            FailOn::Never => false,
        })
    }
}

/// From which level on a finding is a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailOn {
    /// Warnings and errors.
    Warning,
    /// Errors.
    #[default]
    Error,
    /// Nothing.
    Never,
}

impl std::str::FromStr for FailOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "warning" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            "never" => Ok(Self::Never),
            _ => Err("is none of warning, error, never".into()),
        }
    }
}
