//! What is minimised. Each objective is a file of its own behind [`Objective`].

mod cost;
mod dpo;
mod pairs;
mod reward;
mod sft;

use aligner_data::Batch;
use aligner_model::CausalDecoder;
use burn::tensor::Tensor;

use crate::batches::StepBatch;
pub use cost::Cost;
pub use dpo::Dpo;
pub use reward::Reward;
pub use sft::Sft;

/// What a loss is a mean over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unit {
    /// Target tokens.
    #[default]
    Tokens,
    /// Rows, such as pairs of answers.
    Rows,
}

impl Unit {
    /// How many there are in a step.
    pub(crate) fn of(self, batch: &StepBatch) -> u64 {
        match self {
            Self::Tokens => batch.target_tokens,
            Self::Rows => batch.rows,
        }
    }
}

/// What a validation learns of a batch.
#[derive(Debug)]
pub struct Measured {
    /// Sum of the losses: `[1]`.
    pub loss_sum: Tensor<1>,
    /// Of objectives over pairs, by how much each pair's chosen answer is ahead: `[pairs]`.
    pub margins: Option<Tensor<1>>,
    /// Of a cost, each labelled answer's score with the sign that it should have: above 0 where it has it. `[answers]`
    pub signed: Option<Tensor<1>>,
}

/// A loss over a batch of rows.
pub trait Objective: std::fmt::Debug + Send + Sync {
    /// Sum of the losses of the batch's target tokens or rows, in nats: `[1]`.
    fn loss_sum(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1>;

    /// What the mean of the loss is taken over.
    fn unit(&self) -> Unit {
        Unit::Tokens
    }

    /// The loss, and what else a validation is told of a batch.
    fn measured(&self, decoder: &CausalDecoder, batch: &Batch) -> Measured {
        Measured {
            loss_sum: self.loss_sum(decoder, batch),
            margins: None,
            signed: None,
        }
    }
}
