//! `aligner train --fit`

use aligner_model::{DeviceSpec, ModelConfig};
use aligner_train::{MemoryChoices, MemoryPlan, MemorySize, TrainConfig, available_memory_bytes};

use super::plan::{flags, nothing_helps, size};
use crate::error::{CliError, Result};
use crate::terminal::say;

/// Changes a run so that it fits into memory and trains the same, and says how; what cannot be made to fit is refused.
pub fn apply(config: &mut TrainConfig, memory: Option<MemorySize>) -> Result<()> {
    let devices = config.devices()?;
    let shared = devices
        .iter()
        .find(|one| devices.iter().filter(|other| other == one).count() > 1);
    if let Some(device) = shared {
        return Err(CliError::Usage(format!(
            "--fit counts one worker for each memory, and `{}` has {device} more than once: choose --micro-batch yourself",
            config.device
        )));
    }
    let (model, asked) = MemoryChoices::of(config)?;
    let memory_bytes = memory_bytes(asked.device, memory)?;
    let Some(fitting) = MemoryPlan::fitted(&model, &asked, memory_bytes) else {
        return Err(CliError::Failed(refusal(&model, &asked, memory_bytes)));
    };
    let plan = MemoryPlan::of(&model, &fitting);
    let most = if plan.is_lower_bound {
        "at least"
    } else {
        "at most"
    };
    let (total, memory) = (size(plan.total_bytes), size(memory_bytes));
    if fitting == asked {
        say(format!("fits as it is: {most} {total} of {memory}"));
        return Ok(());
    }
    say(format!(
        "made to fit with {}: {most} {total} of {memory}; {} rows a step as before",
        flags(&asked, &fitting),
        fitting.rows_per_step()
    ));
    config.micro_batch = fitting.micro_batch;
    config.accumulate = fitting.accumulate;
    config.checkpointing = fitting.checkpointing;
    Ok(())
}

/// What was given, or what this machine has left.
fn memory_bytes(device: DeviceSpec, given: Option<MemorySize>) -> Result<u64> {
    match (given, device) {
        (Some(MemorySize(bytes)), _) => Ok(bytes),
        (None, DeviceSpec::Cpu) => available_memory_bytes().ok_or_else(|| {
            CliError::Usage("--fit cannot tell how much memory this system has left: give --memory".into())
        }),
        (None, device) => Err(CliError::Usage(format!(
            "--fit does not know how much memory {device} has: give --memory, such as --memory 24GB"
        ))),
    }
}

fn refusal(model: &ModelConfig, asked: &MemoryChoices, memory_bytes: u64) -> String {
    let memory = size(memory_bytes);
    let remedies = MemoryPlan::remedies(model, asked, memory_bytes);
    if remedies.is_empty() {
        let shorter = MemoryPlan::with_shorter_rows(model, asked, memory_bytes);
        let why = nothing_helps(asked, shorter.as_ref());
        return format!("the run does not fit in {memory}, {why}");
    }
    let remedies: Vec<String> = remedies.iter().map(|remedy| flags(asked, remedy)).collect();
    format!(
        "the run does not fit in {memory} with one row at once and checkpointing; it would, training something else, with: {}",
        remedies.join("; or ")
    )
}
