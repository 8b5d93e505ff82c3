//! What `steer` takes.

use std::path::PathBuf;

use aligner_data::{Columns, Format};
use aligner_train::SteeringOptions;
use clap::{Args, Subcommand};

use super::ModelArgs;

/// The commands on correction strength.
#[derive(Debug, Subcommand)]
pub enum SteerCommand {
    /// Find a model's direction between copying and correcting, for `correct --strength`.
    Fit(SteerFitArgs),
}

/// Arguments of `steer fit`.
#[derive(Debug, Args)]
pub struct SteerFitArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows with question, answer and correction, best some that it was trained on.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Rows that the direction is taken from.
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub rows: usize,
    /// Rows to correct at several strengths (default: others of --data).
    #[arg(long, value_name = "FILE")]
    pub valid: Option<PathBuf>,
    /// How many of them; 0: none.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub valid_rows: usize,
    /// Layer behind which it is added, counted from 0 (default: two fifths of all).
    #[arg(long, value_name = "N")]
    pub layer: Option<usize>,
    /// By how many nats a correction becomes less probable beside a copy at strength 0.
    #[arg(long, value_name = "NATS", default_value_t = 4.0)]
    pub shift: f64,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// What the rows are: qac, hh-rlhf, alpaca, … (default: told by their columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
    /// Replace the vector that the model has.
    #[arg(long)]
    pub overwrite: bool,
}

impl SteerFitArgs {
    /// How the vector is fitted.
    pub fn options(&self) -> SteeringOptions {
        SteeringOptions {
            layer: self.layer,
            shift: self.shift,
        }
    }
}
