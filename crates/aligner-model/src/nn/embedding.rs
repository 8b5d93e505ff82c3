//! The token embedding, which may be the output projection as well.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::ProjectionWeight;
use crate::kernels::{self, Linear, LinearWeight, reference};

/// A row for each token of the vocabulary.
#[derive(Module, Debug)]
pub struct TokenEmbedding {
    /// `[vocab_size, hidden_size]`, which is how both kinds of it lie in a file.
    pub weight: ProjectionWeight,
}

impl TokenEmbedding {
    /// An embedding of zeros, to be loaded.
    pub fn new(vocab_size: usize, hidden_size: usize, device: &Device) -> Self {
        Self {
            weight: ProjectionWeight::Dense(Initializer::Zeros.init([vocab_size, hidden_size], device)),
        }
    }

    /// The rows of tokens.
    ///
    /// # Shapes
    /// - `ids`: `[tokens]`, each below `vocab_size`
    /// - output: `[tokens, hidden_size]`
    pub fn forward_rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        match &self.weight {
            ProjectionWeight::Dense(weight) => kernels::embedding(weight.val(), ids),
            ProjectionWeight::Int8(weight) => {
                let weight = weight.tensor(&ids.device());
                reference::embedding(weight.transpose(), ids)
            }
            ProjectionWeight::Panels(weight) => {
                rows_of(ids, weight.dims()[0], |token, row| weight.row(token, row))
            }
            ProjectionWeight::Quantized(weight) => {
                rows_of(ids, weight.input(), |token, row| weight.row(token, row))
            }
        }
    }

    /// # Shapes
    /// - `ids`: `[batch, tokens]`
    /// - output: `[batch, tokens, hidden_size]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, tokens] = ids.dims();
        self.forward_rows(ids.reshape([batch * tokens]))
            .reshape([batch as i64, tokens as i64, -1])
    }

    /// Each row's product with every token's row.
    ///
    /// # Shapes
    /// - `rows`: `[rows, hidden_size]`
    /// - output: `[rows, vocab_size]`
    pub fn logits(&self, rows: Tensor<2>) -> Tensor<2> {
        let weight = match &self.weight {
            ProjectionWeight::Dense(weight) => return kernels::linear_transposed(rows, weight.val()),
            ProjectionWeight::Int8(weight) => LinearWeight::Int8(weight.clone()),
            ProjectionWeight::Panels(weight) => LinearWeight::Panels(weight.clone()),
            ProjectionWeight::Quantized(weight) => LinearWeight::Quantized(weight.clone()),
        };
        let (bias, lora) = (None, None);
        kernels::linear(rows, Linear { weight, bias, lora })
    }

    /// The parameter, where it is one: `[vocab_size, hidden_size]`.
    pub fn dense(&self) -> Option<&Param<Tensor<2>>> {
        match &self.weight {
            ProjectionWeight::Dense(weight) => Some(weight),
            ProjectionWeight::Int8(_) | ProjectionWeight::Panels(_) | ProjectionWeight::Quantized(_) => None,
        }
    }
}

/// The rows of tokens, which are computed on the host: there are few of them.
fn rows_of(ids: Tensor<1, Int>, width: usize, read: impl Fn(usize, &mut [f32])) -> Tensor<2> {
    let device = ids.device();
    let ids: Vec<i64> = ids.into_data().iter::<i64>().collect();
    let mut rows = vec![0.0; ids.len() * width];
    for (&id, row) in ids.iter().zip(rows.chunks_exact_mut(width.max(1))) {
        read(id as usize, row);
    }
    Tensor::from_data(TensorData::new(rows, [ids.len(), width]), &device)
}
