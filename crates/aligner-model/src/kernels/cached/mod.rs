//! The halves of a layer for inference, over rows of several sequences with a cache each.
//!
//! Decoding is bound by how fast weights are read from memory. So a weight is read once for the tokens of all sequences, in long
//! runs ([`PanelWeight`]), by threads that wait for nothing else between two phases of an operation (`team`). Up to a dozen
//! rows cost what one costs.
//!
//! What comes out for a row does not depend on the rows beside it: not on their number, nor on where a prompt is cut. Every sum
//! runs over its terms in one order (`sums`, `dots`), and the softmax adds by position. So a sequence in a batch, in pieces, or
//! after a draft was taken back gives the same bits as alone, at once, and without.

mod attend;
mod attention;
mod dots;
mod forms;
mod half;
mod layer;
mod memory;
mod mlp;
mod pages;
mod panel_memory;
mod panel_weight;
mod project;
mod rows;
mod sums;

use std::sync::{Arc, Mutex};

use burn::tensor::Tensor;

pub use mlp::inference_mlp;
pub use pages::{KvFormat, Pages};
pub use panel_weight::PanelWeight;
pub(crate) use panel_weight::PanelWeights;
pub use project::{linear, linear_transposed};

use super::attention::AttentionSettings;
use super::{Linear, Norm, reference, runs_fused};

/// The inputs of [`cached_attention`].
#[derive(Debug, Clone)]
pub struct CachedAttentionInputs {
    /// Norm of the input, where there is one before the attention.
    pub norm: Option<Norm>,
    /// `[hidden, heads · head_dim]`
    pub query: Linear,
    /// `[hidden, kv_heads · head_dim]`
    pub key: Linear,
    /// `[hidden, kv_heads · head_dim]`
    pub value: Linear,
    /// `[heads · head_dim, hidden]`
    pub output: Linear,
    /// Norm of the queries, of one head (`[head_dim]`) or of all (`[heads · head_dim]`).
    pub query_norm: Option<Norm>,
    /// Norm of the keys, of one head (`[head_dim]`) or of all (`[kv_heads · head_dim]`).
    pub key_norm: Option<Norm>,
    /// Cosines and sines of each row's position, `[rows, rotary_dim / 2]`.
    pub rotation: (Tensor<2>, Tensor<2>),
}

/// What the operation does besides its inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CachedAttentionSettings {
    /// The attention.
    pub attention: AttentionSettings,
    /// Whether the input is added to the output.
    pub residual: bool,
}

/// One sequence's part of the rows of [`cached_attention`].
#[derive(Debug)]
pub struct CachedSequence<'a> {
    /// Its new tokens: as many rows.
    pub tokens: usize,
    /// Tokens before them.
    pub start: usize,
    /// Keys and values of at least the tokens before; those of the new ones are added.
    pub cache: CacheMut<'a>,
}

/// Where one layer's keys and values of a sequence are.
#[derive(Debug)]
pub enum CacheMut<'a> {
    /// In memory of the CPU, as the operation takes them.
    Pages(&'a Arc<Mutex<Pages>>),
    /// In two tensors of `[1, kv_heads, capacity, head_dim]`, on any device, which have room for the new tokens.
    Tensors {
        /// The keys, rotated.
        keys: &'a mut Tensor<4>,
        /// The values.
        values: &'a mut Tensor<4>,
    },
}

/// `x + output(attention(query(norm(x)), key(norm(x)), value(norm(x))))`, with rotated queries and keys: each row attends to
/// itself, the rows before it in its sequence, and what is in the sequence's cache.
///
/// On the CPU, where all caches are [`Pages`], one operation; elsewhere [`reference::cached_attention`].
///
/// # Shapes
/// - `x`: `[rows, hidden]`, the new tokens of one sequence after the other
/// - output: as `x`
///
/// # Panics
/// When the sequences have another number of rows, a cache is of other heads, or some are pages where the operation does not run.
pub fn cached_attention(
    x: Tensor<2>,
    inputs: CachedAttentionInputs,
    sequences: Vec<CachedSequence<'_>>,
    settings: CachedAttentionSettings,
) -> Tensor<2> {
    let layers = [&inputs.query, &inputs.key, &inputs.value, &inputs.output];
    let fused = runs_fused(&x) && layers.into_iter().all(|layer| layer.weight.runs_cached());
    let parts = sequences.iter().map(|sequence| match &sequence.cache {
        CacheMut::Pages(pages) if fused => Some(attention::Part {
            tokens: sequence.tokens,
            start: sequence.start,
            pages: Arc::clone(pages),
        }),
        _ => None,
    });
    match parts.collect::<Option<Vec<_>>>() {
        Some(parts) => attention::run(x, inputs, parts, settings),
        None => reference::cached_attention(x, inputs, sequences, settings),
    }
}
