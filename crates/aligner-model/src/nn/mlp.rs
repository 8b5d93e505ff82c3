//! The gated MLP.

use burn::config::Config;
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{
    Device, Tensor,
    activation::{gelu, gelu_approximate},
};

use super::{linear, project};
use crate::config::Activation;
use crate::kernels;

/// Configuration of [`Mlp`].
#[derive(Config, Debug)]
pub struct MlpConfig {
    /// Width of input and output.
    pub hidden_size: usize,
    /// Width inside.
    pub intermediate_size: usize,
    /// Whether the projections have a bias. Default: false
    #[config(default = false)]
    pub bias: bool,
}

/// `down(activation(gate(x)) · up(x))` (Shazeer 2020, arXiv 2002.05202).
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden_size, intermediate_size]`
    pub gate_proj: Linear,
    /// `[hidden_size, intermediate_size]`
    pub up_proj: Linear,
    /// `[intermediate_size, hidden_size]`
    pub down_proj: Linear,
    #[module(skip)]
    activation: Activation,
}

impl MlpConfig {
    /// An MLP with zero weights, to be loaded.
    pub fn init(&self, activation: Activation, device: &Device) -> Mlp {
        let (outer, inner) = (self.hidden_size, self.intermediate_size);
        Mlp {
            gate_proj: linear(outer, inner, self.bias, device),
            up_proj: linear(outer, inner, self.bias, device),
            down_proj: linear(inner, outer, self.bias, device),
            activation,
        }
    }
}

impl Mlp {
    /// # Shapes
    /// - `x`: `[batch, tokens, hidden_size]`
    /// - output: as `x`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = project(&self.gate_proj, x.clone());
        let up = project(&self.up_proj, x);
        let inner = match self.activation {
            Activation::Silu => kernels::swiglu(gate, up),
            Activation::Gelu => gelu(gate) * up,
            Activation::GeluTanh => gelu_approximate(gate) * up,
        };
        project(&self.down_proj, inner)
    }
}
