//! What `inspect` takes.

use std::path::PathBuf;

use aligner_data::{Columns, Format};
use clap::{Args, Subcommand, ValueEnum};

use super::ModelArgs;

/// The commands that look into a model.
#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// Find the layers where it is decided to copy or to correct, with linear probes.
    Layers(InspectLayersArgs),
    /// Show how probable each token of a correction is, as a heat map.
    Tokens(InspectTokensArgs),
}

/// Which corrections are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Label {
    /// The model's own, greedy: what it decides.
    Own,
    /// The rows': what it should decide.
    Given,
}

impl Label {
    /// Its name as it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Given => "given",
        }
    }
}

/// Arguments of `inspect layers`.
#[derive(Debug, Args)]
pub struct InspectLayersArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows with question and answer, some of which are copied and some corrected; more than once for more files.
    #[arg(long, value_name = "FILE", required = true)]
    pub data: Vec<PathBuf>,
    /// Rows to look at, drawn from all.
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub rows: usize,
    /// Output tokens before whose choice the hidden states are read: the first alone, or the first N.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub tokens: usize,
    /// Whose corrections: the model's own, or those given in the rows.
    #[arg(long, value_name = "WHOSE", default_value = "own")]
    pub label: Label,
    /// A correction that changes at most this share of the words counts as a copy.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub edit_ratio: f64,
    /// Where layers.json and layers.svg go.
    #[arg(long, value_name = "DIR", default_value = "inspect")]
    pub out: PathBuf,
    /// Seed of the rows that are drawn, of folds, shuffles and intervals.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Limit of new tokens of the model's own corrections; rows that reach it are left out.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
    /// Rows that are corrected at once.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub parallel: usize,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// What the rows are: qac, hh-rlhf, alpaca, … (default: told by their columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
}

/// Arguments of `inspect tokens`.
#[derive(Debug, Args)]
pub struct InspectTokensArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The question.
    #[arg(long, value_name = "TEXT")]
    pub question: String,
    /// The answer to correct.
    #[arg(long, value_name = "TEXT")]
    pub answer: String,
    /// The correction to look at (default: the model's own, greedy).
    #[arg(long, value_name = "TEXT")]
    pub correction: Option<String>,
    /// Limit of new tokens of the model's own correction.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_new_tokens: usize,
    /// How many tokens are named that could be in the place of each.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub alternatives: usize,
    /// Draw it as a page, too.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print a JSON object instead.
    #[arg(long)]
    pub json: bool,
}
