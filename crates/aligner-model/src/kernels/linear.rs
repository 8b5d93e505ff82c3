//! Linear layers over slices, with bias and adapter, forward and backward.

use std::ops::Range;

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::buffers::Buffer;
use super::flex::PIECE;
use super::int8::Int8Weight;
use super::matmul::{Matrix, Update, new_product, product};
use super::runs_fused;
use super::slots::Slots;

/// A linear layer as a larger operation takes it: `x W + b + scale · x A B`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[input, output]`
    pub weight: LinearWeight,
    /// `[output]`
    pub bias: Option<Tensor<1>>,
    /// An adapter.
    pub lora: Option<LowRank>,
}

/// The weight of a [`Linear`].
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives as long as a call, and a box would be one more allocation for it"
)]
pub enum LinearWeight {
    /// `[input, output]`
    Dense(Tensor<2>),
    /// One that is not trained.
    Int8(Int8Weight),
}

impl From<Tensor<2>> for LinearWeight {
    fn from(weight: Tensor<2>) -> Self {
        Self::Dense(weight)
    }
}

impl LinearWeight {
    /// Whether the fused CPU operations can take it.
    pub(super) fn runs_fused(&self) -> bool {
        match self {
            Self::Dense(weight) => runs_fused(weight),
            Self::Int8(_) => true,
        }
    }

    /// `[input, output]`, whatever it was.
    fn into_tensor(self, device: &Device) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight,
            Self::Int8(weight) => weight.tensor(device),
        }
    }
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

/// What of a linear layer is no tensor.
#[derive(Debug, Clone)]
pub(super) struct LinearPlan {
    /// The adapter's scale.
    scale: f32,
    /// The weight whose slot is empty.
    int8: Option<Int8Weight>,
}

impl Linear {
    /// Puts the tensors into the next four slots; returns what else there is.
    pub(super) fn into_slots(self, slots: &mut Slots) -> LinearPlan {
        let (weight, int8) = match self.weight {
            LinearWeight::Dense(weight) => (Some(weight), None),
            LinearWeight::Int8(weight) => (None, Some(weight)),
        };
        slots.push(weight);
        slots.push(self.bias);
        let (a, b, scale) = match self.lora {
            Some(LowRank { a, b, scale }) => (Some(a), Some(b), scale),
            None => (None, None, 0.0),
        };
        slots.push(a);
        slots.push(b);
        LinearPlan {
            scale: scale as f32,
            int8,
        }
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
        let weight = self.weight.into_tensor(&x.device());
        let mut out = x.matmul(weight);
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
    weight: Weight<'a>,
    bias: Option<&'a [f32]>,
    lora: Option<(&'a [f32], &'a [f32])>,
    scale: f32,
    pub input: usize,
    pub output: usize,
}

/// A weight, or what it is computed from.
#[derive(Clone, Copy)]
enum Weight<'a> {
    Dense(&'a [f32]),
    Int8(&'a Int8Weight),
}

/// Gradients of a linear layer's tensors, where they were asked for.
pub(super) type Gradients = [Option<Vec<f32>>; SLOTS];

impl<'a> Weights<'a> {
    /// Reads four slots, whose tensors are contiguous.
    pub fn of(slots: &'a [Option<FloatTensor<Flex>>], plan: &'a LinearPlan) -> Self {
        let slice = |slot: usize| slots[slot].as_ref().and_then(|tensor| tensor.as_slice::<f32>());
        let dense = || {
            let dims = slots[0].as_ref().map(|weight| weight.shape());
            let (input, output) = dims.map_or((0, 0), |shape| (shape[0], shape[1]));
            Self {
                weight: Weight::Dense(slice(0).unwrap_or_default()),
                bias: None,
                lora: None,
                scale: 0.0,
                input,
                output,
            }
        };
        Self {
            bias: slice(1),
            lora: slice(2).zip(slice(3)),
            scale: plan.scale,
            ..plan.int8.as_ref().map_or_else(dense, Self::int8)
        }
    }

    /// A weight in eight bits alone.
    pub fn int8(weight: &'a Int8Weight) -> Self {
        let [input, output] = weight.dims();
        Self {
            weight: Weight::Int8(weight),
            bias: None,
            lora: None,
            scale: 0.0,
            input,
            output,
        }
    }

    /// Calls `each` with the weight as f32, in panels that follow each other along its inputs, each `[inputs, output]`.
    fn by_input(&self, mut each: impl FnMut(Range<usize>, Matrix<'_>)) {
        match self.weight {
            Weight::Dense(weight) => each(
                0..self.input,
                Matrix::new(weight, self.input, self.output, self.output),
            ),
            Weight::Int8(weight) => weight.by_input(each),
        }
    }

    /// Calls `each` with the weight's transpose as f32, in panels that follow each other along its outputs, each
    /// `[outputs, input]`.
    fn by_output(&self, mut each: impl FnMut(Range<usize>, Matrix<'_>)) {
        match self.weight {
            Weight::Dense(weight) => each(
                0..self.output,
                Matrix::new(weight, self.input, self.output, self.output).transposed(),
            ),
            Weight::Int8(weight) => weight.by_output(each),
        }
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
        let mut out = Vec::new();
        self.by_input(|inputs, panel| {
            let x = columns(x, &inputs);
            if inputs.start == 0 {
                out = new_product(x, panel);
            } else {
                product(&mut out, x, panel, Update::Add(1.0));
            }
        });
        self.add_rest(x, &mut out);
        out
    }

    /// The layer's output for `rows` rows of `x`, added to `out`.
    pub fn add_forward(&self, x: &[f32], rows: usize, out: &mut [f32]) {
        let x = Matrix::new(x, rows, self.input, self.input);
        self.by_input(|inputs, panel| product(out, columns(x, &inputs), panel, Update::Add(1.0)));
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
            self.input_gradient(dy, rows, dx, update);
            if let Some((gradient, a, rank)) = &low_gradient {
                let gradient = Matrix::new(gradient, rows, *rank, *rank);
                product(dx, gradient, a.transposed(), Update::Add(1.0));
            }
        }
        [weight, bias, da, db]
    }

    /// The gradient of the input by way of the weight, set or added to `dx`.
    pub fn input_gradient(&self, dy: &[f32], rows: usize, dx: &mut [f32], update: Update) {
        let dy = Matrix::new(dy, rows, self.output, self.output);
        self.by_output(|outputs, panel| {
            let update = match update {
                Update::Set if outputs.start > 0 => Update::Add(1.0),
                update => update,
            };
            product(dx, columns(dy, &outputs), panel, update);
        });
    }
}

/// Some columns of a matrix without gaps in its rows.
fn columns<'a>(matrix: Matrix<'a>, columns: &Range<usize>) -> Matrix<'a> {
    Matrix {
        // Without rows there is nothing to begin in.
        data: matrix.data.get(columns.start..).unwrap_or_default(),
        columns: columns.len(),
        ..matrix
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
