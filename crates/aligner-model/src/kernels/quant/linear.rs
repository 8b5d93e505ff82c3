//! A linear layer over a quantised weight, as an operation of its own.

use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;

use super::QuantizedWeight;
use super::layout::PANEL;
use crate::kernels::flex::{tensor, with_slice};
use crate::kernels::output::Output;
use crate::kernels::{reference, runs_fused};

/// Weights of a piece: enough to be worth handing over, few enough to share out a small matrix.
const PIECE_WEIGHTS: usize = 1 << 16;
/// Rows from which a quarter of that is enough.
const MANY_ROWS: usize = 16;
/// Rows that share a reading of the weights: as many as a cache holds beside a panel.
const MOST_ROWS_AT_ONCE: usize = 192;

/// `x · weight + bias`, for models that run: on a device that computes gradients, and on any but the CPU, it is
/// [`reference::quantized_linear`], which makes an f32 weight for each call.
///
/// # Shapes
/// - `x`: `[rows, input]`, `bias`: `[output]`
/// - output: `[rows, output]`
pub fn quantized_linear(x: Tensor<2>, weight: &QuantizedWeight, bias: Option<Tensor<1>>) -> Tensor<2> {
    let out = if runs_fused(&x) && !x.device().is_autodiff() {
        Tensor::from_dispatch(<Dispatch as QuantizedLinearOps>::quantized_linear(
            x.into_dispatch(),
            weight.clone(),
        ))
    } else {
        reference::quantized_linear(x, weight)
    };
    match bias {
        Some(bias) => out + bias.unsqueeze(),
        None => out,
    }
}

/// The operation as an extension of a backend.
#[backend_extension(Flex)]
pub trait QuantizedLinearOps: Backend {
    /// See [`quantized_linear`].
    fn quantized_linear(x: FloatTensor<Self>, weight: QuantizedWeight) -> FloatTensor<Self>;
}

impl QuantizedLinearOps for Flex {
    fn quantized_linear(x: FloatTensor<Self>, weight: QuantizedWeight) -> FloatTensor<Self> {
        let (rows, output) = (x.shape()[0], weight.output());
        let out = with_slice(&x, |x| multiply(x, rows, &weight));
        tensor(out, Shape::new([rows, output]))
    }
}

/// The product on all threads: pieces of columns, so that each weight is read by one of them.
fn multiply(x: &[f32], rows: usize, weight: &QuantizedWeight) -> Vec<f32> {
    let [input, output] = weight.dims();
    if rows == 0 {
        return Vec::new();
    }
    let x = weight.prepare(x, rows);
    let mut out = vec![0.0; rows * output];
    let memory = Output::new(&mut out);
    for first in (0..rows).step_by(MOST_ROWS_AT_ONCE) {
        let rows = first..rows.min(first + MOST_ROWS_AT_ONCE);
        let weights = PIECE_WEIGHTS / if rows.len() < MANY_ROWS { 1 } else { 4 };
        let width = (weights / input).max(1).next_multiple_of(PANEL);
        (0..output.div_ceil(width)).into_par_iter().for_each(|piece| {
            let columns = piece * width..output.min((piece + 1) * width);
            let place = (memory.at(first * output + columns.start), output);
            // SAFETY: rows and columns are those of the output, whose rows are `output` apart, and no other piece writes to
            // these columns.
            unsafe { weight.product_into(&x, rows.clone(), columns, place) };
        });
    }
    out
}
