//! One layer of the decoder.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{
    Attention, AttentionConfig, CausalMask, LayerCache, Mlp, MlpConfig, RmsNorm, RmsNormConfig, Rotation,
};
use crate::config::{LayerKind, LayerRope, ModelConfig, NormPlacement};

/// What all layers of one forward pass share.
#[derive(Debug, Clone)]
pub struct Step {
    /// Rotary angles of the new tokens.
    pub rotation: Rotation,
    /// Those of layers with a window, where they are others.
    pub local_rotation: Option<Rotation>,
    /// No rotation, where there are layers without one.
    pub no_rotation: Option<Rotation>,
    /// Which tokens see which.
    pub mask: CausalMask,
    /// Tokens already in the cache.
    pub start: usize,
}

impl Step {
    fn rotation(&self, rope: LayerRope) -> &Rotation {
        let own = match rope {
            LayerRope::Global => None,
            LayerRope::Local => self.local_rotation.as_ref(),
            LayerRope::None => self.no_rotation.as_ref(),
        };
        own.unwrap_or(&self.rotation)
    }
}

/// Attention and MLP, each added to the residual stream, with norms before, after or around them.
///
/// Which norms there are says where they stand: `input_layernorm` is before the attention; with
/// `post_feedforward_layernorm`, `post_attention_layernorm` is behind it, and otherwise, as in Llama, before the MLP.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the attention.
    pub input_layernorm: Option<RmsNorm>,
    /// The attention.
    pub self_attn: Attention,
    /// Norm behind the attention; the one before the MLP when there is no norm behind the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// Norm before the MLP.
    pub pre_feedforward_layernorm: Option<RmsNorm>,
    /// The MLP.
    pub mlp: Mlp,
    /// Norm behind the MLP.
    pub post_feedforward_layernorm: Option<RmsNorm>,
    #[module(skip)]
    rope: LayerRope,
}

impl Block {
    /// A block with zero weights, to be loaded.
    pub fn new(config: &ModelConfig, kind: LayerKind, device: &Device) -> Self {
        let norm = || RmsNormConfig::of(config, config.hidden_size).init(device);
        let mlp = MlpConfig::new(config.hidden_size, config.intermediate_size).with_bias(config.mlp_bias);
        let (before, after) = match config.norms {
            NormPlacement::Before => (true, false),
            NormPlacement::After => (false, true),
            NormPlacement::Around => (true, true),
        };
        Self {
            input_layernorm: before.then(norm),
            self_attn: AttentionConfig::of(config).init(config, kind, device),
            post_attention_layernorm: norm(),
            pre_feedforward_layernorm: (before && after).then(norm),
            mlp: mlp.init(config.activation, device),
            post_feedforward_layernorm: after.then(norm),
            rope: kind.rope,
        }
    }

    /// # Shapes
    /// - `x`: `[batch, tokens, hidden_size]`
    /// - output: as `x`
    pub fn forward(&self, x: Tensor<3>, step: &Step, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let after = self.post_feedforward_layernorm.as_ref();
        let middle = &self.post_attention_layernorm;
        let (behind_attention, before_mlp) = match after {
            Some(_) => (Some(middle), self.pre_feedforward_layernorm.as_ref()),
            None => (None, Some(middle)),
        };
        let cache = cache.map(|cache| (step.start, cache));
        let normed = through(self.input_layernorm.as_ref(), x.clone());
        let rotation = step.rotation(self.rope);
        let attended = self.self_attn.forward(normed, rotation, &step.mask, cache);
        let x = x + through(behind_attention, attended);
        let inner = self.mlp.forward(through(before_mlp, x.clone()));
        x + through(after, inner)
    }
}

fn through(norm: Option<&RmsNorm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
