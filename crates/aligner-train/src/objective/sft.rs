//! Supervised fine-tuning: cross-entropy on the correction's tokens alone.

use aligner_data::Batch;
use aligner_model::{CausalDecoder, Sequences, Targets};
use burn::tensor::{Int, Tensor, TensorData};

use super::Objective;

/// `−Σ log p(correction token | question, answer, correction so far)`.
///
/// Equation 1 of Aligner (Ji et al. 2024, arXiv 2402.02416): the prompt carries no loss, the end-of-sequence token does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sft;

impl Objective for Sft {
    fn loss_sum(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1> {
        let device = decoder.norm.weight.val().device();
        let ids: Vec<i32> = batch.ids().iter().map(|&id| id as i32).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [batch.tokens()]), &device);
        let sequences = Sequences::new(batch.lengths().collect::<Vec<_>>());
        let (rows, targets) = batch.targets().unzip();
        decoder.target_nll(ids, &sequences, &Targets { rows, ids: targets })
    }
}
