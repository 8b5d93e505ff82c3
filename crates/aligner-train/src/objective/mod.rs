//! What is minimised. Each objective is a file of its own behind [`Objective`].

mod sft;

use aligner_data::Batch;
use aligner_model::CausalDecoder;
use burn::tensor::Tensor;

pub use sft::Sft;

/// A loss over a batch of rows.
pub trait Objective: std::fmt::Debug + Send + Sync {
    /// Sum of the losses of the batch's target tokens, in nats: `[1]`.
    fn loss_sum(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1>;
}
