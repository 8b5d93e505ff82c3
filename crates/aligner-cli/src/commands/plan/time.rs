//! How long a step takes, measured where that is possible.

use std::path::Path;

use aligner_model::{DeviceSpec, ModelConfig};
use aligner_train::{MemoryChoices, TimePlan, available_memory_bytes};

use super::size;
use crate::allocator;
use crate::error::{CliError, Result};

/// What is known of a run's time.
pub enum Time {
    /// Nobody asked.
    NotAsked,
    /// It was not measured, for this reason.
    Unknown(String),
    /// What the parts of a step take.
    Measured(TimePlan),
}

/// Measures unless it is not wanted. What is in the way is an error where it was asked for, and said otherwise.
pub fn measure(
    asked: Option<bool>,
    model: &Path,
    config: &ModelConfig,
    choices: &MemoryChoices,
) -> Result<Time> {
    if asked == Some(false) {
        return Ok(Time::NotAsked);
    }
    let obstacle = match asked {
        None if !has_weights(model) => Some(format!(
            "{} has no weights here; --probe measures with new ones",
            model.display()
        )),
        _ => too_large(config, choices),
    };
    let measured = match obstacle {
        Some(reason) => Err(CliError::Failed(format!(
            "the time of a step is not measured: {reason}"
        ))),
        None => {
            allocator::keep_freed_memory();
            TimePlan::measure(config, choices).map_err(CliError::from)
        }
    };
    match measured {
        Ok(plan) => Ok(Time::Measured(plan)),
        Err(error) if asked.is_none() => Ok(Time::Unknown(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Whether there are files of weights beside the configuration.
fn has_weights(model: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(model) else {
        return false;
    };
    files.flatten().any(|file| {
        let name = file.file_name();
        let name = name.to_string_lossy();
        name.ends_with(".safetensors") || name.ends_with(".bin")
    })
}

/// Why there is no room for a probe. How much another device has left is not known.
fn too_large(config: &ModelConfig, choices: &MemoryChoices) -> Option<String> {
    let needed = TimePlan::memory_bytes(config, choices);
    let left = available_memory_bytes().filter(|_| choices.device == DeviceSpec::Cpu)?;
    (needed > left).then(|| format!("it takes {}, and {} are left", size(needed), size(left)))
}
