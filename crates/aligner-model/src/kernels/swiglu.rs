//! The gate of the MLP in one pass, forward and backward.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::{PIECE, tensor, with_slice};
use super::math::{sigmoid, vectorized};
use super::{reference, runs_fused};

/// `silu(gate) · up`, element by element (Shazeer 2020, arXiv 2002.05202).
///
/// # Shapes
/// - `gate`, `up`, output: the same, any
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    if !runs_fused(&gate) || !runs_fused(&up) {
        return reference::swiglu(gate, up);
    }
    Tensor::from_dispatch(<Dispatch as SwigluOps>::swiglu(
        gate.into_dispatch(),
        up.into_dispatch(),
    ))
}

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait SwigluOps: Backend {
    /// See [`swiglu`].
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl SwigluOps for Flex {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        forward(&gate, &up)
    }
}

fn forward(gate: &FloatTensor<Flex>, up: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    let shape = gate.shape();
    let out = with_slice(gate, |gate| {
        with_slice(up, |up| {
            let mut out = vec![0.0; gate.len()];
            (
                out.par_chunks_mut(PIECE),
                gate.par_chunks(PIECE),
                up.par_chunks(PIECE),
            )
                .into_par_iter()
                .for_each(|(out, gate, up)| {
                    vectorized!((out: &'a mut [f32], gate: &'a [f32], up: &'a [f32]) -> () {
                        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                            *out = gate * sigmoid(gate) * up;
                        }
                    });
                });
            out
        })
    });
    tensor(out, shape)
}

/// With `s = sigmoid(gate)`: `dgate = dy·up·s·(1 + gate·(1 − s))` and `dup = dy·gate·s`.
fn backward(
    gate: &FloatTensor<Flex>,
    up: &FloatTensor<Flex>,
    dy: &FloatTensor<Flex>,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let shape = gate.shape();
    let (dgate, dup) = with_slice(gate, |gate| {
        with_slice(up, |up| with_slice(dy, |dy| backward_slices(gate, up, dy)))
    });
    (tensor(dgate, shape.clone()), tensor(dup, shape))
}

fn backward_slices(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    let outputs = dgate.par_chunks_mut(PIECE).zip(dup.par_chunks_mut(PIECE));
    let inputs = (gate.par_chunks(PIECE), up.par_chunks(PIECE), dy.par_chunks(PIECE)).into_par_iter();
    outputs.zip(inputs).for_each(|((dgate, dup), (gate, up, dy))| {
        vectorized!((
            dgate: &'a mut [f32], dup: &'a mut [f32], gate: &'a [f32], up: &'a [f32], dy: &'a [f32]
        ) -> () {
            for i in 0..gate.len() {
                let s = sigmoid(gate[i]);
                dgate[i] = dy[i] * up[i] * s * (1.0 + gate[i] * (1.0 - s));
                dup[i] = dy[i] * gate[i] * s;
            }
        });
    });
    (dgate, dup)
}

#[derive(Debug)]
struct SwigluBackward;

impl Backward<Flex, 2> for SwigluBackward {
    type State = (NodeId, NodeId);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [gate_node, up_node] = ops.parents;
        let dy = grads.consume::<Flex>(&ops.node);
        let gate: FloatTensor<Flex> = checkpointer.retrieve_node_output(ops.state.0);
        let up: FloatTensor<Flex> = checkpointer.retrieve_node_output(ops.state.1);
        let (dgate, dup) = backward(&gate, &up, &dy);
        if let Some(node) = gate_node {
            grads.register::<Flex>(node.id, dgate);
        }
        if let Some(node) = up_node {
            grads.register::<Flex>(node.id, dup);
        }
    }
}

impl<C: CheckpointStrategy> SwigluOps for Autodiff<Flex, C> {
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match SwigluBackward
            .prepare::<C>([gate.node(), up.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&gate), prep.checkpoint(&up));
                prep.finish(state, forward(&gate.into_primitive(), &up.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(forward(&gate.into_primitive(), &up.into_primitive())),
        }
    }
}
