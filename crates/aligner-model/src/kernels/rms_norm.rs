//! RMS normalisation in one pass, forward and backward.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::{PIECE, tensor, width, with_slice};
use super::math::{sum2, vectorized};
use super::{reference, runs_fused};

/// `x / sqrt(mean(x²) + epsilon) · weight` over the last dimension.
///
/// Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4.
///
/// # Shapes
/// - `x`: `[..., width]`, `weight`: `[width]`
/// - output: as `x`
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    if !runs_fused(&x) || !runs_fused(&weight) {
        return reference::rms_norm(x, weight, epsilon);
    }
    let out = <Dispatch as RmsNormOps>::rms_norm(x.into_dispatch(), weight.into_dispatch(), epsilon as f32);
    Tensor::from_dispatch(out)
}

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait RmsNormOps: Backend {
    /// See [`rms_norm`].
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
}

impl RmsNormOps for Flex {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        forward(&x, &weight, epsilon)
    }
}

/// Rows that one unit of parallel work takes.
fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

#[inline(always)]
fn inverse_root(row: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum2(row, row, |a, b| a * b) / row.len() as f32 + epsilon).sqrt()
}

fn forward(x: &FloatTensor<Flex>, weight: &FloatTensor<Flex>, epsilon: f32) -> FloatTensor<Flex> {
    let (shape, width) = (x.shape(), width(x));
    let out = with_slice(x, |x| {
        with_slice(weight, |weight| {
            let mut out = vec![0.0; x.len()];
            let piece = rows_per_piece(width) * width;
            out.par_chunks_mut(piece.max(1))
                .zip(x.par_chunks(piece.max(1)))
                .for_each(|(out, x)| {
                    vectorized!((
                        out: &'a mut [f32], x: &'a [f32], weight: &'a [f32], width: usize, epsilon: f32
                    ) -> () {
                        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                            let r = inverse_root(x, epsilon);
                            for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                                *out = x * r * weight;
                            }
                        }
                    });
                });
            out
        })
    });
    tensor(out, shape)
}

/// Gradients of input and weight.
///
/// With `r = 1/sqrt(mean(x²) + ε)`: `dx = r·w·dy − x·r³·mean(dy·w·x)` and `dw = Σ_rows dy·x·r`.
fn backward(
    x: &FloatTensor<Flex>,
    weight: &FloatTensor<Flex>,
    dy: &FloatTensor<Flex>,
    epsilon: f32,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let (shape, weight_shape, width) = (x.shape(), weight.shape(), width(x));
    let (dx, dw) = with_slice(x, |x| {
        with_slice(weight, |weight| {
            with_slice(dy, |dy| backward_slices(x, weight, dy, epsilon, width))
        })
    });
    (tensor(dx, shape), tensor(dw, weight_shape))
}

fn backward_slices(
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    epsilon: f32,
    width: usize,
) -> (Vec<f32>, Vec<f32>) {
    let mut dx = vec![0.0; x.len()];
    let piece = (rows_per_piece(width) * width).max(1);
    let partial: Vec<Vec<f32>> = (
        dx.par_chunks_mut(piece),
        x.par_chunks(piece),
        dy.par_chunks(piece),
    )
        .into_par_iter()
        .map(|(dx, x, dy)| {
            let mut dw = vec![0.0; width];
            let sums = dw.as_mut_slice();
            vectorized!((
                x: &'a [f32], dy: &'a [f32], dx: &'a mut [f32], sums: &'a mut [f32], weight: &'a [f32],
                width: usize, epsilon: f32
            ) -> () {
                let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
                for ((x, dy), dx) in rows {
                    let r = inverse_root(x, epsilon);
                    for i in 0..width {
                        sums[i] += dy[i] * x[i] * r;
                        // The product is parked in dx, which is overwritten below.
                        dx[i] = dy[i] * weight[i];
                    }
                    let slope = r * r * r * sum2(dx, x, |a, b| a * b) / width as f32;
                    for (dx, &x) in dx.iter_mut().zip(x) {
                        *dx = *dx * r - x * slope;
                    }
                }
            });
            dw
        })
        .collect();
    let mut dw = vec![0.0; width];
    for part in &partial {
        dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    (dx, dw)
}

#[derive(Debug)]
struct RmsNormBackward;

impl Backward<Flex, 2> for RmsNormBackward {
    type State = (NodeId, NodeId, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let dy = grads.consume::<Flex>(&ops.node);
        let (x, weight, epsilon) = ops.state;
        let x: FloatTensor<Flex> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<Flex> = checkpointer.retrieve_node_output(weight);
        let (dx, dw) = backward(&x, &weight, &dy, epsilon);
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, dx);
        }
        if let Some(node) = weight_node {
            grads.register::<Flex>(node.id, dw);
        }
    }
}

impl<C: CheckpointStrategy> RmsNormOps for Autodiff<Flex, C> {
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        match RmsNormBackward
            .prepare::<C>([x.node(), weight.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&weight), epsilon);
                let out = forward(&x.into_primitive(), &weight.into_primitive(), epsilon);
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(forward(&x.into_primitive(), &weight.into_primitive(), epsilon))
            }
        }
    }
}
