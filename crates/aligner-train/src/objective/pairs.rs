//! Two answers to one question as sequences of one pass.

use aligner_data::PairRow;
use aligner_model::{CausalDecoder, ScoreConfig, Sequences};
use burn::tensor::{Int, Tensor, TensorData};

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
    let scores = decoder.scores_at(ids, &sequences, &ends);
    // One score a sequence, two sequences a pair.
    let scores = scores.reshape([pairs.len(), 2]);
    let column = |at: usize| scores.clone().narrow(1, at, 1).reshape([pairs.len()]);
    [column(0), column(1)]
}

/// `−log σ(x)` of each element.
pub(super) fn surprise(x: Tensor<1>) -> Tensor<1> {
    burn::tensor::activation::log_sigmoid(x).neg()
}
