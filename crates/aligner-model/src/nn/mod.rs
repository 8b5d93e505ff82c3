//! The layers of the decoder. Field names follow Hugging Face's, so that a module path is a weight name.

mod attention;
mod block;
mod cache;
mod mlp;
mod norm;
mod rope;

pub use attention::{Attention, AttentionConfig, CausalMask};
pub use block::{Block, Step};
pub use cache::{KvCache, LayerCache};
pub use mlp::{Mlp, MlpConfig};
pub use norm::{RmsNorm, RmsNormConfig};
pub use rope::{Rope, Rotation};

use burn::nn::{Initializer, Linear, LinearConfig};

/// A linear layer whose weights are about to be replaced by loaded or seeded ones.
///
/// Zeros instead of Burn's random default: the initialisation is lazy and never runs for a parameter that is replaced.
pub(crate) fn linear(input: usize, output: usize, bias: bool, device: &burn::tensor::Device) -> Linear {
    LinearConfig::new(input, output)
        .with_bias(bias)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

/// A linear layer over the rows of all sequences at once.
///
/// As one matrix the weight's gradient is one product; by sequences it would be a product each and a sum over them.
///
/// # Shapes
/// - `x`: `[batch, tokens, input]`
/// - output: `[batch, tokens, output]`
pub(crate) fn project(layer: &Linear, x: burn::tensor::Tensor<3>) -> burn::tensor::Tensor<3> {
    let [batch, tokens, width] = x.dims();
    layer
        .forward(x.reshape([batch * tokens, width]))
        .reshape([batch as i64, tokens as i64, -1])
}
