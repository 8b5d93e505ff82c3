//! A linear layer that can carry a low-rank adapter.

use burn::module::{Module, Param};
use burn::nn::{Dropout, Initializer};
use burn::tensor::{Device, Tensor};

use crate::kernels;

/// `x W + b`, and with an adapter `+ scale · dropout(x) A B`.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[input, output]`
    pub weight: Param<Tensor<2>>,
    /// `[output]`
    pub bias: Option<Param<Tensor<1>>>,
    /// The adapter, when one is attached.
    pub lora: Option<Lora>,
}

/// A low-rank update of a [`Projection`] (Hu et al. 2021, arXiv 2106.09685).
#[derive(Module, Debug)]
pub struct Lora {
    /// `[input, rank]`
    pub a: Param<Tensor<2>>,
    /// `[rank, output]`
    pub b: Param<Tensor<2>>,
    /// Of the adapter's input; only while training.
    pub dropout: Dropout,
    /// What the update is multiplied by.
    pub scale: f64,
}

impl Projection {
    /// A layer with zero weights, to be loaded.
    ///
    /// Zeros instead of a random default: the initialisation is lazy and never runs for a parameter that is replaced.
    pub fn new(input: usize, output: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: Initializer::Zeros.init([input, output], device),
            bias: bias.then(|| Initializer::Zeros.init([output], device)),
            lora: None,
        }
    }

    /// # Shapes
    /// - `x`: `[rows, input]`
    /// - output: `[rows, output]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let update = self.lora.as_ref().map(|lora| {
            let low = lora.dropout.forward(x.clone()).matmul(lora.a.val());
            low.matmul(lora.b.val()) * lora.scale
        });
        let out = kernels::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val));
        match update {
            Some(update) => out + update,
            None => out,
        }
    }

    /// The layer as an input of a larger operation; `None` when it drops inputs of its adapter at random just now.
    pub fn as_linear(&self) -> Option<kernels::Linear> {
        let drops = |lora: &Lora| lora.dropout.prob > 0.0 && self.weight.device().is_autodiff();
        if self.lora.as_ref().is_some_and(drops) {
            return None;
        }
        Some(kernels::Linear {
            weight: self.weight.val(),
            bias: self.bias.as_ref().map(Param::val),
            lora: self.lora.as_ref().map(|lora| kernels::LowRank {
                a: lora.a.val(),
                b: lora.b.val(),
                scale: lora.scale,
            }),
        })
    }

    /// [`forward`](Self::forward) over the rows of all sequences at once.
    ///
    /// As one matrix the weight's gradient is one product; by sequences it would be a product each and a sum over them.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, input]`
    /// - output: `[batch, tokens, output]`
    pub fn forward_sequences(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        self.forward(x.reshape([batch * tokens, width]))
            .reshape([batch as i64, tokens as i64, -1])
    }

    /// Input and output width.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }
}
