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

use super::flex::{PIECE, copied, tensor, with_slice};
use super::math::{sum2, vectorized};
use super::panels::{WIDTH, copy_rows};
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

/// A norm as a larger operation takes it.
#[derive(Debug, Clone)]
pub struct Norm {
    /// `[hidden]`
    pub weight: Tensor<1>,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl Norm {
    /// Weight and epsilon, for an operation that takes them apart.
    pub(super) fn into_parts(norm: Option<Self>) -> (Option<Tensor<1>>, f32) {
        match norm {
            Some(Self { weight, epsilon }) => (Some(weight), epsilon as f32),
            None => (None, 0.0),
        }
    }
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

/// `1 / sqrt(mean(x²) + epsilon)`
#[inline(always)]
pub(super) fn inverse_root(row: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum2(row, row, |a, b| a * b) / row.len() as f32 + epsilon).sqrt()
}

fn forward(x: &FloatTensor<Flex>, weight: &FloatTensor<Flex>, epsilon: f32) -> FloatTensor<Flex> {
    let out = with_slice(x, |x| {
        with_slice(weight, |weight| {
            let mut out = vec![0.0; x.len()];
            forward_rows(x, weight, epsilon, &mut out);
            out
        })
    });
    tensor(out, x.shape())
}

/// The norm of each row of `x`, which are as wide as `weight`.
pub(super) fn forward_rows(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = weight.len();
    let piece = (rows_per_piece(width) * width).max(1);
    out.par_chunks_mut(piece)
        .zip(x.par_chunks(piece))
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
}

/// The norm of rows as a block of panels, or the rows themselves.
pub(super) fn forward_panels(x: &[f32], width: usize, norm: Option<(&[f32], f32)>, block: &mut [f32]) {
    copy_rows(x, width, block);
    let Some((weight, epsilon)) = norm else {
        return;
    };
    vectorized!((
        block: &'a mut [f32], x: &'a [f32], weight: &'a [f32], width: usize, epsilon: f32
    ) -> () {
        let rows = x.len() / width.max(1);
        for (row, x) in x.chunks_exact(width.max(1)).enumerate() {
            let r = inverse_root(x, epsilon);
            for (panel, weight) in weight.chunks(WIDTH).enumerate() {
                let out = &mut block[(panel * rows + row) * WIDTH..][..weight.len()];
                for (out, &weight) in out.iter_mut().zip(weight) {
                    *out = *out * r * weight;
                }
            }
        }
    });
}

/// Gradients of input and weight.
fn backward(
    x: &FloatTensor<Flex>,
    weight: &FloatTensor<Flex>,
    dy: &FloatTensor<Flex>,
    epsilon: f32,
) -> (FloatTensor<Flex>, FloatTensor<Flex>) {
    let (dx, dw) = with_slice(x, |x| {
        with_slice(weight, |weight| {
            with_slice(dy, |dy| {
                let mut dx = vec![0.0; x.len()];
                let dw = backward_rows(x, weight, epsilon, dy, &mut dx);
                (dx, dw)
            })
        })
    });
    (tensor(dx, x.shape()), tensor(dw, weight.shape()))
}

/// Adds the gradient of the rows to `dx` and returns that of the weight.
///
/// With `r = 1/sqrt(mean(x²) + ε)`: `dx += r·w·dy − x·r³·mean(dy·w·x)` and `dw = Σ_rows dy·x·r`.
pub(super) fn backward_rows(x: &[f32], weight: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32]) -> Vec<f32> {
    let width = weight.len();
    let piece = (rows_per_piece(width) * width).max(1);
    let partial: Vec<Vec<f32>> = (
        dx.par_chunks_mut(piece),
        x.par_chunks(piece),
        dy.par_chunks(piece),
    )
        .into_par_iter()
        .map(|(dx, x, dy)| {
            let (mut dw, mut scaled) = (vec![0.0; width], vec![0.0; width]);
            let (sums, scaled) = (dw.as_mut_slice(), scaled.as_mut_slice());
            vectorized!((
                x: &'a [f32], dy: &'a [f32], dx: &'a mut [f32], sums: &'a mut [f32], scaled: &'a mut [f32],
                weight: &'a [f32], width: usize, epsilon: f32
            ) -> () {
                let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
                for ((x, dy), dx) in rows {
                    let r = inverse_root(x, epsilon);
                    for i in 0..width {
                        sums[i] += dy[i] * x[i] * r;
                        scaled[i] = dy[i] * weight[i];
                    }
                    let slope = r * r * r * sum2(scaled, x, |a, b| a * b) / width as f32;
                    for i in 0..width {
                        dx[i] += scaled[i] * r - x[i] * slope;
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
    dw
}

/// Gradients of `x` and of the norm's weight in an operation on `norm(x)`, to whose output `x` may be added.
///
/// `gradient` is that of `norm(x)`, and `residual` that of the output when `x` is added to it.
pub(super) fn input_gradients(
    x: &[f32],
    norm: Option<(&[f32], f32)>,
    gradient: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> [Option<Vec<f32>>; 2] {
    let Some(gradient) = gradient else {
        return [None, None];
    };
    let mut dx = residual.map_or_else(|| vec![0.0; x.len()], copied);
    match norm {
        Some((weight, epsilon)) => {
            let dw = backward_rows(x, weight, epsilon, gradient, &mut dx);
            [Some(dx), Some(dw)]
        }
        None => {
            dx.iter_mut()
                .zip(gradient)
                .for_each(|(dx, gradient)| *dx += gradient);
            [Some(dx), None]
        }
    }
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
