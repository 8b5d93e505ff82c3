//! One layer of the decoder.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{
    Attention, AttentionConfig, CausalMask, LayerCache, Mlp, MlpConfig, RmsNorm, RmsNormConfig, Rotation,
};
use crate::config::ModelConfig;

/// What all layers of one forward pass share.
#[derive(Debug, Clone)]
pub struct Step {
    /// Rotary angles of the new tokens.
    pub rotation: Rotation,
    /// Which tokens see which.
    pub mask: CausalMask,
    /// Tokens already in the cache.
    pub start: usize,
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub input_layernorm: RmsNorm,
    /// The attention.
    pub self_attn: Attention,
    /// Norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// The MLP.
    pub mlp: Mlp,
}

impl Block {
    /// A block with zero weights, to be loaded.
    pub fn new(config: &ModelConfig, device: &Device) -> Self {
        let norm = RmsNormConfig::new(config.hidden_size).with_epsilon(config.rms_norm_eps);
        let attention =
            AttentionConfig::new(config.hidden_size, config.heads, config.kv_heads, config.head_dim)
                .with_bias(config.attention_bias);
        let mlp = MlpConfig::new(config.hidden_size, config.intermediate_size).with_bias(config.mlp_bias);
        Self {
            input_layernorm: norm.init(device),
            self_attn: attention.init(device),
            post_attention_layernorm: norm.init(device),
            mlp: mlp.init(device),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, tokens, hidden_size]`
    /// - output: as `x`
    pub fn forward(&self, x: Tensor<3>, step: &Step, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let normed = self.input_layernorm.forward(x.clone());
        let cache = cache.map(|cache| (step.start, cache));
        let x = x + self.self_attn.forward(normed, &step.rotation, &step.mask, cache);
        let normed = self.post_attention_layernorm.forward(x.clone());
        x + self.mlp.forward(normed)
    }
}
