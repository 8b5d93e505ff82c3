//! The training loss: negative log-likelihood of the target tokens alone.

use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};

use crate::decoder::CausalDecoder;

/// Which hidden states are scored, and against which token.
///
/// `rows[k]` is an index into the flattened `[batch · tokens]` hidden states, `ids[k]` the token that follows there. Only
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
    /// - `hidden_states`: `[batch, tokens, hidden_size]`
    /// - output: `[1]`
    pub fn target_nll(&self, hidden_states: Tensor<3>, targets: &Targets) -> Tensor<1> {
        let device = hidden_states.device();
        let [batch, tokens, width] = hidden_states.dims();
        let rows = indices(&targets.rows, &device);
        let logits = self.logits_of_rows(hidden_states.reshape([batch * tokens, width]).select(0, rows));
        let ids = indices(&targets.ids, &device).unsqueeze_dim::<2>(1);
        -log_softmax(logits, 1).gather(1, ids).sum()
    }
}

fn indices(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}
