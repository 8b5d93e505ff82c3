//! `aligner plan`

mod answer;
mod time;

use std::io::Write;
use std::path::Path;

use aligner_hub::Files;
use aligner_model::{ModelConfig, Precision, WeightFormat};
use aligner_train::{MemoryChoices, RunSize};

use self::answer::Answer;
pub use self::answer::{flags, nothing_helps, size};
use super::train::resolve;
use crate::args::{PlanArgs, TrainArgs};
use crate::error::{CliError, Result, stdout_error};

/// Tells how much memory a run takes, how long it takes, and what fits into what there is.
pub fn run(args: &PlanArgs) -> Result<()> {
    let run = resolve(&as_training(args), Files::Tokenizer)?;
    let (config, choices) = MemoryChoices::of(&run)?;
    check_length(&run.model, &config, args.max_length)?;
    let run_size = if run.data.is_empty() {
        None
    } else {
        Some(RunSize::of(&run)?)
    };
    let time = time::measure(args.probe, &run.model, &config, &choices)?;
    let mut answer = Answer::new(&config, choices, args.memory);
    answer.time = time;
    answer.run_size = run_size;
    let text = if args.json {
        answer.json().to_string()
    } else {
        answer.table()
    };
    writeln!(std::io::stdout(), "{text}").map_err(stdout_error)
}

/// What would be typed to train.
fn as_training(args: &PlanArgs) -> TrainArgs {
    TrainArgs {
        model: Some(args.model.clone()),
        data: args.data.clone(),
        // Nothing is written there.
        out: Some("plan".into()),
        epochs: Some(args.epochs),
        micro_batch: Some(args.micro_batch),
        accumulate: Some(args.accumulate),
        max_length: Some(args.max_length),
        lora_rank: args.lora_rank,
        base_weights: (args.base_weights != WeightFormat::F32).then_some(args.base_weights),
        checkpointing: args.checkpointing,
        precision: (args.precision != Precision::F32).then_some(args.precision),
        device: Some(args.device.into()),
        ..TrainArgs::default()
    }
}

fn check_length(model: &Path, config: &ModelConfig, max_length: usize) -> Result<()> {
    if max_length <= config.max_positions {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "--max-length {max_length}: {} was made for {} tokens",
        model.display(),
        config.max_positions
    )))
}
