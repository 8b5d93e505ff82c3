//! Grouped-query attention.

use burn::config::Config;
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Int, Tensor, activation::softmax};

use super::{LayerCache, Rotation, linear, project};

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

/// Which earlier tokens a run of new tokens may look at: all that are not after itself.
#[derive(Debug, Clone)]
pub struct CausalMask {
    /// `[tokens, start + tokens]`, true where looking is forbidden; absent when nothing is.
    hidden: Option<Tensor<2, Bool>>,
}

impl CausalMask {
    /// The mask of `tokens` new tokens behind `start` old ones.
    pub fn new(start: usize, tokens: usize, device: &Device) -> Self {
        if tokens == 1 {
            return Self { hidden: None };
        }
        let query =
            Tensor::<1, Int>::arange(start as i64..(start + tokens) as i64, device).unsqueeze_dim::<2>(1);
        let key = Tensor::<1, Int>::arange(0..(start + tokens) as i64, device).unsqueeze_dim::<2>(0);
        Self {
            hidden: Some(
                key.expand([tokens, start + tokens])
                    .greater(query.expand([tokens, start + tokens])),
            ),
        }
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
        let [batch, tokens, _] = x.dims();
        let split = |x: Tensor<3>, heads| x.reshape([batch, tokens, heads, self.head_dim]).swap_dims(1, 2);
        let query = rotation.apply(split(project(&self.q_proj, x.clone()), self.heads));
        let key = rotation.apply(split(project(&self.k_proj, x.clone()), self.kv_heads));
        let value = split(project(&self.v_proj, x), self.kv_heads);
        let (key, value) = match cache {
            Some((start, cache)) => cache.append(start, key, value),
            None => (key, value),
        };
        let context = attend(query, key, value, mask).swap_dims(1, 2);
        project(
            &self.o_proj,
            context.reshape([batch, tokens, self.heads * self.head_dim]),
        )
    }
}

/// `softmax(q kᵀ / √head_dim) v` with each key and value head serving `heads / kv_heads` consecutive query heads.
///
/// The queries of a group are laid out as extra rows of one product, so that keys and values are never repeated.
fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, mask: &CausalMask) -> Tensor<4> {
    let [batch, heads, tokens, width] = query.dims();
    let [_, kv_heads, context, _] = key.dims();
    let group = heads / kv_heads;
    let query = (query * (width as f64).powf(-0.5)).reshape([batch, kv_heads, group * tokens, width]);
    let mut scores = query
        .matmul(key.swap_dims(2, 3))
        .reshape([batch, kv_heads, group, tokens, context]);
    if let Some(hidden) = &mask.hidden {
        let hidden = hidden
            .clone()
            .unsqueeze::<5>()
            .expand([batch, kv_heads, group, tokens, context]);
        scores = scores.mask_fill(hidden, f32::NEG_INFINITY);
    }
    let weights = softmax(scores, 4).reshape([batch, kv_heads, group * tokens, context]);
    weights.matmul(value).reshape([batch, heads, tokens, width])
}
