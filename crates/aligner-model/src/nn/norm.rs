//! Root-mean-square normalisation.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

use crate::kernels;

/// Configuration of [`RmsNorm`].
#[derive(Config, Debug)]
pub struct RmsNormConfig {
    /// Width of the input.
    pub hidden_size: usize,
    /// Added to the mean square for stability. Default: 1e-5
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

/// `y = x / sqrt(mean(x²) + epsilon) · weight` over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Scale of each dimension: `[hidden_size]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNormConfig {
    /// A norm with unit weights.
    pub fn init(&self, device: &Device) -> RmsNorm {
        RmsNorm {
            weight: Initializer::Ones.init([self.hidden_size], device),
            epsilon: self.epsilon,
        }
    }
}

impl RmsNorm {
    /// # Shapes
    /// - `x`: `[..., hidden_size]`
    /// - output: as `x`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        kernels::rms_norm(x, self.weight.val(), self.epsilon)
    }
}
