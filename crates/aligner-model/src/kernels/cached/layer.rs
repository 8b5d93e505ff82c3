//! Linear layers over slices, computed by ranges of their columns.
//!
//! Whatever a weight is made of, an element of the output depends on its row, its column and nothing else: neither on how many
//! rows there are nor on which columns a thread computes.

use std::ops::Range;

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};

use super::dots::{dots, strided};
use super::forms::{FORM_ROWS, Forms};
use super::memory::Row;
use super::panel_weight::PanelWeight;
use super::sums::{Rows, product};
use crate::kernels::flex::elements;
use crate::kernels::int8::Int8Weight;
use crate::kernels::linear::{Linear, LinearWeight, LowRank};
use crate::kernels::matrix::Matrix;
use crate::kernels::panels::{WIDTH, pack_panel};
use crate::kernels::quant::QuantizedWeight;
use crate::kernels::slots::Slots;
use crate::kernels::team;

/// Rows that go through a panel together: they stay in the second cache for as long as a piece needs them. A multiple of
/// [`FORM_ROWS`].
pub(super) const BLOCK: usize = 96;
/// Rows up to which a row-major weight is read as it lies; for more, a panel of it is packed first.
const FEW: usize = 8;
/// Bytes of weights that are worth a piece of their own.
const PIECE_BYTES: usize = 1 << 15;
/// Panels of a piece for many rows.
const MOST_PANELS: usize = 4;
/// Pieces for each thread, where a few rows more than one tile's share a weight.
const MOST_PIECES: usize = 16;
/// Rows for which a tile need not be as large as a block.
const SMALL: usize = 12;

/// What multiplies the rows.
#[derive(Clone, Copy)]
enum Weight<'a> {
    Panels(&'a PanelWeight),
    /// `[input, output]`
    ByInput(&'a [f32]),
    /// `[output, input]`
    ByOutput(&'a [f32]),
    Int8(&'a Int8Weight),
    Quantized(&'a QuantizedWeight),
}

/// A linear layer: weight, bias and adapter.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    weight: Weight<'a>,
    bias: Option<&'a [f32]>,
    adapter: Option<Adapter<'a>>,
    pub input: usize,
    pub output: usize,
}

/// A low-rank update.
#[derive(Clone, Copy)]
struct Adapter<'a> {
    /// `[input, rank]`
    a: &'a [f32],
    /// `[rank, output]`
    b: &'a [f32],
    rank: usize,
    scale: f32,
}

/// The rows that a layer multiplies.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub rows: Rows<'a>,
    pub count: usize,
    /// Which row of the forms is the first of these.
    pub first: usize,
    /// `rows · A`, where the layer has an adapter.
    pub low: &'a [f32],
    /// The rows as rounded weights multiply them.
    pub forms: &'a Forms<'a>,
}

impl Input<'_> {
    /// Some of the rows, for a layer whose adapter is of this rank.
    pub fn of_rows(self, rows: Range<usize>, rank: usize) -> Self {
        Self {
            rows: self.rows.starting_at(rows.start * self.rows.stride),
            count: rows.len(),
            first: self.first + rows.start,
            low: &self.low[rows.start * rank..rows.end * rank],
            forms: self.forms,
        }
    }
}

/// Slots of a layer's tensors: weight, bias, A, B.
pub(super) const SLOTS: usize = 4;

/// What of a layer is no tensor.
#[derive(Debug, Clone)]
pub struct LayerPlan {
    scale: f32,
    weight: Held,
}

/// Where the weight is.
#[derive(Debug, Clone)]
enum Held {
    InSlot,
    Panels(PanelWeight),
    Int8(Int8Weight),
    Quantized(QuantizedWeight),
}

impl LayerPlan {
    /// Puts a layer's tensors into the next slots; returns what else there is.
    pub fn new(linear: Linear, slots: &mut Slots) -> Self {
        let (tensor, weight) = match linear.weight {
            LinearWeight::Dense(weight) => (Some(weight), Held::InSlot),
            LinearWeight::Panels(weight) => (None, Held::Panels(weight)),
            LinearWeight::Int8(weight) => (None, Held::Int8(weight)),
            LinearWeight::Quantized(weight) => (None, Held::Quantized(weight)),
        };
        slots.push(tensor);
        slots.push(linear.bias);
        let (a, b, scale) = match linear.lora {
            Some(LowRank { a, b, scale }) => (Some(a), Some(b), scale),
            None => (None, None, 0.0),
        };
        slots.push(a);
        slots.push(b);
        Self {
            scale: scale as f32,
            weight,
        }
    }
}

impl<'a> Layer<'a> {
    /// Reads a layer's slots, whose tensors are contiguous.
    pub fn of(slots: &'a [Option<FloatTensor<Flex>>], plan: &'a LayerPlan) -> Self {
        let slice = |slot: usize| elements(slots[slot].as_ref());
        let (weight, [input, output]) = match &plan.weight {
            Held::InSlot => {
                let shape = slots[0].as_ref().map(|weight| weight.shape());
                let dims = shape.map_or([0, 0], |shape| [shape[0], shape[1]]);
                (Weight::ByInput(slice(0).unwrap_or_default()), dims)
            }
            Held::Panels(weight) => (Weight::Panels(weight), weight.dims()),
            Held::Int8(weight) => (Weight::Int8(weight), weight.dims()),
            Held::Quantized(weight) => (Weight::Quantized(weight), weight.dims()),
        };
        let adapter = slice(2).zip(slice(3)).map(|(a, b)| Adapter {
            a,
            b,
            rank: a.len() / input.max(1),
            scale: plan.scale,
        });
        Self {
            weight,
            bias: slice(1),
            adapter,
            input,
            output,
        }
    }

    /// A weight alone, `[input, output]`.
    #[cfg(test)]
    fn by_input(weight: &'a [f32], [input, output]: [usize; 2]) -> Self {
        Self::alone(Weight::ByInput(weight), [input, output])
    }

    /// A weight alone, `[output, input]`.
    pub fn by_output(weight: &'a [f32], [input, output]: [usize; 2]) -> Self {
        Self::alone(Weight::ByOutput(weight), [input, output])
    }

    /// A weight alone, in panels.
    #[cfg(test)]
    fn panels_of(weight: &'a PanelWeight) -> Self {
        Self::alone(Weight::Panels(weight), weight.dims())
    }

    fn alone(weight: Weight<'a>, [input, output]: [usize; 2]) -> Self {
        Self {
            weight,
            bias: None,
            adapter: None,
            input,
            output,
        }
    }

    /// The weight, where it is a rounded one that multiplies rows in a form of its own.
    pub fn quantized(&self) -> Option<&'a QuantizedWeight> {
        match self.weight {
            Weight::Quantized(weight) => Some(weight),
            _ => None,
        }
    }

    /// Rank of the adapter; 0 when there is none.
    pub fn rank(&self) -> usize {
        self.adapter.map_or(0, |adapter| adapter.rank)
    }

    /// `rows · A`, into `out` of `[count, rank]`.
    pub fn low(&self, rows: Rows<'_>, out: &mut [f32]) {
        if let Some(Adapter { a, rank, .. }) = self.adapter {
            out.fill(0.0);
            strided(rows, self.input, (a, rank), (out, rank));
        }
    }

    /// The output cut into ranges of panels, for as many rows.
    pub fn pieces(&self, count: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let panels = self.output.div_ceil(WIDTH);
        let bytes = match self.weight {
            Weight::Int8(_) => self.input * WIDTH,
            Weight::Quantized(weight) => weight.bytes().len() / panels.max(1),
            _ => self.input * WIDTH * size_of::<f32>(),
        };
        let threads = team::threads();
        let wanted = match self.weight {
            // Runs of memory as long as can be.
            Weight::ByInput(_) if count <= FEW => threads,
            // A block of rows is read once for all panels of a piece.
            _ if count > BLOCK => threads * panels.div_ceil(threads * MOST_PANELS),
            // Where a piece begins, memory has to be waited for; where they are few, a thread may wait for another.
            _ if count <= FEW => 2 * threads,
            // With many rows memory is waited for least, and a piece takes longest.
            _ => MOST_PIECES * threads,
        };
        // A panel is worth a piece sooner where more rows are multiplied with it.
        let worth = (PIECE_BYTES / count.div_ceil(FEW).max(1)).max(1);
        let pieces = wanted.min(panels * bytes / worth).clamp(1, panels.max(1));
        (0..pieces).map(move |piece| panels * piece / pieces..panels * (piece + 1) / pieces)
    }

    /// Computes a range of panels of 32 columns; `write` is given each panel, the first row of each tile and its rows, of which
    /// the columns behind the last of the output mean nothing.
    ///
    /// # Panics
    /// When the rows are shorter than the layer's input.
    pub fn compute(
        &self,
        input: Input<'_>,
        panels: Range<usize>,
        mut write: impl FnMut(usize, usize, &mut [[f32; WIDTH]]),
    ) {
        if input.count == 0 {
            return;
        }
        let mut finished = |panel: usize, first: usize, tile: &mut [[f32; WIDTH]]| {
            self.finish(input, panel, first, tile);
            write(panel, first, tile);
        };
        match self.weight {
            Weight::Panels(weight) => by_blocks(input, |first, rows, tile| {
                for panel in panels.clone() {
                    product(rows, weight.panel(panel), tile);
                    finished(panel, first, tile);
                }
            }),
            Weight::ByInput(weight) if input.count <= FEW => {
                self.as_it_lies(weight, input, panels, finished);
            }
            Weight::ByInput(weight) => {
                let matrix = Matrix::new(weight, self.input, self.output, self.output);
                let mut packed = vec![Row([0.0; WIDTH]); self.input];
                for panel in panels {
                    pack_panel(matrix, panel * WIDTH, Row::flattened(&mut packed));
                    by_blocks(input, |first, rows, tile| {
                        product(rows, &packed, tile);
                        finished(panel, first, tile);
                    });
                }
            }
            Weight::ByOutput(weight) => by_blocks(input, |first, rows, tile| {
                for panel in panels.clone() {
                    for column in 0..self.width(panel) {
                        let output = panel * WIDTH + column;
                        let weight = &weight[output * self.input..][..self.input];
                        dots(rows, tile.len(), weight, |row, sum| tile[row][column] = sum);
                    }
                    finished(panel, first, tile);
                }
            }),
            Weight::Int8(weight) => {
                let mut values = vec![0.0; self.input];
                by_blocks(input, |first, rows, tile| {
                    for panel in panels.clone() {
                        for column in 0..self.width(panel) {
                            weight.dequantize_output(panel * WIDTH + column, &mut values);
                            dots(rows, tile.len(), &values, |row, sum| tile[row][column] = sum);
                        }
                        finished(panel, first, tile);
                    }
                });
            }
            Weight::Quantized(weight) => {
                let mut tile = [[0.0; WIDTH]; FORM_ROWS];
                for panel in panels {
                    let columns = panel * WIDTH..panel * WIDTH + self.width(panel);
                    for first in (0..input.count).step_by(FORM_ROWS) {
                        let rows = input.forms.block((input.first + first) / FORM_ROWS, weight);
                        let tile = &mut tile[..rows.rows()];
                        weight.product(
                            rows,
                            0..rows.rows(),
                            columns.clone(),
                            (tile.as_flattened_mut(), WIDTH),
                        );
                        finished(panel, first, tile);
                    }
                }
            }
        }
    }

    /// A few rows times a row-major weight, of whose rows the part that belongs to the panels is read from left to right.
    fn as_it_lies(
        &self,
        weight: &[f32],
        input: Input<'_>,
        panels: Range<usize>,
        mut finished: impl FnMut(usize, usize, &mut [[f32; WIDTH]]),
    ) {
        let first = panels.start * WIDTH;
        let width = (panels.end * WIDTH).min(self.output) - first;
        let mut sums = vec![0.0; input.count * width];
        strided(
            input.rows,
            self.input,
            (&weight[first..], self.output),
            (&mut sums, width),
        );
        let mut tile = [[0.0; WIDTH]; FEW];
        for panel in panels {
            let (at, columns) = (panel * WIDTH - first, self.width(panel));
            let tile = &mut tile[..input.count];
            for (tile, sums) in tile.iter_mut().zip(sums.chunks_exact(width)) {
                tile[..columns].copy_from_slice(&sums[at..at + columns]);
            }
            finished(panel, 0, tile);
        }
    }

    /// Adds bias and adapter to a tile.
    fn finish(&self, input: Input<'_>, panel: usize, first: usize, tile: &mut [[f32; WIDTH]]) {
        let (at, width) = (panel * WIDTH, self.width(panel));
        if let Some(Adapter { b, rank, scale, .. }) = self.adapter {
            let mut updates = [0.0; WIDTH];
            for (row, tile) in tile.iter_mut().enumerate() {
                let low = Rows {
                    x: &input.low[(first + row) * rank..][..rank],
                    stride: rank,
                };
                let updates = &mut updates[..width];
                updates.fill(0.0);
                strided(low, rank, (&b[at..], self.output), (&mut *updates, width));
                tile.iter_mut()
                    .zip(updates)
                    .for_each(|(sum, update)| *sum += scale * *update);
            }
        }
        if let Some(bias) = self.bias {
            for row in tile {
                row.iter_mut()
                    .zip(&bias[at..at + width])
                    .for_each(|(sum, bias)| *sum += bias);
            }
        }
    }

    /// Columns of a panel that are there.
    pub fn width(&self, panel: usize) -> usize {
        WIDTH.min(self.output - panel * WIDTH)
    }
}

/// Calls `each` with blocks of the rows: the first, the rows and a tile for them.
fn by_blocks(input: Input<'_>, mut each: impl FnMut(usize, Rows<'_>, &mut [[f32; WIDTH]])) {
    if input.count <= SMALL {
        let mut tile = [[0.0; WIDTH]; SMALL];
        return each(0, input.rows, &mut tile[..input.count]);
    }
    let mut tile = [[0.0; WIDTH]; BLOCK];
    for first in (0..input.count).step_by(BLOCK) {
        let rows = input.rows.starting_at(first * input.rows.stride);
        each(first, rows, &mut tile[..BLOCK.min(input.count - first)]);
    }
}

#[cfg(test)]
mod tests;
