//! Grouped-query attention.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::block::Packed;
use super::{Projection, RmsNorm, RmsNormConfig, Rotation};
use crate::config::{LayerKind, ModelConfig, QkNorm};
use crate::kernels::{
    AttentionSettings, CachedAttentionInputs, CachedAttentionSettings, CachedSequence, Heads,
    SelfAttentionInputs, SelfAttentionSettings, Sequences, cached_attention, causal_attention,
    self_attention,
};

/// Configuration of [`Attention`].
#[derive(Config, Debug)]
pub struct AttentionConfig {
    /// Width of input and output.
    pub hidden_size: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Whether the projections of queries, keys and values have a bias. Default: false
    #[config(default = false)]
    pub qkv_bias: bool,
    /// Whether the output projection has a bias. Default: false
    #[config(default = false)]
    pub output_bias: bool,
}

/// Causal self-attention with `kv_heads` shared by groups of query heads (Ainslie et al. 2023, arXiv 2305.13245).
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden_size, heads · head_dim]`
    pub q_proj: Projection,
    /// `[hidden_size, kv_heads · head_dim]`
    pub k_proj: Projection,
    /// `[hidden_size, kv_heads · head_dim]`
    pub v_proj: Projection,
    /// `[heads · head_dim, hidden_size]`
    pub o_proj: Projection,
    /// Norm of the queries, of one head or of all.
    pub q_norm: Option<RmsNorm>,
    /// Norm of the keys, of one head or of all.
    pub k_norm: Option<RmsNorm>,
    #[module(skip)]
    settings: AttentionSettings,
}

impl AttentionConfig {
    /// The attention of a model.
    pub fn of(config: &ModelConfig) -> Self {
        Self::new(config.hidden_size, config.heads, config.kv_heads, config.head_dim)
            .with_qkv_bias(config.qkv_bias)
            .with_output_bias(config.output_bias)
    }

    /// A layer with zero weights, to be loaded; `model` and `kind` say what its shape does not.
    pub fn init(&self, model: &ModelConfig, kind: LayerKind, device: &Device) -> Attention {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let norm = |whole: usize| {
            let width = match model.qk_norm {
                QkNorm::None => return None,
                QkNorm::PerHead => self.head_dim,
                QkNorm::Whole => whole,
            };
            Some(RmsNormConfig::of(model, width).init(device))
        };
        Attention {
            q_proj: Projection::new(self.hidden_size, queries, self.qkv_bias, device),
            k_proj: Projection::new(self.hidden_size, keys, self.qkv_bias, device),
            v_proj: Projection::new(self.hidden_size, keys, self.qkv_bias, device),
            o_proj: Projection::new(queries, self.hidden_size, self.output_bias, device),
            q_norm: norm(queries),
            k_norm: norm(keys),
            settings: AttentionSettings {
                heads: Heads {
                    heads: self.heads,
                    kv_heads: self.kv_heads,
                    head_dim: self.head_dim,
                },
                scale: model.attention_scale,
                window: kind.window,
                softcap: model.attention_softcap,
            },
        }
    }
}

impl Attention {
    /// `x + attention(norm(x))` as one operation, or without `x`; `None` when it is none that exists as one.
    ///
    /// # Shapes
    /// - `x`: `[tokens, hidden_size]`
    /// - output: as `x`
    pub fn fused(
        &self,
        x: &Tensor<2>,
        norm: Option<&RmsNorm>,
        residual: bool,
        (rotation, packed): (&Rotation, &Packed),
    ) -> Option<Tensor<2>> {
        if self.q_norm.is_some() || self.settings.softcap.is_some() {
            return None;
        }
        let inputs = SelfAttentionInputs {
            norm: norm.map(RmsNorm::as_input),
            query: self.q_proj.as_linear()?,
            key: self.k_proj.as_linear()?,
            value: self.v_proj.as_linear()?,
            output: self.o_proj.as_linear()?,
            rotation: rotation.clone().into_parts(),
        };
        let settings = SelfAttentionSettings {
            attention: self.settings,
            residual,
            recompute: packed.recompute,
            precision: packed.precision,
        };
        Some(self_attention(x.clone(), inputs, &packed.sequences, settings))
    }

    /// Attends from each token of packed sequences to itself and the tokens before it in its sequence.
    ///
    /// # Shapes
    /// - `x`: `[tokens, hidden_size]`
    /// - output: as `x`
    pub fn forward_packed(&self, x: Tensor<2>, rotation: &Rotation, sequences: &Sequences) -> Tensor<2> {
        let query = self.normed_rows(&self.q_norm, self.q_proj.forward(x.clone()));
        let key = self.normed_rows(&self.k_norm, self.k_proj.forward(x.clone()));
        let value = self.v_proj.forward(x);
        let rotation = rotation.clone().into_parts();
        let context = causal_attention(query, key, value, rotation, sequences, self.settings);
        self.o_proj.forward(context)
    }

    /// `x + attention(norm(x))`, or without `x`, for new tokens of sequences with caches.
    ///
    /// # Shapes
    /// - `x`: `[rows, hidden_size]`, the new tokens of one sequence after the other
    /// - output: as `x`
    pub fn forward_cached(
        &self,
        x: Tensor<2>,
        norm: Option<&RmsNorm>,
        residual: bool,
        (rotation, sequences): (&Rotation, Vec<CachedSequence<'_>>),
    ) -> Tensor<2> {
        let inputs = CachedAttentionInputs {
            norm: norm.map(RmsNorm::as_input),
            query: self.q_proj.to_linear(),
            key: self.k_proj.to_linear(),
            value: self.v_proj.to_linear(),
            output: self.o_proj.to_linear(),
            query_norm: self.q_norm.as_ref().map(RmsNorm::as_input),
            key_norm: self.k_norm.as_ref().map(RmsNorm::as_input),
            rotation: rotation.clone().into_parts(),
        };
        let settings = CachedAttentionSettings {
            attention: self.settings,
            residual,
        };
        cached_attention(x, inputs, sequences, settings)
    }

    /// # Shapes
    /// - `x`, output: `[tokens, heads · head_dim]`
    fn normed_rows(&self, norm: &Option<RmsNorm>, x: Tensor<2>) -> Tensor<2> {
        let Some(norm) = norm else { return x };
        let [tokens, width] = x.dims();
        let [norm_width] = norm.weight.dims();
        norm.forward(x.reshape([tokens * width / norm_width, norm_width]))
            .reshape([tokens, width])
    }
}
