//! How much memory training takes, told before it begins: arithmetic on a model's shape, without a tensor.
//!
//! Two kinds of memory come and go. The kernels' buffers are kept on a shelf and used again by other kernels alone
//! (`aligner_model::kernels`): what they take at their highest stays until the end. Tensors between the layers, and gradients, use
//! each other's place. Two moments of a step can be theirs: the end of the forward pass, when all inputs of layers are there and hardly a
//! gradient, and the end of the backward pass, when it is the other way round. In between, one shrinks and the other grows evenly,
//! so that no other moment is higher.

mod fit;
mod shape;
mod size;
#[cfg(test)]
pub(crate) mod tests;

use aligner_model::{DeviceSpec, LoraConfig, ModelConfig, Precision, WeightFormat};
use serde::Serialize;

use self::shape::{Shape, held_less, largest_panel};
pub(crate) use self::shape::{adapter_parameters, layer_matrices};
pub use self::size::{MemorySize, available_memory_bytes};
use crate::config::{LoraChoice, TrainConfig};
use crate::error::Result;
use crate::trainee::Start;

/// Rows between layers, of the hidden size: the last layer's output, the target rows and their gradient, or a layer's output, its
/// gradient and that of its input.
const BETWEEN: f64 = 3.0;
/// Bytes of an element of what is computed.
const ELEMENT: f64 = 4.0;
/// The program, its threads and their stacks (measured: 24 MB without pages of files, 20 MB of those).
const PROGRAM_BYTES: f64 = 45e6;
/// The tokenizer and what reading it leaves behind, for each token of the vocabulary (measured: 35 MB for 49 152 of them).
const TOKENIZER_BYTES: f64 = 700.0;
/// What the driver of another device takes for itself (a usual size, not measured by us).
const DEVICE_BYTES: f64 = 5e8;
/// What the allocator holds beside what is in use, as a share of what comes and goes within a step (measured, by the runs of
/// SmolLM2-135M alone).
const HELD_SHARE: f64 = 0.06;

/// What of a run decides how much memory it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryChoices {
    /// Rows that go through the model at once.
    pub micro_batch: usize,
    /// Tokens of each of them: the longest that is allowed.
    pub max_length: usize,
    /// Micro-batches of one optimizer step.
    pub accumulate: usize,
    /// The adapter that is trained instead of all weights.
    pub lora: Option<LoraConfig>,
    /// How the base's linear layers are held under an adapter.
    pub base_weights: WeightFormat,
    /// Whether activations are computed again in the backward pass.
    pub checkpointing: bool,
    /// What the factors of products are rounded to.
    pub precision: Precision,
    /// What the run computes on.
    pub device: DeviceSpec,
}

impl MemoryChoices {
    /// Those of a run, with the model that it trains: an adapter's base, where it goes on training one.
    ///
    /// # Errors
    /// When the model's configuration, or the adapter's, cannot be read, they do not go together, or the device knows no such precision.
    pub fn of(run: &TrainConfig) -> Result<(ModelConfig, Self)> {
        run.check_precision()?;
        let start = Start::of(run)?;
        let lora = start
            .lora()
            .or_else(|| run.lora.as_ref().map(LoraChoice::resolve));
        let choices = Self {
            micro_batch: run.micro_batch,
            max_length: run.max_length,
            accumulate: run.accumulate,
            lora,
            base_weights: run.base_weights,
            checkpointing: run.checkpointing,
            precision: run.precision,
            device: run.devices()?.first(),
        };
        Ok((ModelConfig::read(&start.base)?, choices))
    }

    /// Rows of an optimizer step.
    pub fn rows_per_step(&self) -> usize {
        self.micro_batch.saturating_mul(self.accumulate)
    }
}

/// When memory is at its highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeakMoment {
    /// When the loss is known.
    ForwardEnd,
    /// When the last gradient is known.
    BackwardEnd,
}

/// What is in memory when it is at its highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// When that is.
    pub moment: PeakMoment,
    /// The model's weights, an adapter's included.
    pub weights_bytes: u64,
    /// AdamW's two moments of each trained weight.
    pub moments_bytes: u64,
    /// Gradients at that moment, those of earlier micro-batches included.
    pub gradients_bytes: u64,
    /// Activations kept for the backward pass at that moment.
    pub activations_bytes: u64,
    /// Logits of as many rows as are computed at once.
    pub logits_bytes: u64,
    /// Rows between layers, and what the buffers of one layer's backward pass take beyond those of the logits.
    pub scratch_bytes: u64,
    /// Memory that was given back and waits in the allocator for other sizes.
    pub held_bytes: u64,
    /// The program and the tokenizer, or the device's driver.
    pub fixed_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
    /// Whether the run has parts whose activations are not all counted, or were never held against a measurement.
    pub is_lower_bound: bool,
}

impl MemoryPlan {
    /// The plan of a run.
    ///
    /// The worst case: every row as long as allowed, and every token of it a target.
    pub fn of(config: &ModelConfig, choices: &MemoryChoices) -> Self {
        let shape = Shape::of(config, choices);
        let adapter = choices
            .lora
            .as_ref()
            .map_or(0.0, |lora| adapter_parameters(config, lora));
        let is_full = choices.lora.is_none();
        let weights = config.parameters() as f64;
        let trained = if is_full { weights } else { adapter };
        let (moment, [gradients, activations]) = highest(config, choices, &shape, trained);
        let logits = shape.logits();
        let of_a_layer = (shape.tokens * shape.scratch() - logits).max(0.0);
        let between = shape.tokens * BETWEEN * shape.hidden;
        let scratch = of_a_layer + between + largest_panel(config, choices);
        let held = HELD_SHARE * (gradients + activations + logits + scratch);
        let fixed = match choices.device {
            DeviceSpec::Cpu => PROGRAM_BYTES + TOKENIZER_BYTES * shape.vocab,
            _ => DEVICE_BYTES,
        };
        let held_less = choices.lora.as_ref().map_or(0.0, |_| held_less(config, choices));
        let weights_bytes = (weights + adapter) * ELEMENT - held_less;
        let others =
            [2.0 * trained, gradients, activations, logits, scratch, held].map(|part| part * ELEMENT);
        let [moments, gradients, activations, logits, scratch, held] = others.map(|bytes| bytes as u64);
        Self {
            moment,
            weights_bytes: weights_bytes as u64,
            moments_bytes: moments,
            gradients_bytes: gradients,
            activations_bytes: activations,
            logits_bytes: logits,
            scratch_bytes: scratch,
            held_bytes: held,
            fixed_bytes: fixed as u64,
            // Saturates: what no machine has need not be told apart.
            total_bytes: (weights_bytes + others.iter().sum::<f64>() + fixed) as u64,
            is_lower_bound: !shape.is_counted_exactly(),
        }
    }
}

/// The higher of the two moments, with the elements of gradients and of activations that are there; buffers are at both.
fn highest(
    config: &ModelConfig,
    choices: &MemoryChoices,
    shape: &Shape<'_>,
    trained: f64,
) -> (PeakMoment, [f64; 2]) {
    let earlier = if choices.accumulate > 1 { trained } else { 0.0 };
    let table = if choices.lora.is_none() {
        shape.vocab * shape.hidden
    } else {
        0.0
    };
    // The output projection's gradient comes with the loss. The kernel adds the embedding's to it, or to a table of its own.
    // Composed, it is made at the end, as a table of zeros and its sum with the rows' gradients; where both are one matrix,
    // the first one is still beside them.
    let tables = match (shape.fused, config.tie_embeddings) {
        (true, _) => 0.0,
        (false, true) => 2.0,
        (false, false) => 1.0,
    };
    let all_layers = shape.tokens * config.layers as f64;
    let forward = [earlier + table, all_layers * shape.kept_as_tensors()];
    let backward = [
        earlier + trained + tables * table,
        shape.tokens * shape.tensors_of_last_layer(),
    ];
    let sum = |parts: &[f64; 2]| parts[0] + parts[1];
    let (moment, [gradients, tensors]) = if sum(&forward) >= sum(&backward) {
        (PeakMoment::ForwardEnd, forward)
    } else {
        (PeakMoment::BackwardEnd, backward)
    };
    (
        moment,
        [gradients, tensors + all_layers * shape.kept_in_buffers()],
    )
}
