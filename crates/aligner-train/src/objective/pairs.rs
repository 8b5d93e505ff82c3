//! Two answers to one question as sequences of one pass.

use aligner_data::PairRow;
use aligner_model::{CausalDecoder, ScoreConfig, Sequences};
use burn::tensor::{Int, Tensor, TensorData};

use super::Measured;

/// The sequences of some pairs, one behind the other: chosen, rejected, chosen, rejected, …
pub(super) struct Packed {
    pub ids: Tensor<1, Int>,
    pub sequences: Sequences,
}

impl Packed {
    pub fn of(pairs: &[PairRow<'_>], decoder: &CausalDecoder) -> Self {
        let rows = || pairs.iter().flat_map(|pair| [pair.chosen, pair.rejected]);
        let ids: Vec<i32> = rows().flatten().map(|&id| id as i32).collect();
        let count = ids.len();
        Self {
            ids: Tensor::from_data(TensorData::new(ids, [count]), &decoder.norm.weight.val().device()),
            sequences: Sequences::new(rows().map(<[u32]>::len).collect::<Vec<_>>()),
        }
    }
}

/// The scores of chosen and rejected answers.
///
/// # Shapes
/// - output: `[pairs]` each
pub(super) fn scores(decoder: &CausalDecoder, pairs: &[PairRow<'_>], head: &ScoreConfig) -> [Tensor<1>; 2] {
    let Packed { ids, sequences } = Packed::of(pairs, decoder);
    let rows = pairs.iter().flat_map(|pair| [pair.chosen, pair.rejected]);
    let ends: Vec<u32> = sequences
        .spans()
        .zip(rows)
        .map(|((start, _), ids)| (start + head.end_of(ids)) as u32)
        .collect();
    // One score a sequence.
    let scores = decoder.scores_at(ids, &sequences, &ends);
    apart(scores.reshape([2 * pairs.len()]))
}

/// What the margins of some pairs come to: `−Σ log σ(margin)`.
///
/// # Shapes
/// - margins: `[pairs]`
pub(super) fn measured(margins: Tensor<1>) -> Measured {
    Measured {
        loss_sum: surprise(margins.clone()).sum(),
        margins: Some(margins),
        signed: None,
    }
}

/// One value for each of the two sequences of a pair: those of the chosen ones, and of the rejected ones.
///
/// # Shapes
/// - values: `[2 · pairs]`
/// - output: `[pairs]` each
pub(super) fn apart(values: Tensor<1>) -> [Tensor<1>; 2] {
    let [sequences] = values.dims();
    let values = values.reshape([sequences / 2, 2]);
    [0, 1].map(|at| values.clone().narrow(1, at, 1).reshape([sequences / 2]))
}

/// `−log σ(x)` of each element.
pub(super) fn surprise(x: Tensor<1>) -> Tensor<1> {
    burn::tensor::activation::log_sigmoid(x).neg()
}
