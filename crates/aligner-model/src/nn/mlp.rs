//! The gated MLP.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{
    Device, Tensor,
    activation::{gelu, gelu_approximate},
};

use super::block::Packed;
use super::{Projection, RmsNorm};
use crate::config::Activation;
use crate::kernels::{self, Gate, MlpInputs, MlpSettings};

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
    /// Whether [`fused`](Self::fused) takes this MLP.
    pub fn is_one_operation(&self) -> bool {
        let layers = [&self.gate_proj, &self.up_proj, &self.down_proj];
        self.activation != Activation::Gelu && layers.into_iter().all(|layer| layer.as_linear().is_some())
    }

    /// `x + mlp(norm(x))` as one operation, or without `x`; `None` when it is none that exists as one.
    ///
    /// # Shapes
    /// - `x`: `[tokens, hidden_size]`
    /// - output: as `x`
    pub fn fused(
        &self,
        x: &Tensor<2>,
        norm: Option<&RmsNorm>,
        residual: bool,
        packed: &Packed,
    ) -> Option<Tensor<2>> {
        let activation = self.gate()?;
        let inputs = MlpInputs {
            norm: norm.map(RmsNorm::as_input),
            gate: self.gate_proj.as_linear()?,
            up: self.up_proj.as_linear()?,
            down: self.down_proj.as_linear()?,
        };
        let settings = MlpSettings {
            activation,
            residual,
            recompute: packed.recompute,
            precision: packed.precision,
        };
        Some(kernels::mlp(x.clone(), inputs, settings))
    }

    /// The activation, where operations know it.
    fn gate(&self) -> Option<Gate> {
        match self.activation {
            Activation::Silu => Some(Gate::Silu),
            Activation::GeluTanh => Some(Gate::GeluTanh),
            Activation::Gelu => None,
        }
    }

    /// `x + mlp(norm(x))`, or without `x`, each row as if it were alone.
    ///
    /// # Shapes
    /// - `x`: `[rows, hidden_size]`
    /// - output: as `x`
    pub fn inference(&self, x: Tensor<2>, norm: Option<&RmsNorm>, residual: bool) -> Tensor<2> {
        let Some(activation) = self.gate() else {
            let normed = norm.map_or_else(|| x.clone(), |norm| norm.forward(x.clone()));
            let out = self.forward_rows(normed);
            return if residual { x + out } else { out };
        };
        let inputs = MlpInputs {
            norm: norm.map(RmsNorm::as_input),
            gate: self.gate_proj.to_linear(),
            up: self.up_proj.to_linear(),
            down: self.down_proj.to_linear(),
        };
        kernels::inference_mlp(x, inputs, activation, residual)
    }

    /// # Shapes
    /// - `x`: `[tokens, hidden_size]`
    /// - output: as `x`
    pub fn forward_rows(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate_proj.forward(x.clone());
        let up = self.up_proj.forward(x);
        let inner = match self.activation {
            Activation::Silu => kernels::swiglu(gate, up),
            Activation::Gelu => gelu(gate) * up,
            Activation::GeluTanh => gelu_approximate(gate) * up,
        };
        self.down_proj.forward(inner)
    }
}
