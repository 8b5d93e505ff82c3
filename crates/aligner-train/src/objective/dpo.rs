//! Direct preference optimisation: of two answers the better one becomes more likely than it was, the worse one less.

use aligner_data::{Batch, PairRow};
use aligner_model::{CausalDecoder, Targets};
use burn::tensor::Tensor;

use super::pairs::{Packed, apart, measured};
use super::{Measured, Objective, Unit};

/// `−Σ log σ(β (log π(chosen)/π₀(chosen) − log π(rejected)/π₀(rejected)))` (Rafailov et al. 2023, arXiv 2305.18290,
/// equation 7), with the log-probabilities of whole answers and `π₀` the model that the run starts from.
///
/// `π₀` is held beside the model, without gradients, and asked anew in each step: a run of one pass over the rows would ask it
/// as often before it began. The tokens with which both answers begin are left out: they are as likely in one as in the
/// other, and cancel.
#[derive(Debug)]
pub struct Dpo {
    beta: f64,
    reference: CausalDecoder,
}

impl Dpo {
    /// The objective of a run that starts from `reference`, a decoder without gradients.
    pub fn new(beta: f64, reference: CausalDecoder) -> Self {
        Self { beta, reference }
    }

    /// By how much the chosen answer gained on the rejected one, times β: `[pairs]`.
    fn margins(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1> {
        let pairs: Vec<PairRow<'_>> = batch.pairs().collect();
        let now = log_ratios(decoder, &pairs);
        let before = log_ratios(&self.reference, &pairs).try_into_vec_as::<f32>();
        // A device that fails gives a loss that is no number, with which the run stops.
        let before = before.unwrap_or_else(|_| vec![f32::NAN; pairs.len()]);
        let before = Tensor::<1>::from_floats(before.as_slice(), &now.device());
        (now - before) * self.beta
    }
}

/// `log p(chosen) − log p(rejected)` of each pair: `[pairs]`.
fn log_ratios(decoder: &CausalDecoder, pairs: &[PairRow<'_>]) -> Tensor<1> {
    let Packed { ids, sequences } = Packed::of(pairs, decoder);
    let rows = pairs.iter().flat_map(|pair| {
        // The first token is predicted by nothing.
        let first = pair.shared().max(1);
        [(pair.chosen, first), (pair.rejected, first)]
    });
    let targets: Vec<Targets> = sequences
        .spans()
        .zip(rows)
        .map(|((start, _), (ids, first))| Targets {
            rows: (first..ids.len()).map(|at| (start + at - 1) as u32).collect(),
            ids: ids.get(first..).unwrap_or_default().to_vec(),
        })
        .collect();
    let [chosen, rejected] = apart(decoder.sequence_nlls(ids, &sequences, &targets));
    rejected - chosen
}

impl Objective for Dpo {
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
