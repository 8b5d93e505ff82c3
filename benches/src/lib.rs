//! What the benches share: the shapes of SmolLM2-135M with random weights, and the release build's allocator.

use aligner_data::{Batch, Example};
use aligner_model::{CausalDecoder, LlamaShape, ModelConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// The allocator of the command, so that a bench measures what a user gets.
#[path = "../../crates/aligner-cli/src/allocator.rs"]
mod allocator;

pub use allocator::keep_freed_memory;

/// Width of the residual stream.
pub const HIDDEN: usize = 576;
/// Width inside the MLP.
pub const INTERMEDIATE: usize = 1536;
/// Tokens of the vocabulary.
pub const VOCABULARY: usize = 49_152;

/// SmolLM2-135M's shape.
///
/// # Panics
/// Never: the numbers fit together.
pub fn smollm2_135m() -> ModelConfig {
    let shape = LlamaShape {
        vocab_size: VOCABULARY,
        hidden_size: HIDDEN,
        intermediate_size: INTERMEDIATE,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        max_positions: 8192,
    };
    #[allow(clippy::expect_used)] // constants
    ModelConfig::llama(shape).expect("the numbers fit together")
}

/// A model of that shape with random weights.
///
/// # Panics
/// Never: weights from a seed cannot be missing.
pub fn model(device: &Device) -> CausalDecoder {
    #[allow(clippy::expect_used)] // constants
    CausalDecoder::random(&smollm2_135m(), 1, device).expect("weights from a seed are complete")
}

/// Token ids that do not repeat soon.
pub fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|index| (index * 7919 + 13) % VOCABULARY as u32)
        .collect()
}

/// Token ids on a device: `[1, count]`.
pub fn ids(count: usize, device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = tokens(count).into_iter().map(|id| id as i32).collect();
    Tensor::from_data(TensorData::new(values, [1, count]), device)
}

/// A full batch whose second half carries loss, as a correction behind its prompt does.
pub fn batch(rows: usize, length: usize) -> Batch {
    let ids = tokens(length);
    Batch::new((0..rows).map(|_| Example {
        ids: &ids,
        prompt_len: length / 2,
    }))
}
