//! Causal self-attention with rotary positions in one operation, forward and backward.
//!
//! Scores exist for a block of queries of one head at a time, never for the whole sequence: memory grows with its length and
//! not with the square. The backward pass computes them again instead of keeping them, as FlashAttention does (Dao et al.
//! 2022, arXiv 2205.14135).

mod backward;
mod block;
mod forward;
mod head;
mod inputs;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;

pub(super) use self::backward::{Given, backward};
pub(super) use self::forward::forward;
pub(super) use self::inputs::{Angles, Note, Work};
use super::flex::{contiguous, elements, tensor};
use super::panels::Form;
use super::sequences::Sequences;
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

/// `softmax(scale · rotate(q) rotate(k)ᵀ) v`, each token attending to itself and the tokens before it in its sequence.
///
/// # Shapes
/// - `query`: `[tokens, heads · head_dim]`
/// - `key`, `value`: `[tokens, kv_heads · head_dim]`
/// - `cos`, `sin`: `[longest, rotary_dim / 2]`, of which no gradient is taken, for the positions of the longest sequence; the
///   dimensions behind `rotary_dim` stay
/// - output: as `query`
pub fn causal_attention(
    query: Tensor<2>,
    key: Tensor<2>,
    value: Tensor<2>,
    (cos, sin): (Tensor<2>, Tensor<2>),
    sequences: &Sequences,
    settings: AttentionSettings,
) -> Tensor<2> {
    if settings.softcap.is_some() || ![&query, &key, &value].into_iter().all(runs_fused) {
        return reference::causal_attention(query, key, value, (cos, sin), sequences, settings);
    }
    let out = <Dispatch as AttentionOps>::causal_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        (sequences.clone(), settings),
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
        plan: (Sequences, AttentionSettings),
    ) -> FloatTensor<Self>;
}

impl AttentionOps for Flex {
    fn causal_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        plan: (Sequences, AttentionSettings),
    ) -> FloatTensor<Self> {
        let inputs = [query, key, value].map(contiguous);
        output(&inputs, &Angles::new(cos, sin), &plan).0
    }
}

fn work<'a>(
    inputs: &'a [FloatTensor<Flex>; 3],
    angles: &'a Angles,
    (sequences, settings): &'a (Sequences, AttentionSettings),
) -> Work<'a> {
    let [query, key, value] = inputs
        .each_ref()
        .map(|input| elements(Some(input)).unwrap_or_default());
    Work {
        query,
        key,
        value,
        angles: angles.elements(),
        sequences,
        settings: *settings,
        form: Form::F32,
    }
}

fn output(
    inputs: &[FloatTensor<Flex>; 3],
    angles: &Angles,
    plan: &(Sequences, AttentionSettings),
) -> (FloatTensor<Flex>, Vec<Note>) {
    let work = work(inputs, angles, plan);
    let (mut out, mut notes) = (vec![0.0; work.query.len()], vec![Note::default(); work.notes()]);
    forward(&work, &mut out, &mut notes);
    (tensor(out, inputs[0].shape()), notes)
}

#[derive(Debug)]
struct AttentionBackward;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    inputs: [NodeId; 3],
    angles: Angles,
    out: FloatTensor<Flex>,
    notes: Vec<Note>,
    plan: (Sequences, AttentionSettings),
}

impl Backward<Flex, 3> for AttentionBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let State {
            inputs,
            angles,
            out,
            notes,
            plan,
        } = ops.state;
        let inputs: [FloatTensor<Flex>; 3] =
            inputs.map(|node| contiguous(checkpointer.retrieve_node_output(node)));
        let work = work(&inputs, &angles, &plan);
        let mut gradients = [work.query, work.key, work.value].map(|input| vec![0.0; input.len()]);
        let [dq, dk, dv] = &mut gradients;
        let given = Given {
            out: elements(Some(&out)).unwrap_or_default(),
            notes: &notes,
            dy: elements(Some(&dy)).unwrap_or_default(),
        };
        backward(&work, given, [dq, dk, dv]);
        let shapes = inputs.map(|input| input.shape());
        for ((parent, gradient), shape) in ops.parents.into_iter().zip(gradients).zip(shapes) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, tensor(gradient, shape));
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
        plan: (Sequences, AttentionSettings),
    ) -> FloatTensor<Self> {
        let angles = Angles::new(cos.into_primitive(), sin.into_primitive());
        let run = |inputs: [FloatTensor<Self>; 3], angles: &Angles| {
            output(
                &inputs.map(|input| contiguous(input.into_primitive())),
                angles,
                &plan,
            )
        };
        match AttentionBackward
            .prepare::<C>([query.node(), key.node(), value.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&query, &key, &value].map(|tensor| prep.checkpoint(tensor));
                let (out, notes) = run([query, key, value], &angles);
                let state = State {
                    inputs: nodes,
                    angles,
                    out: out.clone(),
                    notes,
                    plan: plan.clone(),
                };
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(run([query, key, value], &angles).0),
        }
    }
}
