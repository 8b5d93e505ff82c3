//! A linear layer over a weight in eight bits, as an operation of its own.
//!
//! For models whose halves of a layer do not run as one operation, and for decoding.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;

use super::{BLOCK, Int8Weight, rows_of_a_piece};
use crate::kernels::flex::{contiguous, elements, tensor};
use crate::kernels::linear::{Weights, input_gradient};
use crate::kernels::math::vectorized;
use crate::kernels::panels::{Grid, Panels};
use crate::kernels::runs_fused;

/// Rows up to which the weight is read as it is stored.
const MOST_ROWS: usize = 4;

/// `x · weight + bias`; there is a gradient of `x` and of `bias`, and none of the weight.
///
/// # Shapes
/// - `x`: `[rows, input]`, `bias`: `[output]`
/// - output: `[rows, output]`
pub fn int8_linear(x: Tensor<2>, weight: &Int8Weight, bias: Option<Tensor<1>>) -> Tensor<2> {
    let out = if runs_fused(&x) {
        Tensor::from_dispatch(<Dispatch as Int8LinearOps>::int8_linear(
            x.into_dispatch(),
            weight.clone(),
        ))
    } else {
        let weight = weight.tensor(&x.device());
        x.matmul(weight)
    };
    match bias {
        Some(bias) => out + bias.unsqueeze(),
        None => out,
    }
}

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait Int8LinearOps: Backend {
    /// See [`int8_linear`].
    fn int8_linear(x: FloatTensor<Self>, weight: Int8Weight) -> FloatTensor<Self>;
}

impl Int8LinearOps for Flex {
    fn int8_linear(x: FloatTensor<Self>, weight: Int8Weight) -> FloatTensor<Self> {
        let x = contiguous(x);
        let values = elements(Some(&x)).unwrap_or_default();
        let (rows, [_, output]) = (x.shape()[0], weight.dims());
        let out = if (1..=MOST_ROWS).contains(&rows) {
            weight.dots(values, rows)
        } else {
            Weights::int8(&weight).new_output(values)
        };
        tensor(out, Shape::new([rows, output]))
    }
}

#[derive(Debug)]
struct Int8LinearBackward;

impl Backward<Flex, 1> for Int8LinearBackward {
    type State = Int8Weight;

    fn backward(self, ops: Ops<Int8Weight, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [Some(node)] = ops.parents else { return };
        let (rows, [input, _]) = (dy.shape()[0], ops.state.dims());
        let mut dx = vec![0.0; rows * input];
        let dy = elements(Some(&dy)).unwrap_or_default();
        let weights = Weights::int8(&ops.state);
        let grid = Grid::new(rows);
        let dy = Panels::from_rows(&grid, dy, weights.output);
        input_gradient(&grid, &[(&weights, &dy)], Some(&mut dx));
        grads.register::<Flex>(node.id, tensor(dx, Shape::new([rows, input])));
    }
}

impl<C: CheckpointStrategy> Int8LinearOps for Autodiff<Flex, C> {
    fn int8_linear(x: FloatTensor<Self>, weight: Int8Weight) -> FloatTensor<Self> {
        let guards = [x.node()];
        let x = x.into_primitive();
        match Int8LinearBackward.prepare::<C>(guards).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = <Flex as Int8LinearOps>::int8_linear(x, weight.clone());
                prep.finish(weight, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(<Flex as Int8LinearOps>::int8_linear(x, weight)),
        }
    }
}

impl Int8Weight {
    /// A few rows times the weight, which is read once, as it is stored.
    fn dots(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let [input, output] = self.dims();
        let blocks = input.div_ceil(BLOCK);
        let piece = rows_of_a_piece(input);
        // By outputs first, as the weight is read.
        let mut by_output = vec![0.0; output * rows];
        let pieces = (
            by_output.par_chunks_mut(piece * rows),
            self.values().par_chunks(piece * input),
            self.scales().par_chunks(piece * blocks),
        );
        pieces.into_par_iter().for_each(|(out, values, scales)| {
            let weights = values.chunks_exact(input).zip(scales.chunks_exact(blocks));
            for (out, (values, scales)) in out.chunks_exact_mut(rows).zip(weights) {
                for (out, x) in out.iter_mut().zip(x.chunks_exact(input)) {
                    *out = dot(x, values, scales);
                }
            }
        });
        let out = |row: usize| by_output[row..].iter().step_by(rows);
        (0..rows).flat_map(|row| out(row).copied()).collect()
    }
}

/// Sixteen sums, in an order that depends on nothing.
fn dot(x: &[f32], values: &[i8], scales: &[f32]) -> f32 {
    const LANES: usize = 16;
    vectorized!((x: &'a [f32], values: &'a [i8], scales: &'a [f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        let (x_blocks, x_rest) = x.as_chunks::<BLOCK>();
        let (blocks, rest) = values.as_chunks::<BLOCK>();
        for ((x, values), scale) in x_blocks.iter().zip(blocks).zip(scales) {
            for i in 0..LANES {
                let sum = x[i].mul_add(f32::from(values[i]), x[i + LANES] * f32::from(values[i + LANES]));
                lanes[i] = sum.mul_add(*scale, lanes[i]);
            }
        }
        let rest: f32 = x_rest.iter().zip(rest).map(|(x, value)| x * f32::from(*value)).sum();
        lanes.iter().sum::<f32>() + rest * scales.get(blocks.len()).copied().unwrap_or(0.0)
    })
}
