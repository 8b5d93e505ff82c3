//! A linear layer over a quantised weight, as an operation of its own.

use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;

use super::QuantizedWeight;
use super::layout::PANEL;
use crate::kernels::flex::{tensor, with_slice};
use crate::kernels::{reference, runs_fused};

/// Weights of a piece: enough to be worth handing over, few enough to share out a small matrix.
const PIECE_WEIGHTS: usize = 1 << 16;
/// Rows from which they are shared out instead of the weights: each thread then reads all weights for its rows.
const MANY_ROWS: usize = 48;
/// Rows of a piece, whole tiles of them.
const PIECE_ROWS: usize = 24;

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

/// The product on all threads.
fn multiply(x: &[f32], rows: usize, weight: &QuantizedWeight) -> Vec<f32> {
    let [input, output] = weight.dims();
    if rows == 0 {
        return Vec::new();
    }
    let x = weight.prepare(x, rows);
    let mut out = vec![0.0; rows * output];
    if rows >= MANY_ROWS {
        out.par_chunks_mut(PIECE_ROWS * output)
            .enumerate()
            .for_each(|(piece, out)| {
                let first = piece * PIECE_ROWS;
                weight.product(&x, first..first + out.len() / output, 0..output, (out, output));
            });
        return out;
    }
    let width = (PIECE_WEIGHTS / input).max(1).next_multiple_of(PANEL);
    if rows == 1 {
        out.par_chunks_mut(width).enumerate().for_each(|(piece, out)| {
            let first = piece * width;
            weight.columns(&x, first..first + out.len(), out);
        });
        return out;
    }
    let pieces: Vec<Vec<f32>> = (0..output.div_ceil(width))
        .into_par_iter()
        .map(|piece| {
            let columns = piece * width..output.min((piece + 1) * width);
            let mut part = vec![0.0; rows * columns.len()];
            weight.columns(&x, columns, &mut part);
            part
        })
        .collect();
    for (piece, part) in pieces.iter().enumerate() {
        let columns = part.len() / rows;
        for (out, part) in out.chunks_exact_mut(output).zip(part.chunks_exact(columns)) {
            out[piece * width..][..columns].copy_from_slice(part);
        }
    }
    out
}
