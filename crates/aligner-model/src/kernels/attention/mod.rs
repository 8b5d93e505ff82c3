//! Causal self-attention with rotary positions in one operation, forward and backward.
//!
//! Scores exist for a block of queries of one head at a time, never for the whole sequence: memory grows with its length and
//! not with the square. The backward pass computes them again instead of keeping them, as FlashAttention does (Dao et al.
//! 2022, arXiv 2205.14135).

mod backward;
mod forward;
mod inputs;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use self::backward::backward;
use self::forward::forward;
use self::inputs::Angles;
use super::{reference, runs_fused};

/// How the width of queries, keys and values is cut into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, each shared by `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
}

/// What an attention layer does besides its shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSettings {
    /// The heads.
    pub heads: Heads,
    /// What scores are multiplied by: usually `head_dim^-½`.
    pub scale: f64,
    /// Tokens that a token sees, itself included; all before it when absent.
    pub window: Option<usize>,
    /// `cap · tanh(score / cap)` of every score; not fused.
    pub softcap: Option<f64>,
}

/// `softmax(scale · rotate(q) rotate(k)ᵀ) v`, each token attending to itself and the tokens before it.
///
/// # Shapes
/// - `query`: `[batch, tokens, heads · head_dim]`
/// - `key`, `value`: `[batch, tokens, kv_heads · head_dim]`
/// - `cos`, `sin`: `[tokens, rotary_dim / 2]`, of which no gradient is taken; the dimensions behind `rotary_dim` stay
/// - output: as `query`
pub fn causal_attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    (cos, sin): (Tensor<2>, Tensor<2>),
    settings: AttentionSettings,
) -> Tensor<3> {
    if settings.softcap.is_some() || ![&query, &key, &value].into_iter().all(runs_fused) {
        return reference::causal_attention(query, key, value, (cos, sin), settings);
    }
    let out = <Dispatch as AttentionOps>::causal_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        settings,
    );
    Tensor::from_dispatch(out)
}

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait AttentionOps: Backend {
    /// See [`causal_attention`].
    fn causal_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        settings: AttentionSettings,
    ) -> FloatTensor<Self>;
}

impl AttentionOps for Flex {
    fn causal_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        settings: AttentionSettings,
    ) -> FloatTensor<Self> {
        forward(&query, &key, &value, &Angles { cos, sin }, settings)
    }
}

#[derive(Debug)]
struct AttentionBackward;

impl Backward<Flex, 3> for AttentionBackward {
    type State = ([NodeId; 3], Angles, AttentionSettings);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let (nodes, angles, settings) = ops.state;
        let [query, key, value]: [FloatTensor<Flex>; 3] =
            nodes.map(|node| checkpointer.retrieve_node_output(node));
        let gradients = backward(&query, &key, &value, (&angles, settings), &dy);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> AttentionOps for Autodiff<Flex, C> {
    fn causal_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        settings: AttentionSettings,
    ) -> FloatTensor<Self> {
        let angles = Angles {
            cos: cos.into_primitive(),
            sin: sin.into_primitive(),
        };
        let run =
            |query: FloatTensor<Self>, key: FloatTensor<Self>, value: FloatTensor<Self>, angles: &Angles| {
                forward(
                    &query.into_primitive(),
                    &key.into_primitive(),
                    &value.into_primitive(),
                    angles,
                    settings,
                )
            };
        match AttentionBackward
            .prepare::<C>([query.node(), key.node(), value.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&query, &key, &value].map(|tensor| prep.checkpoint(tensor));
                let out = run(query, key, value, &angles);
                prep.finish((nodes, angles, settings), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(run(query, key, value, &angles)),
        }
    }
}
