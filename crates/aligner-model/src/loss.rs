//! The training loss: negative log-likelihood of the target tokens alone.

use burn::tensor::{Int, Tensor};

use crate::decoder::CausalDecoder;
use crate::kernels::Sequences;

/// Which hidden states are scored, and against which token.
///
/// `rows[k]` is an index into the hidden states `[tokens]` of all sequences, `ids[k]` the token that follows there. Only
/// these rows pass through the output projection: a prompt's tokens cost no logits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Flat positions of the hidden states that predict a target token.
    pub rows: Vec<u32>,
    /// The tokens they should predict.
    pub ids: Vec<u32>,
}

impl Targets {
    /// Number of target tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is nothing to predict.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl CausalDecoder {
    /// Sum (not mean) of the negative log-likelihoods of `targets`, in nats: `[1]`.
    ///
    /// A sum, because a mean over a micro-batch would weigh its tokens by how many others it happens to hold; the caller
    /// divides by the number of target tokens of the whole optimizer step.
    ///
    /// # Shapes
    /// - `ids`: `[tokens]`, those of all `sequences`
    /// - output: `[1]`
    ///
    /// # Panics
    /// When the lengths do not add up to `tokens`, or a target lies beyond them or the vocabulary.
    pub fn target_nll(&self, ids: Tensor<1, Int>, sequences: &Sequences, targets: &Targets) -> Tensor<1> {
        let rows: Vec<i32> = targets.rows.iter().map(|&row| row as i32).collect();
        let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), &ids.device());
        let hidden_states = self.packed_rows(ids, sequences, Some(rows));
        self.nll_of_rows(hidden_states, &targets.ids)
    }
}

impl CausalDecoder {
    /// The same of several sequences, each by itself: `[targets]`. One without a target has 0.
    ///
    /// # Shapes
    /// - `ids`: `[tokens]`, those of all `sequences`
    /// - output: as many as there are `targets`
    ///
    /// # Panics
    /// As [`target_nll`](Self::target_nll), and when there are no targets at all.
    pub fn sequence_nlls(
        &self,
        ids: Tensor<1, Int>,
        sequences: &Sequences,
        targets: &[Targets],
    ) -> Tensor<1> {
        let device = ids.device();
        let rows: Vec<i32> = targets
            .iter()
            .flat_map(|of| &of.rows)
            .map(|&row| row as i32)
            .collect();
        let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), &device);
        let hidden_states = self.packed_rows(ids, sequences, Some(rows));
        let mut start = 0;
        let sums = targets.iter().map(|of| {
            if of.is_empty() {
                return Tensor::zeros([1], &device);
            }
            let of_sequence = hidden_states.clone().narrow(0, start, of.len());
            start += of.len();
            self.nll_of_rows(of_sequence, &of.ids)
        });
        Tensor::cat(sums.collect(), 0)
    }
}
