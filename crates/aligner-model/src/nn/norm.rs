//! Root-mean-square normalisation.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

use crate::config::ModelConfig;
use crate::kernels;

/// Configuration of [`RmsNorm`].
#[derive(Config, Debug)]
pub struct RmsNormConfig {
    /// Width of the input.
    pub hidden_size: usize,
    /// Added to the mean square for stability. Default: 1e-5
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// Whether `1 + weight` is multiplied by, as Gemma does. Default: false
    #[config(default = false)]
    pub offset: bool,
}

/// `y = x / sqrt(mean(x²) + epsilon) · weight` over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467).
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Scale of each dimension: `[hidden_size]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
    offset: bool,
}

impl RmsNormConfig {
    /// A norm of a model.
    pub fn of(model: &ModelConfig, width: usize) -> Self {
        Self::new(width)
            .with_epsilon(model.rms_norm_eps)
            .with_offset(model.norm_offset)
    }

    /// A norm whose weights are about to be replaced.
    pub fn init(&self, device: &Device) -> RmsNorm {
        RmsNorm {
            weight: Initializer::Ones.init([self.hidden_size], device),
            epsilon: self.epsilon,
            offset: self.offset,
        }
    }
}

impl RmsNorm {
    /// The norm as an input of a larger operation.
    pub fn as_input(&self) -> kernels::Norm {
        let weight = self.weight.val();
        kernels::Norm {
            weight: if self.offset { weight + 1.0 } else { weight },
            epsilon: self.epsilon,
        }
    }

    /// # Shapes
    /// - `x`: `[..., hidden_size]`
    /// - output: as `x`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let kernels::Norm { weight, epsilon } = self.as_input();
        kernels::rms_norm(x, weight, epsilon)
    }
}
