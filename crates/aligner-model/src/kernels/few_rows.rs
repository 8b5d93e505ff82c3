//! A few rows times a matrix: what decoding a token is made of.
//!
//! Each weight is read once and used once for each row, so memory sets the speed, and a thread alone does not reach it. The
//! GEMM library takes such products on one thread. Here the matrix is cut into pieces of fixed size for all threads; partial
//! sums are added in order, so the result does not depend on how many there are.

use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::module::linear as composed_linear;
use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;

use super::flex::{tensor, with_slice};
use super::math::{sum2, vectorized};
use super::runs_fused;

/// Rows up to which these products win over the GEMM library's.
pub(super) const MOST_ROWS: usize = 4;
/// Weights of a piece: enough to be worth handing over, few enough to share out a small matrix.
const PIECE_WEIGHTS: usize = 1 << 16;
/// Columns up to which a piece is whole rows of the matrix, read as one run; a partial result of each piece is held.
const MOST_COLUMNS_OF_WHOLE_ROWS: usize = 4096;

/// `x · weight + bias`.
///
/// # Shapes
/// - `x`: `[rows, input]`, `weight`: `[input, output]`, `bias`: `[output]`
/// - output: `[rows, output]`
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    if !is_decoding(&x, &weight) {
        return composed_linear(x, weight, bias);
    }
    let out: Tensor<2> = Tensor::from_dispatch(<Dispatch as FewRowsOps>::few_rows(
        x.into_dispatch(),
        weight.into_dispatch(),
    ));
    match bias {
        Some(bias) => out + bias.unsqueeze(),
        None => out,
    }
}

/// `x · weightᵀ`, of a weight that is stored the other way round, as an embedding that is the output projection as well.
///
/// # Shapes
/// - `x`: `[rows, input]`, `weight`: `[output, input]`
/// - output: `[rows, output]`
pub fn linear_transposed(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if !is_decoding(&x, &weight) {
        return x.matmul(weight.transpose());
    }
    Tensor::from_dispatch(<Dispatch as FewRowsOps>::few_rows_transposed(
        x.into_dispatch(),
        weight.into_dispatch(),
    ))
}

/// Whether a product is one of those made here: few rows, on the CPU, without gradients.
fn is_decoding(x: &Tensor<2>, weight: &Tensor<2>) -> bool {
    let on_the_cpu = |tensor: &Tensor<2>| runs_fused(tensor) && !tensor.device().is_autodiff();
    (1..=MOST_ROWS).contains(&x.dims()[0]) && on_the_cpu(x) && on_the_cpu(weight)
}

/// The operations as an extension of a backend.
#[backend_extension(Flex)]
pub trait FewRowsOps: Backend {
    /// See [`linear`].
    fn few_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`linear_transposed`].
    fn few_rows_transposed(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FewRowsOps for Flex {
    fn few_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (rows, output) = (x.shape()[0], weight.shape()[1]);
        let out = with_slice(&x, |x| {
            with_slice(&weight, |weight| {
                if output <= MOST_COLUMNS_OF_WHOLE_ROWS {
                    by_rows(x, weight, rows, output)
                } else {
                    by_columns(x, weight, rows, output)
                }
            })
        });
        tensor(out, Shape::new([rows, output]))
    }

    fn few_rows_transposed(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (rows, output) = (x.shape()[0], weight.shape()[0]);
        let out = with_slice(&x, |x| {
            with_slice(&weight, |weight| dots(x, weight, rows, output))
        });
        tensor(out, Shape::new([rows, output]))
    }
}

/// Pieces of whole rows of the matrix; the sum over pieces comes last.
fn by_rows(x: &[f32], weight: &[f32], rows: usize, output: usize) -> Vec<f32> {
    let input = x.len() / rows;
    let piece = (PIECE_WEIGHTS / output).max(1);
    let mut partial = vec![0.0; input.div_ceil(piece) * rows * output];
    partial
        .par_chunks_mut(rows * output)
        .zip(weight.par_chunks(piece * output))
        .enumerate()
        .for_each(|(index, (out, weight))| {
            let start = index * piece;
            for (out, x) in out.chunks_mut(output).zip(x.chunks(input)) {
                let end = (start + piece).min(input);
                add_products(out, &x[start..end], weight, output);
            }
        });
    let mut sums = partial.chunks(rows * output);
    let mut out = sums.next().map_or_else(Vec::new, <[f32]>::to_vec);
    for sum in sums {
        out.iter_mut().zip(sum).for_each(|(out, value)| *out += value);
    }
    out
}

/// Pieces of columns, each over all rows of the matrix.
fn by_columns(x: &[f32], weight: &[f32], rows: usize, output: usize) -> Vec<f32> {
    const COLUMNS: usize = 2048;
    let input = x.len() / rows;
    let mut out = vec![0.0; rows * output];
    for (out, x) in out.chunks_mut(output).zip(x.chunks(input)) {
        out.par_chunks_mut(COLUMNS).enumerate().for_each(|(index, out)| {
            add_products(out, x, &weight[index * COLUMNS..], output);
        });
    }
    out
}

/// `out += x · weight`, of the first columns of a weight whose rows are `stride` apart.
fn add_products(out: &mut [f32], x: &[f32], weight: &[f32], stride: usize) {
    vectorized!((out: &'a mut [f32], x: &'a [f32], weight: &'a [f32], stride: usize) -> () {
        let width = out.len();
        let row = |index: usize| &weight[index * stride..][..width];
        let (fours, rest) = x.as_chunks::<4>();
        for (index, &[a, b, c, d]) in fours.iter().enumerate() {
            // Four rows at a time: the output is read and written once for all of them.
            let at = 4 * index;
            let (wa, wb, wc, wd) = (row(at), row(at + 1), row(at + 2), row(at + 3));
            for (j, out) in out.iter_mut().enumerate() {
                *out = a.mul_add(wa[j], b.mul_add(wb[j], c.mul_add(wc[j], d.mul_add(wd[j], *out))));
            }
        }
        for (index, &a) in rest.iter().enumerate() {
            for (out, &weight) in out.iter_mut().zip(row(4 * fours.len() + index)) {
                *out = a.mul_add(weight, *out);
            }
        }
    });
}

/// Every output is the product of a row of `x` and a row of the matrix.
fn dots(x: &[f32], weight: &[f32], rows: usize, output: usize) -> Vec<f32> {
    let input = x.len() / rows;
    let piece = (PIECE_WEIGHTS / input).max(1);
    // By outputs first, as the matrix is read.
    let mut by_output = vec![0.0; output * rows];
    by_output
        .par_chunks_mut(piece * rows)
        .zip(weight.par_chunks(piece * input))
        .for_each(|(out, weight)| {
            vectorized!((out: &'a mut [f32], x: &'a [f32], weight: &'a [f32], rows: usize, input: usize) -> () {
                for (out, weight) in out.chunks_mut(rows).zip(weight.chunks(input)) {
                    for (out, x) in out.iter_mut().zip(x.chunks(input)) {
                        *out = sum2(x, weight, |a, b| a * b);
                    }
                }
            });
        });
    if rows == 1 {
        return by_output;
    }
    let mut out = Vec::with_capacity(output * rows);
    for row in 0..rows {
        out.extend(by_output[row..].iter().step_by(rows));
    }
    out
}
