//! What `correct` and `score` take.

use std::path::PathBuf;

use aligner_infer::{BatchOptions, Draft, LongAnswers, SamplingParams};
use aligner_train::MemorySize;
use clap::Args;

use super::{ModelArgs, RowArgs};

/// Arguments of `correct`.
#[derive(Debug, Args)]
pub struct CorrectArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The question.
    #[arg(
        long,
        value_name = "TEXT",
        requires = "answer",
        required_unless_present = "input"
    )]
    pub question: Option<String>,
    /// The answer to correct.
    #[arg(long, value_name = "TEXT", requires = "question")]
    pub answer: Option<String>,
    /// Print the correction as it is generated.
    #[arg(long, conflicts_with_all = ["diff", "input"])]
    pub stream: bool,
    /// Print the correction as changes of the answer.
    #[arg(long, conflicts_with = "input")]
    pub diff: bool,
    /// Rows with question and answer (JSON, CSV or Parquet).
    #[arg(long, value_name = "FILE", conflicts_with = "question")]
    pub input: Option<PathBuf>,
    /// Where the corrected rows go, one JSON object a line; continued when it exists (default: stdout).
    #[arg(long, value_name = "FILE", requires = "input")]
    pub output: Option<PathBuf>,
    /// Start --output anew.
    #[arg(long, requires = "output")]
    pub overwrite: bool,
    /// Rows that are corrected at once.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "input")]
    pub parallel: usize,
    /// Memory for keys and values of all rows that are corrected at once; further rows wait: 2GB, 500MB.
    #[arg(long, value_name = "SIZE", default_value = "2GB", requires = "input")]
    pub kv_memory: MemorySize,
    /// How rows are read.
    #[command(flatten)]
    pub rows: RowArgs,
    /// Limit of new tokens.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_new_tokens: usize,
    /// Answers that are too long for the context: refuse, or correct in windows that end with a sentence.
    #[arg(long, value_name = "refuse|windows", default_value = "refuse")]
    pub long: LongAnswers,
    /// 0 takes the most probable token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Choose among this many tokens; 0: all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Choose among tokens at least this fraction as probable as the first.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub min_p: f32,
    /// Makes tokens that occurred less likely; 1: no.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Seed of the choices.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How much is changed: 0 copies more, 1 is the model as it was trained, 1.5 changes more (needs `aligner steer fit`).
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub strength: f64,
    /// Write one token at a time; otherwise tokens are drafted from the answer where that is faster. The text is the same.
    #[arg(long)]
    pub no_draft: bool,
}

impl CorrectArgs {
    /// Whether tokens are drafted.
    pub fn draft(&self) -> Draft {
        if self.no_draft { Draft::Off } else { Draft::Auto }
    }

    /// How many rows are corrected at once.
    pub fn batch(&self) -> BatchOptions {
        BatchOptions {
            max_running: self.parallel.max(1),
            kv_memory_bytes: usize::try_from(self.kv_memory.0).unwrap_or(usize::MAX),
            ..BatchOptions::default()
        }
    }

    /// How tokens are chosen.
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }
}

/// Arguments of `score`.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows with question, answer and correction.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Print each token's log-probability too, and the token that the model holds most probable in its place.
    #[arg(long)]
    pub per_token: bool,
    /// How rows are read.
    #[command(flatten)]
    pub rows: RowArgs,
}
