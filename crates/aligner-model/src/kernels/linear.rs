//! Linear layers over slices, with bias and adapter, forward and backward.

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::matmul::Matrix;
use super::panels::{
    Block, Grid, OwnBlock, Packed, Panels, Term, WIDTH, add_columns, column_sums, multiply, multiply_into,
    transposed_product,
};
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
            weight: Packed::new(self.matrix(), 1.0),
            low_rank: self
                .low_rank()
                .map(|[a, b]| (Packed::new(a, 1.0), Packed::new(b, self.scale), self.rank())),
            bias: self.bias,
        }
    }

    /// The layer as products with its output's gradient read it.
    pub fn backward(&self) -> Backward {
        Backward {
            weight: Packed::new(self.matrix().transposed(), 1.0),
            low_rank: self.low_rank().map(|[a, b]| {
                let (a, b) = (a.transposed(), b.transposed());
                (Packed::new(a, 1.0), Packed::new(b, self.scale))
            }),
        }
    }

    /// Memory for the gradient of `x A`, where there is an adapter.
    pub fn low_gradient(&self, grid: &Grid) -> Option<Panels> {
        self.lora.map(|_| Panels::new(grid, self.rank()))
    }

    /// The gradients that are `wanted`, given input, gradient of the output and gradient of `x A`.
    pub fn gradients(&self, x: &Panels, dy: &Panels, low: Option<&Panels>, wanted: &[bool]) -> Gradients {
        let weight = wanted[0].then(|| transposed_product(x, dy));
        let bias = (wanted[1] && self.bias.is_some()).then(|| column_sums(dy));
        let da = low.filter(|_| wanted[2]).map(|low| transposed_product(x, low));
        let db = self.low_rank().filter(|_| wanted[3]).map(|[a, _]| {
            let a = Packed::new(a, self.scale);
            let mut low = Panels::new(x.grid(), self.rank());
            low.fill(|index, out| {
                let block = x.block(index);
                multiply_into(&[Term { block, weights: &a }], out);
            });
            // The wide side first, of which all threads take a part.
            transposed(&transposed_product(dy, &low), self.rank())
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

    /// `x A`, where there is an adapter.
    pub fn low(&self, x: Block<'_>) -> Option<OwnBlock> {
        let (a, _, rank) = self.low_rank.as_ref()?;
        let mut low = OwnBlock::new(x.rows(), *rank);
        multiply_into(&[Term { block: x, weights: a }], low.memory());
        Some(low)
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
}

impl Backward {
    pub fn panels(&self) -> usize {
        self.weight.panels()
    }

    /// Writes the gradient of `x A` into its block, where there is an adapter.
    pub fn low_gradient<'a>(&self, dy: Block<'_>, out: Option<&'a mut [f32]>) -> Option<Block<'a>> {
        let ((a, b), out) = (self.low_rank.as_ref()?, out?);
        multiply_into(
            &[Term {
                block: dy,
                weights: b,
            }],
            out,
        );
        Some(Block::new(out, dy.rows(), a.rows()))
    }

    /// The products whose sum is the gradient of the input.
    pub fn terms<'a>(&'a self, dy: Block<'a>, low: Option<Block<'a>>) -> Vec<Term<'a>> {
        let mut terms = vec![Term {
            block: dy,
            weights: &self.weight,
        }];
        if let (Some(low), Some((a, _))) = (low, &self.low_rank) {
            terms.push(Term {
                block: low,
                weights: a,
            });
        }
        terms
    }
}
