//! A linear layer over a weight in eight bits, as an operation of its own.
//!
//! For models whose halves of a layer do not run as one operation, and for decoding.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::{DType, Shape, Tensor};
use rayon::prelude::*;

use super::{BLOCK, Int8Weight, rows_of_a_piece};
use crate::kernels::flex::{contiguous, elements, tensor};
use crate::kernels::linear::{Weights, input_gradient};
use crate::kernels::math::vectorized;
use crate::kernels::panels::{Grid, Panels};

/// Rows up to which the weight is read as it is stored.
const MOST_ROWS: usize = 4;

/// `x · weight + bias`; there is a gradient of `x` and of `bias`, and none of the weight. On another device than the CPU the weight is
/// there, as f32, while it is multiplied, and not from one product to the next.
///
/// # Shapes
/// - `x`: `[rows, input]`, `bias`: `[output]`
/// - output: `[rows, output]`
pub fn int8_linear(x: Tensor<2>, weight: &Int8Weight, bias: Option<Tensor<1>>) -> Tensor<2> {
    let out = if x.dtype() == DType::F32 {
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
#[backend_extension(
    Flex,
    Cube: cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "webgpu")),
    Autodiff
)]
pub trait Int8LinearOps: Backend {
    /// See [`int8_linear`].
    fn int8_linear(x: FloatTensor<Self>, weight: Int8Weight) -> FloatTensor<Self>;
}

/// What the operation is made of on a backend.
pub trait Int8Products: Backend {
    /// `x · weight`, as `[rows, output]`.
    fn product(x: FloatTensor<Self>, weight: &Int8Weight) -> FloatTensor<Self>;

    /// `dy · weightᵀ`, as `[rows, input]`.
    fn input_gradient(dy: FloatTensor<Self>, weight: &Int8Weight) -> FloatTensor<Self>;
}

impl Int8Products for Flex {
    fn product(x: FloatTensor<Self>, weight: &Int8Weight) -> FloatTensor<Self> {
        let x = contiguous(x);
        let values = elements(Some(&x)).unwrap_or_default();
        let (rows, [_, output]) = (x.shape()[0], weight.dims());
        let out = if (1..=MOST_ROWS).contains(&rows) {
            weight.dots(values, rows)
        } else {
            Weights::int8(weight).new_output(values)
        };
        tensor(out, Shape::new([rows, output]))
    }

    fn input_gradient(dy: FloatTensor<Self>, weight: &Int8Weight) -> FloatTensor<Self> {
        let dy = contiguous(dy);
        let (rows, [input, _]) = (dy.shape()[0], weight.dims());
        let mut dx = vec![0.0; rows * input];
        let dy = elements(Some(&dy)).unwrap_or_default();
        let weights = Weights::int8(weight);
        let grid = Grid::new(rows);
        let dy = Panels::from_rows(&grid, dy, weights.output);
        input_gradient(&grid, &[(&weights, &dy)], Some(&mut dx));
        tensor(dx, Shape::new([rows, input]))
    }
}

impl Int8LinearOps for Flex {
    fn int8_linear(x: FloatTensor<Self>, weight: Int8Weight) -> FloatTensor<Self> {
        Self::product(x, &weight)
    }
}

/// Devices with products of Burn alone: the weight is turned back here and sent there for each.
#[cfg(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "webgpu"))]
mod cube {
    use burn::backend::ops::FloatTensorOps;
    use burn::tensor::TensorData;
    use burn_cubecl::CubeBackend;

    use super::{FloatTensor, Int8LinearOps, Int8Products, Int8Weight, TensorMetadata};

    /// `[output, input]`
    fn dense(weight: &Int8Weight, beside: &FloatTensor<CubeBackend>) -> FloatTensor<CubeBackend> {
        let weight = weight.dequantize();
        CubeBackend::float_from_data(TensorData::new(weight.values, weight.shape), &beside.device())
    }

    impl Int8Products for CubeBackend {
        fn product(x: FloatTensor<Self>, weight: &Int8Weight) -> FloatTensor<Self> {
            let weight = dense(weight, &x);
            Self::float_matmul(x, Self::float_swap_dims(weight, 0, 1))
        }

        fn input_gradient(dy: FloatTensor<Self>, weight: &Int8Weight) -> FloatTensor<Self> {
            let weight = dense(weight, &dy);
            Self::float_matmul(dy, weight)
        }
    }

    impl Int8LinearOps for CubeBackend {
        fn int8_linear(x: FloatTensor<Self>, weight: Int8Weight) -> FloatTensor<Self> {
            Self::product(x, &weight)
        }
    }
}

#[derive(Debug)]
struct Int8LinearBackward;

impl<B: Int8Products> Backward<B, 1> for Int8LinearBackward {
    type State = Int8Weight;

    fn backward(self, ops: Ops<Int8Weight, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::input_gradient(dy, &ops.state));
        }
    }
}

impl<B: Int8Products, C: CheckpointStrategy> Int8LinearOps for Autodiff<B, C> {
    fn int8_linear(x: FloatTensor<Self>, weight: Int8Weight) -> FloatTensor<Self> {
        let guards = [x.node()];
        let x = x.into_primitive();
        let prepared = Backward::<B, 1>::prepare::<C>(Int8LinearBackward, guards);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = B::product(x, &weight);
                prep.finish(weight, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::product(x, &weight)),
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
