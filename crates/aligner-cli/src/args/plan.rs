//! What `plan` takes.

use std::path::PathBuf;

use aligner_model::{DeviceSpec, Precision, WeightFormat};
use aligner_train::MemorySize;
use clap::Args;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Model to train: a directory (its config.json is enough), or org/name or org/name@revision of the Hub.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Rows that go through the model at once.
    #[arg(long, value_name = "ROWS", default_value_t = 4, value_parser = positive)]
    pub micro_batch: usize,
    /// Micro-batches of one optimizer step.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub accumulate: usize,
    /// Longest prompt and correction together, in tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, value_parser = positive)]
    pub max_length: usize,
    /// Train a low-rank adapter of this rank instead of all weights.
    #[arg(long, value_name = "RANK", value_parser = positive)]
    pub lora_rank: Option<usize>,
    /// How the frozen base under an adapter is held: f32 or int8.
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub base_weights: WeightFormat,
    /// Compute activations again in the backward pass instead of keeping them.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    pub checkpointing: bool,
    /// What the factors of products are rounded to: f32 or bf16.
    #[arg(long, value_name = "PRECISION", default_value_t)]
    pub precision: Precision,
    /// Device that the run will compute on: cpu, cuda, vulkan, metal or webgpu; :1 behind it is the second of its kind.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceSpec,
    /// Training rows: tells how long the whole run takes, as `train` would begin it. May be given several times.
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    pub data: Vec<PathBuf>,
    /// Passes over the rows of --data.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub epochs: u64,
    /// Measure for some seconds what a step takes (default: when the model's weights are there, and memory for it).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub probe: Option<bool>,
    /// Memory there is: 24GB, 24GiB, 800MB. Says what fits, and what would make the run fit.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<MemorySize>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// A number above 0 that no product of a few overflows.
fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(number) if number > 0 => Ok(number as usize),
        _ => Err(format!("must be a number of 1 to {}", u32::MAX)),
    }
}
