//! Output projection and cross-entropy in one operation.
//!
//! Logits exist for a few hundred tokens at a time, and become their own gradients where they stand: neither all logits nor
//! their softmax are ever kept. The gradients are computed in the forward pass, while the logits are there, and only scaled in
//! the backward pass, as the loss is a sum of which each term depends on one row alone.

mod loss;
mod softmax;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;
use rayon::prelude::*;
use std::sync::Arc;

use self::loss::{HeadGradients, loss};
use super::flex::{PIECE, contiguous, elements, tensor};
use super::{Precision, reference, runs_fused};

/// How the matrix of an output projection lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadLayout {
    /// `[vocab, hidden]`, as a token embedding is.
    ByToken,
    /// `[hidden, vocab]`, as a linear layer is.
    ByInput,
}

/// Sum of `−log softmax(rows · weight)[id]` over all rows, in nats.
///
/// # Shapes
/// - `rows`: `[targets, hidden]`; `ids`: a token for each row
/// - `weight`: `[vocab, hidden]` or `[hidden, vocab]`, as `layout` says
/// - output: `[1]`
///
/// # Panics
/// When an id is not below `vocab`: the caller checks its ids against the model.
pub fn token_nll(
    rows: Tensor<2>,
    weight: Tensor<2>,
    layout: HeadLayout,
    ids: &[u32],
    precision: Precision,
) -> Tensor<1> {
    if !runs_fused(&rows) || !runs_fused(&weight) {
        return reference::token_nll(rows, weight, layout, ids);
    }
    let plan = (layout, Arc::from(ids), precision);
    let out = <Dispatch as TokenNllOps>::token_nll(rows.into_dispatch(), weight.into_dispatch(), plan);
    Tensor::from_dispatch(out)
}

/// Layout, ids, and what the factors of products are rounded to.
type Plan = (HeadLayout, Arc<[u32]>, Precision);

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait TokenNllOps: Backend {
    /// See [`token_nll`].
    fn token_nll(rows: FloatTensor<Self>, weight: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self>;
}

impl TokenNllOps for Flex {
    fn token_nll(rows: FloatTensor<Self>, weight: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self> {
        loss(&contiguous(rows), &contiguous(weight), &plan, [false; 2]).0
    }
}

#[derive(Debug)]
struct TokenNllBackward;

impl Backward<Flex, 2> for TokenNllBackward {
    type State = (HeadGradients, [burn::tensor::Shape; 2]);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let factor = elements(Some(&dy))
            .and_then(|dy| dy.first().copied())
            .unwrap_or(0.0);
        let (gradients, shapes) = ops.state;
        for ((parent, gradient), shape) in ops.parents.into_iter().zip(gradients).zip(shapes) {
            if let (Some(node), Some(mut gradient)) = (parent, gradient) {
                gradient.par_chunks_mut(PIECE).for_each(|gradient| {
                    gradient.iter_mut().for_each(|gradient| *gradient *= factor);
                });
                grads.register::<Flex>(node.id, tensor(gradient, shape));
            }
        }
    }
}

impl<C: CheckpointStrategy> TokenNllOps for Autodiff<Flex, C> {
    fn token_nll(rows: FloatTensor<Self>, weight: FloatTensor<Self>, plan: Plan) -> FloatTensor<Self> {
        let wanted = [rows.is_tracked(), weight.is_tracked()];
        let guards = [rows.node(), weight.node()];
        let (rows, weight) = (
            contiguous(rows.into_primitive()),
            contiguous(weight.into_primitive()),
        );
        match TokenNllBackward.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (out, gradients) = loss(&rows, &weight, &plan, wanted);
                prep.finish((gradients, [rows.shape(), weight.shape()]), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(loss(&rows, &weight, &plan, [false; 2]).0),
        }
    }
}
