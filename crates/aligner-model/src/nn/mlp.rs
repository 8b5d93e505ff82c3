//! The gated MLP.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{
    Device, Tensor,
    activation::{gelu, gelu_approximate},
};

use super::Projection;
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
    pub gate_proj: Projection,
    /// `[hidden_size, intermediate_size]`
    pub up_proj: Projection,
    /// `[intermediate_size, hidden_size]`
    pub down_proj: Projection,
    #[module(skip)]
    activation: Activation,
}

impl MlpConfig {
    /// An MLP with zero weights, to be loaded.
    pub fn init(&self, activation: Activation, device: &Device) -> Mlp {
        let (outer, inner) = (self.hidden_size, self.intermediate_size);
        Mlp {
            gate_proj: Projection::new(outer, inner, self.bias, device),
            up_proj: Projection::new(outer, inner, self.bias, device),
            down_proj: Projection::new(inner, outer, self.bias, device),
            activation,
        }
    }
}

impl Mlp {
    /// # Shapes
    /// - `x`: `[batch, tokens, hidden_size]`
    /// - output: as `x`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = self.gate_proj.forward_sequences(x.clone());
        let up = self.up_proj.forward_sequences(x);
        let inner = match self.activation {
            Activation::Silu => kernels::swiglu(gate, up),
            Activation::Gelu => gelu(gate) * up,
            Activation::GeluTanh => gelu_approximate(gate) * up,
        };
        self.down_proj.forward_sequences(inner)
    }
}
