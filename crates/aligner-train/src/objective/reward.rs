//! A reward model: of two answers the better one scores higher.

use aligner_data::{Batch, PairRow};
use aligner_model::{CausalDecoder, ScoreConfig};
use burn::tensor::Tensor;

use super::pairs::{measured, scores};
use super::{Measured, Objective, Unit};

/// `−Σ log σ(r(chosen) − r(rejected))`, the model of Bradley and Terry (1952) as it is fitted in Ouyang et al. 2022
/// (arXiv 2203.02155, equation 1) and in Safe RLHF (Dai et al. 2023, arXiv 2310.12773, section 3.2).
///
/// The score is that of a conversation's end ([`ScoreConfig::end_of`]), not normalised.
#[derive(Debug, Clone)]
pub struct Reward {
    head: ScoreConfig,
}

impl Reward {
    /// The objective of a model with this head of one output.
    pub fn new(head: ScoreConfig) -> Self {
        Self { head }
    }

    fn margins(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1> {
        let pairs: Vec<PairRow<'_>> = batch.pairs().collect();
        let [chosen, rejected] = scores(decoder, &pairs, &self.head);
        chosen - rejected
    }
}

impl Objective for Reward {
    fn loss_sum(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1> {
        measured(self.margins(decoder, batch)).loss_sum
    }

    fn unit(&self) -> Unit {
        Unit::Rows
    }

    fn measured(&self, decoder: &CausalDecoder, batch: &Batch) -> Measured {
        measured(self.margins(decoder, batch))
    }
}
