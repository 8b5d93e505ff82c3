//! `aligner eval`: the steps of an evaluation, each on the directory that the first one makes.

mod alpaca;
mod answer;
mod described;
mod judge;
mod metrics;
mod report;
mod run;
mod score;

use std::path::Path;

use crate::args::EvalCommand;
use crate::error::{CliError, Result};

/// The rows of an evaluation.
pub const OUTCOMES: &str = "outcomes.jsonl";
/// What the metrics without a judge come to.
const METRICS: &str = "metrics.json";
/// What judges said.
const JUDGEMENTS: &str = "judgements.jsonl";
/// What reward and cost models said.
pub const SCORES: &str = "scores.jsonl";

/// Does one step.
pub fn run(command: &EvalCommand) -> Result<()> {
    match command {
        EvalCommand::Answer(args) => answer::run(args),
        EvalCommand::Run(args) => run::run(args),
        EvalCommand::Import(args) => run::import(args),
        EvalCommand::Metrics(args) => metrics::run(args),
        EvalCommand::Judge(args) => judge::run(args),
        EvalCommand::Score(args) => score::run(args),
        EvalCommand::Alpaca(args) => alpaca::run(args),
        EvalCommand::Report(args) => report::run(args),
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(CliError::io("make", dir))
}
