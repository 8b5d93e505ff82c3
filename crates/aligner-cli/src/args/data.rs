//! What the commands on data take.

use std::path::PathBuf;

use aligner_data::{CheckOptions, Columns, FailOn, Format, Prefer};
use clap::Args;

use super::RowArgs;

/// Arguments of `data check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The files; they are reported on together.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Validation rows, to be compared with FILE: what they share leaks; may be given several times.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub valid: Vec<PathBuf>,
    /// Benchmark, to be compared with FILE: rows, JSON or lines of text; may be given several times.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub benchmark: Vec<PathBuf>,
    /// Words in a row that overlap with a benchmark.
    #[arg(long, value_name = "WORDS", default_value_t = CheckOptions::NGRAM, value_parser = at_least_one)]
    pub ngram: usize,
    /// From which similarity on (0 to 1) questions and rows are near-duplicates.
    #[arg(long, value_name = "SHARE", default_value_t = CheckOptions::NEAR_THRESHOLD, value_parser = share)]
    pub near: f64,
    /// Examples of each finding.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub examples: usize,
    /// Count tokens with the tokenizer of this model (a directory, or org/name of the Hub); characters without.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Prompt template: edit, revision, correction, or a text file.
    #[arg(long, value_name = "T", default_value = "correction")]
    pub template: String,
    /// Longest prompt and correction together, in tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    pub max_length: usize,
    /// Rows of a batch, for the forecast of what a program that pads would compute.
    #[arg(long, value_name = "ROWS", default_value_t = 4, value_parser = at_least_one)]
    pub micro_batch: usize,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// What the rows are: qac, hh-rlhf, alpaca, … (default: told by their columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
    /// Exit with 1 on findings of this level: warning, error or never.
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    pub fail_on: FailOn,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

fn at_least_one(typed: &str) -> Result<usize, String> {
    match typed.parse() {
        Ok(number) if number >= 1 => Ok(number),
        _ => Err("is not a number of 1 or more".into()),
    }
}

fn share(typed: &str) -> Result<f64, String> {
    match typed.parse() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("is not above 0 and at most 1".into()),
    }
}

/// Arguments of `data show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The row, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub row: usize,
    /// Model with the tokenizer: a directory, a run, or org/name of the Hub (default: the latest run's).
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Prompt template: edit, revision, correction, or a text file (default: the model's, else correction).
    #[arg(long, value_name = "T")]
    pub template: Option<String>,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// What the rows are: qac, hh-rlhf, alpaca, … (default: told by their columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
}

/// Arguments of `data convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The files; each may be of another format.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// File to write: JSON lines, gzipped when it ends in .gz.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// How rows are read.
    #[command(flatten)]
    pub rows: RowArgs,
    /// PKU-SafeRLHF: the correction is the response that was called safer, or better.
    #[arg(long, value_name = "WHICH", default_value = "safer")]
    pub prefer: Prefer,
    /// Give rows without a correction their answer as one, for a warm-up on identity.
    #[arg(long)]
    pub identity: bool,
    /// Replace --out.
    #[arg(long)]
    pub overwrite: bool,
}
