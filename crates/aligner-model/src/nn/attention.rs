//! Grouped-query attention.

use std::cell::OnceCell;

use burn::config::Config;
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Tensor};

use super::{LayerCache, Rotation, linear, project};
use crate::kernels::{Heads, causal_attention, reference};

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
    /// Whether the projections have a bias. Default: false
    #[config(default = false)]
    pub bias: bool,
}

/// Causal self-attention with `kv_heads` shared by groups of query heads (Ainslie et al. 2023, arXiv 2305.13245).
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden_size, heads · head_dim]`
    pub q_proj: Linear,
    /// `[hidden_size, kv_heads · head_dim]`
    pub k_proj: Linear,
    /// `[hidden_size, kv_heads · head_dim]`
    pub v_proj: Linear,
    /// `[heads · head_dim, hidden_size]`
    pub o_proj: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Which keys are hidden from a run of new tokens: all that come after the token itself.
///
/// Made when it is first asked for: the fused attention has no use for it.
#[derive(Debug, Clone)]
pub struct CausalMask {
    start: usize,
    tokens: usize,
    device: Device,
    hidden: OnceCell<Option<Tensor<2, Bool>>>,
}

impl CausalMask {
    /// The mask of `tokens` new tokens behind `start` old ones.
    pub fn new(start: usize, tokens: usize, device: &Device) -> Self {
        Self {
            start,
            tokens,
            device: device.clone(),
            hidden: OnceCell::new(),
        }
    }

    fn get(&self) -> Option<Tensor<2, Bool>> {
        let make = || reference::causal_mask(self.start, self.tokens, &self.device);
        self.hidden.get_or_init(make).clone()
    }
}

impl AttentionConfig {
    /// An attention layer with zero weights, to be loaded.
    pub fn init(&self, device: &Device) -> Attention {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        Attention {
            q_proj: linear(self.hidden_size, queries, self.bias, device),
            k_proj: linear(self.hidden_size, keys, self.bias, device),
            v_proj: linear(self.hidden_size, keys, self.bias, device),
            o_proj: linear(queries, self.hidden_size, self.bias, device),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
        }
    }
}

impl Attention {
    /// Attends from each token of `x` to itself, the tokens before it in `x`, and the `start` tokens of `cache`.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, hidden_size]`
    /// - output: as `x`
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotation: &Rotation,
        mask: &CausalMask,
        cache: Option<(usize, &mut LayerCache)>,
    ) -> Tensor<3> {
        let query = project(&self.q_proj, x.clone());
        let key = project(&self.k_proj, x.clone());
        let value = project(&self.v_proj, x);
        let context = match cache {
            None => {
                let heads = Heads {
                    heads: self.heads,
                    kv_heads: self.kv_heads,
                    head_dim: self.head_dim,
                };
                causal_attention(query, key, value, rotation.clone().into_parts(), heads)
            }
            Some((start, cache)) => {
                let query = rotation.apply(reference::split_heads(query, self.heads));
                let key = rotation.apply(reference::split_heads(key, self.kv_heads));
                let value = reference::split_heads(value, self.kv_heads);
                let (key, value) = cache.append(start, key, value);
                reference::merge_heads(reference::attention(query, key, value, mask.get()))
            }
        };
        project(&self.o_proj, context)
    }
}
