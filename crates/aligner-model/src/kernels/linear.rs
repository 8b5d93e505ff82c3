//! Linear layers over slices, with bias and adapter, forward and backward.

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::buffers::Buffer;
use super::flex::PIECE;
use super::matmul::{Matrix, Update, new_product, product};
use super::slots::Slots;

/// A linear layer as a larger operation takes it: `x W + b + scale · x A B`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[input, output]`
    pub weight: Tensor<2>,
    /// `[output]`
    pub bias: Option<Tensor<1>>,
    /// An adapter.
    pub lora: Option<LowRank>,
}

/// A low-rank update of a [`Linear`].
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[input, rank]`
    pub a: Tensor<2>,
    /// `[rank, output]`
    pub b: Tensor<2>,
    /// What the product is multiplied by.
    pub scale: f64,
}

/// Slots of a linear layer: weight, bias, A, B.
pub(super) const SLOTS: usize = 4;

impl Linear {
    /// Puts the tensors into the next four slots; returns the adapter's scale.
    pub(super) fn into_slots(self, slots: &mut Slots) -> f32 {
        slots.push(Some(self.weight));
        slots.push(self.bias);
        let (a, b, scale) = match self.lora {
            Some(LowRank { a, b, scale }) => (Some(a), Some(b), scale),
            None => (None, None, 0.0),
        };
        slots.push(a);
        slots.push(b);
        scale as f32
    }

    /// The layer composed of Burn's own operations.
    ///
    /// # Shapes
    /// - `x`: `[rows, input]`
    /// - output: `[rows, output]`
    pub fn forward(self, x: Tensor<2>) -> Tensor<2> {
        let update = self
            .lora
            .map(|LowRank { a, b, scale }| x.clone().matmul(a).matmul(b) * scale);
        let mut out = x.matmul(self.weight);
        if let Some(bias) = self.bias {
            out = out + bias.unsqueeze();
        }
        match update {
            Some(update) => out + update,
            None => out,
        }
    }
}

/// The elements of a linear layer's tensors.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    lora: Option<(&'a [f32], &'a [f32])>,
    scale: f32,
    pub input: usize,
    pub output: usize,
}

/// Gradients of a linear layer's tensors, where they were asked for.
pub(super) type Gradients = [Option<Vec<f32>>; SLOTS];

impl<'a> Weights<'a> {
    /// Reads four slots, whose tensors are contiguous.
    pub fn of(slots: &'a [Option<FloatTensor<Flex>>], scale: f32) -> Self {
        let slice = |slot: usize| slots[slot].as_ref().and_then(|tensor| tensor.as_slice::<f32>());
        let dims = slots[0].as_ref().map(|weight| weight.shape());
        let (input, output) = dims.map_or((0, 0), |shape| (shape[0], shape[1]));
        Self {
            weight: slice(0).unwrap_or_default(),
            bias: slice(1),
            lora: slice(2).zip(slice(3)),
            scale,
            input,
            output,
        }
    }

    fn matrix(&self) -> Matrix<'a> {
        Matrix::new(self.weight, self.input, self.output, self.output)
    }

    /// `A` and `B` with their rank.
    fn low_rank(&self) -> Option<(Matrix<'a>, Matrix<'a>, usize)> {
        let (a, b) = self.lora?;
        let rank = a.len() / self.input.max(1);
        Some((
            Matrix::new(a, self.input, rank, rank),
            Matrix::new(b, rank, self.output, self.output),
            rank,
        ))
    }

    /// The layer's output for `rows` rows of `x`.
    pub fn new_forward(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let x = Matrix::new(x, rows, self.input, self.input);
        let mut out = new_product(x, self.matrix());
        self.add_rest(x, &mut out);
        out
    }

    /// The layer's output for `rows` rows of `x`, added to `out`.
    pub fn add_forward(&self, x: &[f32], rows: usize, out: &mut [f32]) {
        let x = Matrix::new(x, rows, self.input, self.input);
        product(out, x, self.matrix(), Update::Add(1.0));
        self.add_rest(x, out);
    }

    /// Adds the adapter's update and the bias.
    fn add_rest(&self, x: Matrix<'_>, out: &mut [f32]) {
        let rows = x.rows;
        if let Some((a, b, rank)) = self.low_rank() {
            let mut low = Buffer::take(rows * rank);
            product(&mut low, x, a, Update::Set);
            product(
                out,
                Matrix::new(&low, rows, rank, rank),
                b,
                Update::Add(self.scale),
            );
        }
        if let Some(bias) = self.bias {
            let piece = (PIECE / self.output.max(1)).max(1) * self.output;
            out.par_chunks_mut(piece).for_each(|rows| {
                for row in rows.chunks_exact_mut(self.output) {
                    row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
                }
            });
        }
    }

    /// The gradients that are `wanted`; that of the input is set or added to `dx`.
    pub fn backward(
        &self,
        x: &[f32],
        dy: &[f32],
        rows: usize,
        dx: Option<(&mut [f32], Update)>,
        wanted: &[bool],
    ) -> Gradients {
        let x = Matrix::new(x, rows, self.input, self.input);
        let dy_matrix = Matrix::new(dy, rows, self.output, self.output);
        let weight = wanted[0].then(|| new_product(x.transposed(), dy_matrix));
        let bias = (wanted[1] && self.bias.is_some()).then(|| column_sums(dy, self.output));
        let (mut da, mut db) = (None, None);
        let mut low_gradient = None;
        if let Some((a, b, rank)) = self.low_rank() {
            if wanted[3] {
                let mut low = Buffer::take(rows * rank);
                product(&mut low, x, a, Update::Set);
                scale(&mut low, self.scale);
                db = Some(new_product(
                    Matrix::new(&low, rows, rank, rank).transposed(),
                    dy_matrix,
                ));
            }
            let mut gradient = Buffer::take(rows * rank);
            product(&mut gradient, dy_matrix, b.transposed(), Update::Set);
            scale(&mut gradient, self.scale);
            if wanted[2] {
                da = Some(new_product(
                    x.transposed(),
                    Matrix::new(&gradient, rows, rank, rank),
                ));
            }
            low_gradient = Some((gradient, a, rank));
        }
        if let Some((dx, update)) = dx {
            product(dx, dy_matrix, self.matrix().transposed(), update);
            if let Some((gradient, a, rank)) = &low_gradient {
                let gradient = Matrix::new(gradient, rows, *rank, *rank);
                product(dx, gradient, a.transposed(), Update::Add(1.0));
            }
        }
        [weight, bias, da, db]
    }
}

fn scale(values: &mut [f32], factor: f32) {
    values.iter_mut().for_each(|value| *value *= factor);
}

/// Sums of the columns, by pieces of fixed size in order.
fn column_sums(rows: &[f32], width: usize) -> Vec<f32> {
    let piece = (PIECE / width.max(1)).max(1) * width;
    let partial: Vec<Vec<f32>> = rows
        .par_chunks(piece)
        .map(|rows| {
            let mut sums = vec![0.0; width];
            for row in rows.chunks_exact(width) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums
        })
        .collect();
    let mut sums = vec![0.0; width];
    for part in &partial {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sums
}
