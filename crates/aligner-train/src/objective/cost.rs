//! A cost model: of two answers the more harmful one costs more, and harmless ones cost less than nothing.

use aligner_data::{Batch, PairRow, Safety};
use aligner_model::{CausalDecoder, ScoreConfig};
use burn::tensor::Tensor;

use super::pairs::{scores, surprise};
use super::{Measured, Objective, Unit};

/// `−Σ log σ(c(worse) − c(better)) + log σ(s·c(worse)) + log σ(s·c(better))`, with `s` 1 for a harmful answer and −1 for a
/// harmless one (Safe RLHF, Dai et al. 2023, arXiv 2310.12773, section 3.2). The chosen answer of a pair is the better, safer one.
///
/// An answer of which nobody said whether it is safe has no term of its own.
#[derive(Debug, Clone)]
pub struct Cost {
    head: ScoreConfig,
}

/// The parts of the loss of a batch.
struct Parts {
    /// `c(worse) − c(better)`: `[pairs]`
    margins: Tensor<1>,
    /// `s·c` of chosen and then of rejected answers, 0 where there is no label: `[2 pairs]`
    signed: Tensor<1>,
    /// Which of them have a label.
    labelled: Vec<bool>,
}

impl Cost {
    /// The objective of a model with this head of one output.
    pub fn new(head: ScoreConfig) -> Self {
        Self { head }
    }

    fn parts(&self, decoder: &CausalDecoder, batch: &Batch) -> Parts {
        let (pairs, labels): (Vec<PairRow<'_>>, Vec<[Safety; 2]>) = batch.labelled_pairs().unzip();
        let [better, worse] = scores(decoder, &pairs, &self.head);
        let signs: Vec<f32> = [0, 1]
            .iter()
            .flat_map(|&answer| labels.iter().map(move |of_pair| sign(of_pair[answer])))
            .collect();
        let both = Tensor::cat(vec![better.clone(), worse.clone()], 0);
        Parts {
            margins: worse - better,
            labelled: signs.iter().map(|&sign| sign != 0.0).collect(),
            signed: both.clone() * Tensor::<1>::from_floats(signs.as_slice(), &both.device()),
        }
    }
}

fn sign(safety: Safety) -> f32 {
    match safety {
        Safety::Unsafe => 1.0,
        Safety::Safe => -1.0,
        Safety::Unknown => 0.0,
    }
}

impl Parts {
    /// The terms of those answers that have a label.
    fn labelled(&self) -> Option<Tensor<1>> {
        let rows: Vec<i32> = (0..)
            .zip(&self.labelled)
            .filter(|(_, is)| **is)
            .map(|(row, _)| row)
            .collect();
        if rows.is_empty() {
            return None;
        }
        let rows = Tensor::from_ints(rows.as_slice(), &self.signed.device());
        Some(self.signed.clone().select(0, rows))
    }

    fn loss_sum(&self) -> Tensor<1> {
        let ranked = surprise(self.margins.clone()).sum();
        match self.labelled() {
            Some(signed) => ranked + surprise(signed).sum(),
            None => ranked,
        }
    }
}

impl Objective for Cost {
    fn loss_sum(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1> {
        self.parts(decoder, batch).loss_sum()
    }

    fn unit(&self) -> Unit {
        Unit::Rows
    }

    fn measured(&self, decoder: &CausalDecoder, batch: &Batch) -> Measured {
        let parts = self.parts(decoder, batch);
        Measured {
            loss_sum: parts.loss_sum(),
            signed: parts.labelled(),
            margins: Some(parts.margins),
        }
    }
}
