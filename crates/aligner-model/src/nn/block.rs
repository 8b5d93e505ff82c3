//! One layer of the decoder.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::{Attention, AttentionConfig, Mlp, MlpConfig, RmsNorm, RmsNormConfig, Rotation};
use crate::config::{LayerKind, LayerRope, ModelConfig, NormPlacement};
use crate::kernels::{CachedSequence, Precision, Sequences};

/// The rotations of one forward pass.
#[derive(Debug, Clone)]
pub struct Rotations {
    /// Rotary angles of the new tokens.
    pub global: Rotation,
    /// Those of layers with a window, where they are others.
    pub local: Option<Rotation>,
    /// No rotation, where there are layers without one.
    pub none: Option<Rotation>,
}

impl Rotations {
    fn of(&self, rope: LayerRope) -> &Rotation {
        let own = match rope {
            LayerRope::Global => None,
            LayerRope::Local => self.local.as_ref(),
            LayerRope::None => self.none.as_ref(),
        };
        own.unwrap_or(&self.global)
    }
}

/// What all layers of a pass over packed sequences share.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The rotations of as many positions as the longest sequence has.
    pub rotations: Rotations,
    /// Which rows belong together.
    pub sequences: Sequences,
    /// Keep each layer's inputs alone for the backward pass.
    pub recompute: bool,
    /// What the factors of products are rounded to, where a half of a layer is one operation.
    pub precision: Precision,
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

    /// Norm behind the attention, and norm before the MLP.
    fn middle_norms(&self) -> (Option<&RmsNorm>, Option<&RmsNorm>) {
        let middle = Some(&self.post_attention_layernorm);
        match self.post_feedforward_layernorm {
            Some(_) => (middle, self.pre_feedforward_layernorm.as_ref()),
            None => (None, middle),
        }
    }

    /// New tokens of sequences with caches; of the chosen rows alone, where there are `rows`.
    ///
    /// # Shapes
    /// - `x`: `[rows, hidden_size]`, the new tokens of one sequence after the other
    /// - `rows`: `[chosen]`
    /// - output: as `x`, or `[chosen, hidden_size]`
    pub fn forward_cached(
        &self,
        x: Tensor<2>,
        rotations: &Rotations,
        sequences: Vec<CachedSequence<'_>>,
        rows: Option<Tensor<1, Int>>,
    ) -> Tensor<2> {
        let (behind_attention, before_mlp) = self.middle_norms();
        let rotation = rotations.of(self.rope);
        let before = self.input_layernorm.as_ref();
        let attend = |x, residual| {
            self.self_attn
                .forward_cached(x, before, residual, (rotation, sequences))
        };
        let x = match behind_attention {
            None => attend(x, true),
            Some(norm) => x.clone() + norm.forward(attend(x, false)),
        };
        // An MLP sees one token at a time: what nobody reads need not go through it.
        let x = match rows {
            Some(rows) => x.select(0, rows),
            None => x,
        };
        if x.dims()[0] == 0 {
            return x;
        }
        match self.post_feedforward_layernorm.as_ref() {
            None => self.mlp.inference(x, before_mlp, true),
            Some(norm) => x.clone() + norm.forward(self.mlp.inference(x, before_mlp, false)),
        }
    }

    /// Packed sequences without a cache; of the chosen rows alone, where there are `rows`.
    ///
    /// # Shapes
    /// - `x`: `[tokens, hidden_size]`
    /// - `rows`: `[chosen]`
    /// - output: as `x`, or `[chosen, hidden_size]`
    pub fn forward_packed(&self, x: Tensor<2>, packed: &Packed, rows: Option<Tensor<1, Int>>) -> Tensor<2> {
        let (behind_attention, before_mlp) = self.middle_norms();
        let rotation = packed.rotations.of(self.rope);
        let before = self.input_layernorm.as_ref();
        let attended = self
            .self_attn
            .fused(&x, before, behind_attention.is_none(), (rotation, packed));
        let x = add(x, attended, behind_attention, |x| {
            self.self_attn
                .forward_packed(through(before, x), rotation, &packed.sequences)
        });
        // An MLP sees one token at a time: what nobody reads need not go through it. (Composed of Burn's products it goes
        // through all the same: those of a few rows may sum in an order that depends on where their memory begins.)
        let (x, rows) = match rows {
            Some(rows) if self.mlp.is_one_operation() => (x.select(0, rows), None),
            rows => (x, rows),
        };
        let after = self.post_feedforward_layernorm.as_ref();
        let inner = self.mlp.fused(&x, before_mlp, after.is_none(), packed);
        let out = add(x, inner, after, |x| self.mlp.forward_rows(through(before_mlp, x)));
        match rows {
            Some(rows) => out.select(0, rows),
            None => out,
        }
    }
}

/// `x + norm(part(x))`; `fused` is the sum already where there is no norm, and `part(x)` where there is one.
fn add(
    x: Tensor<2>,
    fused: Option<Tensor<2>>,
    norm: Option<&RmsNorm>,
    part: impl FnOnce(Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    match (fused, norm) {
        (Some(sum), None) => sum,
        (Some(out), Some(norm)) => x + norm.forward(out),
        (None, norm) => {
            let out = part(x.clone());
            x + through(norm, out)
        }
    }
}

fn through<const D: usize>(norm: Option<&RmsNorm>, x: Tensor<D>) -> Tensor<D> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
