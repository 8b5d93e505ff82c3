//! Linear layers over slices, with bias and adapter, forward and backward.

use std::ops::Range;

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

use super::cached::PanelWeight;
use super::int8::{Int8Weight, int8_linear};
use super::matrix::Matrix;
use super::panels::{
    Block, Factor, Form, Grid, OwnBlock, Packed, Panels, Term, WIDTH, add_columns, blocks_or_none,
    column_sums, multiply, multiply_into, store_rows, transposed_product,
};
use super::quant::{QuantizedWeight, quantized_linear};
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
    /// One that is not trained, as inference reads it.
    Panels(PanelWeight),
    /// One of a model that runs.
    Quantized(QuantizedWeight),
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
            Self::Int8(_) | Self::Panels(_) => true,
            // Their kernels are for models that run, not for those that are trained.
            Self::Quantized(_) => false,
        }
    }

    /// Whether inference's operations on the CPU can take it.
    pub(super) fn runs_cached(&self) -> bool {
        matches!(self, Self::Quantized(_)) || self.runs_fused()
    }

    /// `[input, output]`, whatever it was.
    fn into_tensor(self, device: &Device) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight,
            Self::Int8(weight) => weight.tensor(device),
            Self::Panels(weight) => weight.tensor(device),
            Self::Quantized(weight) => weight.tensor(device),
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
            // Where training's operations meet it, it becomes what they know.
            LinearWeight::Panels(weight) => (Some(weight.tensor(&Device::flex())), None),
            LinearWeight::Quantized(weight) => (Some(weight.tensor(&Device::flex())), None),
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
        let mut out = match self.weight {
            LinearWeight::Quantized(weight) => quantized_linear(x, &weight, None),
            LinearWeight::Int8(weight) => int8_linear(x, &weight, None),
            weight => {
                let weight = weight.into_tensor(&x.device());
                x.matmul(weight)
            }
        };
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
    /// What products read. Those of an adapter's gradients alone are f32: they are few.
    pub form: Form,
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
    pub fn of(slots: &'a [Option<FloatTensor<Flex>>], plan: &'a LinearPlan, form: Form) -> Self {
        let slice = |slot: usize| slots[slot].as_ref().and_then(|tensor| tensor.as_slice::<f32>());
        let dense = || {
            let dims = slots[0].as_ref().map(|weight| weight.shape());
            let (input, output) = dims.map_or((0, 0), |shape| (shape[0], shape[1]));
            Self {
                weight: Weight::Dense(slice(0).unwrap_or_default()),
                bias: None,
                lora: None,
                scale: 0.0,
                form: Form::F32,
                input,
                output,
            }
        };
        Self {
            bias: slice(1),
            lora: slice(2).zip(slice(3)),
            scale: plan.scale,
            form,
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
            form: Form::F32,
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

    /// `A` and `B`.
    fn low_rank(&self) -> Option<[Matrix<'a>; 2]> {
        let (a, b) = self.lora?;
        let rank = self.rank();
        Some([
            Matrix::new(a, self.input, rank, rank),
            Matrix::new(b, rank, self.output, self.output),
        ])
    }

    fn rank(&self) -> usize {
        self.lora.map_or(0, |(a, _)| a.len() / self.input.max(1))
    }

    /// The layer as products with its input read it.
    pub fn forward(&self) -> Forward<'a> {
        Forward {
            weight: Packed::from_parts(self.form, self.input, self.output, |put| self.by_input(put)),
            low_rank: self.low_rank().map(|[a, b]| {
                let [a, b] = [(a, 1.0), (b, self.scale)].map(|(matrix, scale)| self.packed(matrix, scale));
                (a, b, self.rank())
            }),
            bias: self.bias,
        }
    }

    /// The layer as products with its output's gradient read it.
    pub fn backward(&self) -> Backward {
        Backward {
            weight: Packed::from_parts(self.form, self.output, self.input, |put| self.by_output(put)),
            low_rank: self.low_rank().map(|[a, b]| {
                (
                    self.packed(a.transposed(), 1.0),
                    self.packed(b.transposed(), self.scale),
                )
            }),
            rank: self.rank(),
        }
    }

    fn packed(&self, matrix: Matrix<'_>, scale: f32) -> Packed {
        Packed::new(self.form, matrix, scale)
    }

    /// The layer's output for the rows of `x`, as rows.
    pub fn new_output(&self, x: &[f32]) -> Vec<f32> {
        let layer = self.forward();
        let grid = Grid::new(x.len() / self.input.max(1));
        let x = Panels::from_rows(&grid, x, self.input);
        let mut out = vec![0.0; grid.rows() * self.output];
        let blocks: Vec<_> = grid
            .split_rows(&mut out, self.output)
            .into_iter()
            .enumerate()
            .collect();
        blocks.into_par_iter().for_each(|(index, out)| {
            layer.project(
                x.block(index).over_columns(self.form).block(),
                (out, self.output),
                false,
            );
        });
        out
    }

    /// Memory for the gradient of `x A`, where there is an adapter.
    pub fn low_gradient(&self, grid: &Grid) -> Option<Panels> {
        self.lora.map(|_| Panels::new(grid, self.rank()))
    }

    /// The gradients that are `wanted`, given input, gradient of the output and gradient of `x A`.
    pub fn gradients(&self, x: &Panels, dy: &Panels, low: Option<&Panels>, wanted: &[bool]) -> Gradients {
        let weight = wanted[0].then(|| transposed_product(self.form, x, dy));
        let bias = (wanted[1] && self.bias.is_some()).then(|| column_sums(dy));
        let da = low
            .filter(|_| wanted[2])
            .map(|low| transposed_product(Form::F32, x, low));
        let db = self.low_rank().filter(|_| wanted[3]).map(|[a, _]| {
            let a = Packed::new(Form::F32, a, self.scale);
            let mut low = Panels::new(x.grid(), self.rank());
            low.fill(|index, out| {
                let block = x.block(index);
                multiply_into(&[Term { block, weights: &a }], out);
            });
            // The wide side first, of which all threads take a part.
            transposed(&transposed_product(Form::F32, dy, &low), self.rank())
        });
        [weight, bias, da, db]
    }
}

/// `[rows, columns]` from `[columns, rows]`.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    (0..values.len())
        .map(|at| values[at % columns * rows + at / columns])
        .collect()
}

/// See [`Weights::forward`].
pub(super) struct Forward<'a> {
    weight: Packed,
    /// `A`, `scale · B` and their rank.
    low_rank: Option<(Packed, Packed, usize)>,
    bias: Option<&'a [f32]>,
}

impl Forward<'_> {
    pub fn panels(&self) -> usize {
        self.weight.panels()
    }

    /// `x A` as its product with `B` reads it, where there is an adapter; `x` is as products read it, here as below.
    pub fn low(&self, x: Block<'_>) -> Option<OwnBlock> {
        let (a, _, rank) = self.low_rank.as_ref()?;
        let mut low = OwnBlock::new(x.rows(), *rank);
        multiply_into(&[Term { block: x, weights: a }], low.memory());
        Some(low.over_columns(self.weight.form()))
    }

    /// The products whose sum is the output, up to the bias.
    pub fn terms<'b>(&'b self, x: Block<'b>, low: Option<&'b OwnBlock>) -> Vec<Term<'b>> {
        let mut terms = vec![Term {
            block: x,
            weights: &self.weight,
        }];
        if let (Some(low), Some((_, b, _))) = (low, &self.low_rank) {
            terms.push(Term {
                block: low.block(),
                weights: b,
            });
        }
        terms
    }

    /// The output of a block, set or added to rows of `width` elements.
    pub fn project(&self, x: Block<'_>, (out, width): (&mut [f32], usize), add: bool) {
        let low = self.low(x);
        let terms = self.terms(x, low.as_ref());
        for panel in 0..self.panels() {
            self.panel(&terms, panel, |row, tile| {
                store_rows(out, width, (row, panel), tile, add)
            });
        }
    }

    /// One panel of the output; `write` is given the first row of each tile and its rows.
    pub fn panel(&self, terms: &[Term<'_>], panel: usize, mut write: impl FnMut(usize, &[[f32; WIDTH]])) {
        multiply(terms, panel, |row, tile| {
            if let Some(bias) = self.bias {
                add_columns(tile, panel, bias);
            }
            write(row, tile);
        });
    }
}

/// See [`Weights::backward`].
pub(super) struct Backward {
    /// Transposed.
    weight: Packed,
    /// `Aᵀ` and `scale · Bᵀ`.
    low_rank: Option<(Packed, Packed)>,
    rank: usize,
}

impl Backward {
    pub fn panels(&self) -> usize {
        self.weight.panels()
    }

    /// Writes the gradient of `x A` into its block, where there is an adapter, and returns it as products read it; `dy` is as
    /// they do, here as below.
    pub fn low_gradient<'a>(&self, dy: Block<'_>, out: Option<&'a mut [f32]>) -> Option<Factor<'a>> {
        let (b, out) = (&self.low_rank.as_ref()?.1, out?);
        multiply_into(
            &[Term {
                block: dy,
                weights: b,
            }],
            out,
        );
        Some(Block::new(out, dy.rows(), self.rank).over_columns(self.weight.form()))
    }

    /// The products whose sum is the gradient of the input.
    pub fn terms<'a>(&'a self, dy: Block<'a>, low: Option<&'a Factor<'_>>) -> Vec<Term<'a>> {
        let mut terms = vec![Term {
            block: dy,
            weights: &self.weight,
        }];
        if let (Some(low), Some((a, _))) = (low, &self.low_rank) {
            terms.push(Term {
                block: low.block(),
                weights: a,
            });
        }
        terms
    }
}

/// Sum of the gradients of an input that the layers share, as rows, given those of their outputs; returns each layer's
/// gradient of `x A`, where there is an adapter.
pub(super) fn input_gradient(
    grid: &Grid,
    layers: &[(&Weights<'_>, &Panels)],
    out: Option<&mut [f32]>,
) -> Vec<Option<Panels>> {
    let packed: Vec<_> = layers.iter().map(|(layer, _)| layer.backward()).collect();
    let mut low: Vec<_> = layers.iter().map(|(layer, _)| layer.low_gradient(grid)).collect();
    let width = layers.first().map_or(0, |(layer, _)| layer.input);
    let mut outs = match out {
        Some(out) => grid.split_rows(out, width).into_iter().map(Some).collect(),
        None => (0..grid.blocks()).map(|_| None).collect::<Vec<_>>(),
    };
    let mut lows: Vec<Vec<_>> = (0..grid.blocks()).map(|_| Vec::new()).collect();
    for low in &mut low {
        for (all, low) in lows.iter_mut().zip(blocks_or_none(low.as_mut(), grid)) {
            all.push(low);
        }
    }
    let blocks = (&mut outs, lows);
    blocks
        .into_par_iter()
        .enumerate()
        .for_each(|(index, (out, lows))| {
            let factors: Vec<_> = layers
                .iter()
                .map(|(layer, dy)| dy.block(index).over_columns(layer.form))
                .collect();
            let lows: Vec<_> = (packed.iter().zip(&factors).zip(lows))
                .map(|((packed, dy), low)| packed.low_gradient(dy.block(), low))
                .collect();
            let Some(out) = out else { return };
            let terms: Vec<Term<'_>> = (packed.iter().zip(&factors).zip(&lows))
                .flat_map(|((packed, dy), low)| packed.terms(dy.block(), low.as_ref()))
                .collect();
            for panel in 0..width.div_ceil(WIDTH) {
                multiply(&terms, panel, |row, tile| {
                    store_rows(out, width, (row, panel), tile, false)
                });
            }
        });
    low
}
