//! Weights of a model that runs, in fewer bits than they were trained in.
//!
//! Decoding reads every weight once for each token, and memory sets its speed: half the bytes are half the time. The formats are
//! those of ggml in what they round, and laid out anew for how they are read: outputs in panels of sixteen, whose bytes follow
//! each other as the innermost loop takes them, so that a range of outputs is one stretch of memory.
//!
//! In `q8` and `q4` activations are rounded as well, each block of 32 to integers from −127 to 127. Products are sums of integers
//! then, which are exact. In `bf16` they are rounded to bf16 where the processor multiplies such (AVX512-BF16), and stay f32
//! elsewhere. What a row gives depends on neither the rows beside it, the range of outputs it is computed in, nor the number of
//! threads, to the last bit.

mod format;
mod layout;
mod linear;
mod memory;
mod prepared;
mod round;
mod tile;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

pub use format::{QuantFormat, RuntimeWeights};
pub use linear::quantized_linear;
pub use prepared::Prepared;

use layout::{PANEL, fill_panel, padded, panel_bytes, read_row, weight_bytes};
use memory::{Lines, Memory};
use prepared::{Values, tiles};
use tile::{Isa, MOST_ROWS, Tile};

use crate::error::{ModelError, Result};
use crate::weights::{HostTensor, MappedFile};

/// The weight of a linear layer, or an embedding, in a [`QuantFormat`]; copies share their memory. It is not trained.
#[derive(Clone)]
pub struct QuantizedWeight(Arc<Stored>);

struct Stored {
    format: QuantFormat,
    input: usize,
    output: usize,
    /// Bytes of sixteen outputs.
    panel: usize,
    memory: Memory,
}

impl fmt::Debug for QuantizedWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "QuantizedWeight[{}, {}, {}]",
            self.format(),
            self.input(),
            self.output()
        )
    }
}

impl QuantizedWeight {
    /// Rounds a weight.
    ///
    /// # Shapes
    /// - `weight`: `[output, input]`, as model files have it
    ///
    /// # Errors
    /// When it is no matrix, has no elements, or one of them is not finite.
    pub fn quantize(weight: &HostTensor, format: QuantFormat) -> Result<Self> {
        let refused = ModelError::Quantize;
        let [output, input] = weight.shape[..] else {
            return Err(refused(format!(
                "a tensor of shape {:?} is no matrix",
                weight.shape
            )));
        };
        if weight.values.is_empty() || input.checked_mul(output) != Some(weight.values.len()) {
            let (shape, count) = (&weight.shape, weight.values.len());
            return Err(refused(format!(
                "a matrix of shape {shape:?} with {count} elements"
            )));
        }
        if let Some(bad) = weight.values.par_iter().find_first(|value| !value.is_finite()) {
            return Err(refused(format!("an element is {bad}")));
        }
        let (Some(panel), Some(bytes)) = (panel_bytes(format, input), weight_bytes(format, input, output))
        else {
            return Err(refused(format!(
                "a matrix of shape {:?} is too large",
                weight.shape
            )));
        };
        let mut lines = Lines::zeros(bytes);
        let panels = lines.bytes_mut().par_chunks_mut(panel);
        panels
            .zip(weight.values.par_chunks(PANEL * input))
            .for_each(|(panel, rows)| fill_panel(format, rows, input, panel));
        Ok(Self(Arc::new(Stored {
            format,
            input,
            output,
            panel,
            memory: Memory::Owned(lines),
        })))
    }

    /// A weight whose bytes, as [`bytes`](Self::bytes) gave them, lie in a mapped file; `None` when they are not as many.
    pub(crate) fn mapped(
        format: QuantFormat,
        [input, output]: [usize; 2],
        file: &Arc<MappedFile>,
        range: Range<usize>,
    ) -> Option<Self> {
        let (panel, bytes) = (panel_bytes(format, input)?, weight_bytes(format, input, output)?);
        let fits = bytes > 0 && range.len() == bytes && range.end <= file.bytes().len();
        fits.then(|| {
            Self(Arc::new(Stored {
                format,
                input,
                output,
                panel,
                memory: Memory::Mapped {
                    file: Arc::clone(file),
                    range,
                },
            }))
        })
    }

    /// How it is held.
    pub fn format(&self) -> QuantFormat {
        self.0.format
    }

    /// Input width.
    pub fn input(&self) -> usize {
        self.0.input
    }

    /// Output width.
    pub fn output(&self) -> usize {
        self.0.output
    }

    /// Input and output width.
    pub fn dims(&self) -> [usize; 2] {
        [self.0.input, self.0.output]
    }

    /// All of it, panel by panel.
    pub fn bytes(&self) -> &[u8] {
        self.0.memory.bytes()
    }

    /// Brings activations into the form that weights of this format multiply; shared by all weights of one format and input
    /// width. Many rows are shared out to all threads.
    ///
    /// # Shapes
    /// - `x`: `[rows, input]`
    ///
    /// # Panics
    /// When `x` has another number of elements.
    pub fn prepare(&self, x: &[f32], rows: usize) -> Prepared {
        Prepared::new(Isa::here(), self.format(), x, rows, self.input())
    }

    /// A range of the output's columns, on the calling thread. A range is read fastest when it begins and ends with a multiple of
    /// sixteen.
    ///
    /// # Shapes
    /// - `out`: `[rows, columns.len()]`
    ///
    /// # Panics
    /// As [`product`](Self::product).
    pub fn columns(&self, x: &Prepared, columns: Range<usize>, out: &mut [f32]) {
        let width = columns.len();
        assert_eq!(out.len(), x.rows() * width, "elements of the output");
        self.product(x, 0..x.rows(), columns, (out, width));
    }

    /// Some rows of a range of the output's columns, on the calling thread: element `(row, column)` is written to
    /// `out[(row − rows.start) · stride + column − columns.start]`.
    ///
    /// # Panics
    /// When rows or columns are not there, `x` was prepared for other weights, or `out` is too short.
    pub fn product(
        &self,
        x: &Prepared,
        rows: Range<usize>,
        columns: Range<usize>,
        (out, stride): (&mut [f32], usize),
    ) {
        assert!(
            x.format() == self.format() && x.input() == self.input(),
            "activations for a weight of another kind"
        );
        assert!(
            rows.end <= x.rows() && columns.end <= self.output(),
            "rows {rows:?} and columns {columns:?} of a product of {} and {}",
            x.rows(),
            self.output()
        );
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        assert!(
            columns.len() <= stride && (rows.len() - 1) * stride + columns.len() <= out.len(),
            "the output is too short"
        );
        // SAFETY: the last element that is written lies inside of the output, which is borrowed for writing.
        unsafe { self.product_into(x, rows, columns, (out.as_mut_ptr(), stride)) };
    }

    /// [`product`](Self::product) into memory of which other threads write other parts.
    ///
    /// # Safety
    /// Rows and columns are those of the product; the elements of the output that they name are there, and nobody else reads or
    /// writes them meanwhile.
    unsafe fn product_into(
        &self,
        x: &Prepared,
        rows: Range<usize>,
        columns: Range<usize>,
        (out, stride): (*mut f32, usize),
    ) {
        let mut tile = [[0.0; PANEL]; MOST_ROWS];
        let panels = self.bytes().chunks_exact(self.0.panel).enumerate();
        for (index, panel) in panels
            .take(columns.end.div_ceil(PANEL))
            .skip(columns.start / PANEL)
        {
            let of_panel = columns.start.max(index * PANEL)..columns.end.min((index + 1) * PANEL);
            let first = of_panel.start - index * PANEL;
            for tile_rows in tiles(rows.clone(), x.isa.rows(self.format())) {
                self.tile(x, tile_rows.clone(), panel, &mut tile);
                for (row, sums) in tile_rows.zip(&tile) {
                    let at = (row - rows.start) * stride + of_panel.start - columns.start;
                    // SAFETY: the caller's promise. A whole row of known length needs no call of a function that copies.
                    unsafe {
                        match of_panel.len() {
                            PANEL => out.add(at).cast::<[f32; PANEL]>().write(*sums),
                            some => std::ptr::copy_nonoverlapping(sums[first..].as_ptr(), out.add(at), some),
                        }
                    }
                }
            }
        }
    }

    fn tile(&self, x: &Prepared, rows: Range<usize>, panel: &[u8], out: &mut Tile) {
        let (isa, count) = (x.isa, rows.len());
        match (&x.values, self.format()) {
            (Values::Floats(values), _) => {
                let width = padded(self.format(), self.input()).unwrap_or_default();
                tile::bf16(
                    isa,
                    count,
                    &values[rows.start * width..rows.end * width],
                    panel,
                    out,
                );
            }
            (Values::Bf16(values), _) => {
                let width = padded(self.format(), self.input()).unwrap_or_default();
                let values = &values[rows.start * width..rows.end * width];
                tile::bf16_both(isa, count, values, panel, out);
            }
            (Values::Wide(x), _) => tile::q8_wide(isa, count, x.rows(rows), panel, out),
            (Values::Narrow(x), QuantFormat::Q4) => tile::q4(isa, count, x.rows(rows), panel, out),
            (Values::Narrow(x), _) => tile::q8(isa, count, x.rows(rows), panel, out),
        }
    }

    /// What the weights of one output stand for: a token's row, where this is an embedding.
    ///
    /// # Shapes
    /// - `out`: `[input]`
    ///
    /// # Panics
    /// When there is no such output, or `out` has another length.
    pub fn row(&self, output: usize, out: &mut [f32]) {
        assert!(output < self.output(), "output {output} of {}", self.output());
        assert_eq!(out.len(), self.input(), "elements of a row");
        let panel = &self.bytes()[output / PANEL * self.0.panel..][..self.0.panel];
        read_row(self.format(), panel, output % PANEL, out);
    }

    /// The weight that the stored one stands for.
    ///
    /// # Shapes
    /// - output: `[output, input]`
    pub fn dequantize(&self) -> HostTensor {
        let [input, output] = self.dims();
        let mut values = vec![0.0; input * output];
        values
            .par_chunks_mut(input.max(1))
            .enumerate()
            .for_each(|(output, row)| self.row(output, row));
        HostTensor {
            shape: vec![output, input],
            values,
        }
    }

    /// [`dequantize`](Self::dequantize) on a device, for products of Burn's own. It is as large as an f32 weight, and lives as
    /// long as somebody needs it.
    ///
    /// # Shapes
    /// - output: `[input, output]`
    pub fn tensor(&self, device: &Device) -> Tensor<2> {
        let HostTensor { shape, values } = self.dequantize();
        Tensor::<2>::from_data(TensorData::new(values, shape), device).transpose()
    }
}

#[cfg(test)]
mod tests;
