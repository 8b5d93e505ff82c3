//! How long training takes, told before it begins: a few layers of new weights are trained for some seconds, and what that
//! took is scaled to the whole model and all its tokens.
//!
//! Three times are measured: the head alone with few targets and with many, and the head with some layers. Their differences
//! are what a target token costs, what a token costs in a layer, and what is there for every micro-batch. The time does not
//! depend on what the weights are, so none are read.

mod probe;
mod run_size;

use std::time::Instant;

use aligner_model::ModelConfig;

pub use self::run_size::RunSize;
use crate::error::Result;
use crate::memory_plan::{MemoryChoices, MemoryPlan, adapter_parameters};

use self::probe::{Probe, Sizes};

/// What the parts of a step take on this machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimePlan {
    /// Of a micro-batch, whatever its tokens: gradients of tables, and the like.
    pub micro_batch_seconds: f64,
    /// Of a token in all layers, forward and backward.
    pub token_seconds: f64,
    /// Of a token that carries loss, in the output projection.
    pub target_seconds: f64,
    /// Of the gradients' norm and AdamW, once a step.
    pub update_seconds: f64,
    /// Layers that were measured.
    pub probed_layers: usize,
    /// How long the measurement took.
    pub probe_seconds: f64,
}

impl TimePlan {
    /// Memory that [`measure`](Self::measure) takes at its highest.
    pub fn memory_bytes(config: &ModelConfig, choices: &MemoryChoices) -> u64 {
        let sizes = Sizes::of(config, choices);
        let choices = MemoryChoices {
            micro_batch: sizes.rows,
            max_length: sizes.length,
            accumulate: 1,
            ..choices.clone()
        };
        MemoryPlan::of(&probe::with_layers(config, sizes.deep), &choices).total_bytes
    }

    /// Measures on the device of `choices`.
    ///
    /// # Errors
    /// When the device is not compiled in, or fails.
    pub fn measure(config: &ModelConfig, choices: &MemoryChoices) -> Result<Self> {
        let started = Instant::now();
        let sizes = Sizes::of(config, choices);
        let device = choices.device.open()?;
        let shallow = Probe::new(config, choices, sizes.shallow, &device)?;
        let few = shallow.seconds(&sizes, sizes.few_targets())?;
        let many = shallow.seconds(&sizes, sizes.all_targets())?;
        drop(shallow);
        let deep = Probe::new(config, choices, sizes.deep, &device)?;
        let deep_few = deep.seconds(&sizes, sizes.few_targets())?;
        let (update, trained) = deep.update_seconds(&sizes)?;
        let tokens = (sizes.rows * sizes.length) as f64;
        let targets = |of_row: usize| (sizes.rows * of_row) as f64;
        let more = targets(sizes.all_targets()) - targets(sizes.few_targets());
        let target_seconds = ((many - few) / more.max(1.0)).max(0.0);
        let of_layer = ((deep_few - few) / (sizes.deep - sizes.shallow) as f64 / tokens).max(0.0);
        // What stands below the layers that were measured apart is in the shallow time, with the shallow model's layers.
        let shallow_layers = sizes.shallow as f64 * of_layer * tokens;
        let rest = few - shallow_layers - target_seconds * targets(sizes.few_targets());
        let all_trained = choices.lora.as_ref().map_or_else(
            || config.parameters() as f64,
            |lora| adapter_parameters(config, lora),
        );
        Ok(Self {
            micro_batch_seconds: rest.max(0.0),
            token_seconds: of_layer * config.layers as f64 * sizes.longer_rows(config, choices),
            target_seconds,
            update_seconds: update * all_trained / (trained as f64).max(1.0),
            probed_layers: sizes.deep,
            probe_seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Seconds of some steps with so many micro-batches, tokens and target tokens in all.
    pub fn seconds(&self, steps: f64, micro_batches: f64, tokens: f64, targets: f64) -> f64 {
        self.update_seconds * steps
            + self.micro_batch_seconds * micro_batches
            + self.token_seconds * tokens
            + self.target_seconds * targets
    }

    /// Seconds of the longest step: rows that are all as long as allowed, of which every token is a target.
    pub fn longest_step_seconds(&self, choices: &MemoryChoices) -> f64 {
        let tokens = choices.rows_per_step() as f64 * choices.max_length as f64;
        self.seconds(1.0, choices.accumulate as f64, tokens, tokens)
    }

    /// Seconds of all steps of a run; what validations and checkpoints take is not in it.
    pub fn run_seconds(&self, run: &RunSize) -> f64 {
        self.seconds(
            run.steps as f64,
            run.micro_batches as f64,
            run.tokens as f64,
            run.target_tokens as f64,
        )
    }
}

#[cfg(test)]
mod tests {
    use aligner_model::{LlamaShape, LoraConfig};

    use super::*;
    use crate::memory_plan::tests::choices;

    fn small(layers: usize) -> ModelConfig {
        ModelConfig::llama(LlamaShape {
            vocab_size: 500,
            hidden_size: 64,
            intermediate_size: 128,
            layers,
            heads: 4,
            kv_heads: 2,
            max_positions: 256,
        })
        .unwrap()
    }

    #[test]
    fn a_plan_grows_with_what_there_is_to_do() {
        let (twelve, twenty_four) = (small(12), small(24));
        for lora in [None, Some(LoraConfig::default())] {
            let asked = MemoryChoices {
                max_length: 128,
                lora,
                ..choices()
            };
            let plan = TimePlan::measure(&twelve, &asked).unwrap();
            assert!(plan.token_seconds > 0.0 && plan.update_seconds > 0.0, "{plan:?}");
            assert!(plan.longest_step_seconds(&asked) > plan.seconds(1.0, 1.0, 512.0, 0.0));
            let twice = MemoryChoices {
                accumulate: 2,
                ..asked.clone()
            };
            let (once, twice) = (
                plan.longest_step_seconds(&asked) - plan.update_seconds,
                plan.longest_step_seconds(&twice) - plan.update_seconds,
            );
            assert!((twice - 2.0 * once).abs() < 1e-9, "{once} {twice}");
            // The probe is the same size for a deeper model.
            assert_eq!(
                TimePlan::memory_bytes(&twelve, &asked),
                TimePlan::memory_bytes(&twenty_four, &asked)
            );
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let asked = MemoryChoices {
            device: aligner_model::DeviceSpec::Cuda(Some(99)),
            ..choices()
        };
        if !aligner_model::compiled_devices().contains(&"cuda") {
            assert!(TimePlan::measure(&small(1), &asked).is_err());
        }
    }
}
