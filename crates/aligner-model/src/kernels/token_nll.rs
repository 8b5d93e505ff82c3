//! Output projection and cross-entropy in one operation.
//!
//! Logits exist for a few hundred tokens at a time, and become their own gradients where they stand: neither all logits nor
//! their softmax are ever kept. The gradients are computed in the forward pass, while the logits are there, and only scaled in
//! the backward pass, as the loss is a sum of which each term depends on one row alone.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;
use rayon::prelude::*;
use std::sync::Arc;

use super::buffers::Buffer;
use super::flex::{PIECE, contiguous, elements, tensor};
use super::math::{exp, sum2, vectorized};
use super::matmul::{Matrix, Update, product};
use super::{reference, runs_fused};

/// Logits that exist at once: 32 MiB of them.
const LOGITS: usize = 1 << 23;

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
pub fn token_nll(rows: Tensor<2>, weight: Tensor<2>, layout: HeadLayout, ids: &[u32]) -> Tensor<1> {
    if !runs_fused(&rows) || !runs_fused(&weight) {
        return reference::token_nll(rows, weight, layout, ids);
    }
    let plan = (layout, Arc::from(ids));
    let out = <Dispatch as TokenNllOps>::token_nll(rows.into_dispatch(), weight.into_dispatch(), plan);
    Tensor::from_dispatch(out)
}

/// Layout and ids.
type Plan = (HeadLayout, Arc<[u32]>);

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

/// Gradients of rows and weight for a gradient of 1 of the loss.
type HeadGradients = [Option<Vec<f32>>; 2];

/// The loss, and the gradients that are `wanted`.
fn loss(
    rows: &FloatTensor<Flex>,
    weight: &FloatTensor<Flex>,
    (layout, ids): &Plan,
    wanted: [bool; 2],
) -> (FloatTensor<Flex>, HeadGradients) {
    let shape = weight.shape();
    let (vocab, hidden) = match layout {
        HeadLayout::ByToken => (shape[0], shape[1]),
        HeadLayout::ByInput => (shape[1], shape[0]),
    };
    assert!(
        ids.iter().all(|&id| (id as usize) < vocab),
        "an id beyond the vocabulary"
    );
    let rows = elements(Some(rows)).unwrap_or_default();
    assert_eq!(rows.len(), ids.len() * hidden, "a row for each id");
    let weight = elements(Some(weight)).unwrap_or_default();
    // [hidden, vocab], whichever way it lies.
    let head = match layout {
        HeadLayout::ByToken => Matrix::new(weight, vocab, hidden, hidden).transposed(),
        HeadLayout::ByInput => Matrix::new(weight, hidden, vocab, vocab),
    };
    let mut d_rows = wanted[0].then(|| vec![0.0; rows.len()]);
    let mut d_weight = wanted[1].then(|| vec![0.0; weight.len()]);
    let chunk = (LOGITS / vocab.max(1)).max(1);
    let mut total = 0.0f64;
    // One for all chunks: the last one's would be of another size at every step, and each would be kept.
    let mut buffer = Buffer::take(chunk.min(ids.len()) * vocab);
    for (index, ids) in ids.chunks(chunk).enumerate() {
        let first = index * chunk * hidden;
        let part = Matrix::new(&rows[first..][..ids.len() * hidden], ids.len(), hidden, hidden);
        let logits = &mut buffer[..ids.len() * vocab];
        product(logits, part, head, Update::Set);
        total += softmax_rows(logits, vocab, ids);
        let gradient = Matrix::new(logits, ids.len(), vocab, vocab);
        if let Some(d_rows) = &mut d_rows {
            let out = &mut d_rows[first..][..ids.len() * hidden];
            product(out, gradient, head.transposed(), Update::Set);
        }
        if let Some(d_weight) = &mut d_weight {
            match layout {
                HeadLayout::ByToken => product(d_weight, gradient.transposed(), part, Update::Add(1.0)),
                HeadLayout::ByInput => product(d_weight, part.transposed(), gradient, Update::Add(1.0)),
            }
        }
    }
    (tensor(vec![total as f32], [1].into()), [d_rows, d_weight])
}

/// Turns each row of logits into the gradient of its loss, `softmax − one_hot(id)`; returns the sum of the losses.
fn softmax_rows(logits: &mut [f32], vocab: usize, ids: &[u32]) -> f64 {
    let losses: Vec<f64> = logits
        .par_chunks_mut(vocab.max(1))
        .zip(ids)
        .map(|(row, &id)| {
            let target = row[id as usize];
            let (highest, sum) = vectorized!((row: &'a mut [f32]) -> (f32, f32) {
                let highest = super::math::maximum(row);
                for x in row.iter_mut() {
                    *x = exp(*x - highest);
                }
                let sum = sum2(row, row, |x, _| x);
                let inverse = 1.0 / sum;
                for x in row.iter_mut() {
                    *x *= inverse;
                }
                (highest, sum)
            });
            row[id as usize] -= 1.0;
            f64::from(sum).ln() + f64::from(highest) - f64::from(target)
        })
        .collect();
    losses.iter().sum()
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
