//! Token embedding whose gradient is added where one stands already.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::{Int, Tensor};

use super::flex::{contiguous, elements, tensor, unique, with_slice};
use super::{reference, runs_fused};

/// Rows of `weight`, one for each id.
///
/// Burn's own operation makes a gradient as large as the embedding for each use; where the embedding is the output
/// projection as well, that is once more what is there already, all of it zero but for a batch's tokens. Here the rows are
/// added to what is there.
///
/// # Shapes
/// - `weight`: `[vocab, hidden]`, `ids`: `[tokens]`
/// - output: `[tokens, hidden]`
///
/// # Panics
/// When an id is not below `vocab`: the caller checks its ids against the model.
pub fn embedding(weight: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    if !runs_fused(&weight) {
        return reference::embedding(weight, ids);
    }
    let ids: Arc<[i64]> = ids.into_data().iter::<i64>().collect();
    Tensor::from_dispatch(<Dispatch as EmbeddingOps>::embedding(weight.into_dispatch(), ids))
}

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait EmbeddingOps: Backend {
    /// See [`embedding`].
    fn embedding(weight: FloatTensor<Self>, ids: Arc<[i64]>) -> FloatTensor<Self>;
}

/// Where a row lies.
fn row(id: i64, width: usize) -> std::ops::Range<usize> {
    let first = id as usize * width;
    first..first + width
}

impl EmbeddingOps for Flex {
    fn embedding(weight: FloatTensor<Self>, ids: Arc<[i64]>) -> FloatTensor<Self> {
        let width = weight.shape()[1];
        let rows = with_slice(&weight, |weight| {
            let mut rows = Vec::with_capacity(ids.len() * width);
            for &id in ids.iter() {
                rows.extend_from_slice(&weight[row(id, width)]);
            }
            rows
        });
        tensor(rows, [ids.len(), width].into())
    }
}

#[derive(Debug)]
struct EmbeddingBackward;

impl Backward<Flex, 1> for EmbeddingBackward {
    /// The weight, for its place among the gradients, and the ids.
    type State = (FloatTensor<Autodiff<Flex>>, Arc<[i64]>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [Some(parent)] = ops.parents else {
            return;
        };
        let (weight, ids) = ops.state;
        let shape = weight.shape();
        let width = shape[1];
        let mut gradient = match grads.remove::<Flex>(&weight) {
            Some(gradient) => unique(gradient),
            None => tensor(vec![0.0; shape.num_elements()], shape),
        };
        let values = gradient.storage_mut::<f32>();
        let rows = elements(Some(&dy)).unwrap_or_default().chunks_exact(width.max(1));
        for (&id, dy) in ids.iter().zip(rows) {
            let sums = values[row(id, width)].iter_mut();
            sums.zip(dy).for_each(|(sum, dy)| *sum += dy);
        }
        grads.register::<Flex>(parent.id, gradient);
    }
}

impl<C: CheckpointStrategy> EmbeddingOps for Autodiff<Flex, C> {
    fn embedding(weight: FloatTensor<Self>, ids: Arc<[i64]>) -> FloatTensor<Self> {
        match EmbeddingBackward
            .prepare::<C>([weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let out = Flex::embedding(weight.clone().into_primitive(), ids.clone());
                prep.finish((weight, ids), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::embedding(weight.into_primitive(), ids)),
        }
    }
}
