//! Activations as a format multiplies them.

use std::ops::Range;

use rayon::prelude::*;

use super::QuantFormat;
use super::layout::{BLOCK, padded};
use super::round::round_activations;
use crate::kernels::buffers::Buffer;
use crate::kernels::flex::PIECE;

/// Rows of activations, made once for all weights of a format that read them.
#[derive(Debug)]
pub struct Prepared {
    rows: usize,
    input: usize,
    pub(super) values: Values,
}

/// See [`Prepared`].
#[derive(Debug)]
pub(super) enum Values {
    /// `[rows, input]`, with a zero behind each row of an odd width.
    Floats(Buffer),
    /// Integers of 16 bits, though none is beyond eight, and scales: `[rows, blocks · 32]`, `[rows, blocks]`.
    Wide { values: Vec<i16>, scales: Vec<f32> },
    /// The same in eight bits, and −8 times the sum of each block: `[rows, blocks]`.
    Narrow {
        values: Vec<i8>,
        scales: Vec<f32>,
        offsets: Vec<i32>,
    },
}

impl Prepared {
    pub(super) fn new(format: QuantFormat, x: &[f32], rows: usize, input: usize) -> Self {
        assert_eq!(x.len(), rows * input, "elements of the activations");
        let values = match format {
            QuantFormat::Bf16 => Values::Floats(floats(x, rows, input)),
            QuantFormat::Q8 => {
                let (values, scales) = integers(x, input);
                Values::Wide { values, scales }
            }
            QuantFormat::Q4 => {
                let (values, scales) = integers(x, input);
                let offset = |block: &[i16]| -8 * block.iter().map(|&value| i32::from(value)).sum::<i32>();
                Values::Narrow {
                    offsets: values.chunks_exact(BLOCK).map(offset).collect(),
                    values: values.into_iter().map(|value| value as i8).collect(),
                    scales,
                }
            }
        };
        Self { rows, input, values }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The width.
    pub fn input(&self) -> usize {
        self.input
    }

    /// The format whose weights multiply it.
    pub fn format(&self) -> QuantFormat {
        match self.values {
            Values::Floats(_) => QuantFormat::Bf16,
            Values::Wide { .. } => QuantFormat::Q8,
            Values::Narrow { .. } => QuantFormat::Q4,
        }
    }
}

fn floats(x: &[f32], rows: usize, input: usize) -> Buffer {
    let width = padded(QuantFormat::Bf16, input).unwrap_or(input);
    let mut out = Buffer::take(rows * width);
    for (out, x) in out
        .chunks_exact_mut(width.max(1))
        .zip(x.chunks_exact(input.max(1)))
    {
        out[..input].copy_from_slice(x);
        out[input..].fill(0.0);
    }
    out
}

/// Rows by integers and scales; many rows on all threads.
fn integers(x: &[f32], input: usize) -> (Vec<i16>, Vec<f32>) {
    let blocks = input.div_ceil(BLOCK);
    let rows = x.len() / input.max(1);
    let (mut values, mut scales) = (vec![0; rows * blocks * BLOCK], vec![0.0; rows * blocks]);
    let at_once = (PIECE / input.max(1)).max(1);
    let round = |(x, values, scales): (&[f32], &mut [i16], &mut [f32])| {
        let rows = x.chunks_exact(input);
        let out = values
            .chunks_exact_mut(blocks * BLOCK)
            .zip(scales.chunks_exact_mut(blocks));
        for (x, (values, scales)) in rows.zip(out) {
            round_activations(x, values, scales);
        }
    };
    if rows <= at_once {
        if rows > 0 {
            round((x, &mut values, &mut scales));
        }
        return (values, scales);
    }
    let pieces = (
        x.par_chunks(at_once * input),
        values.par_chunks_mut(at_once * blocks * BLOCK),
        scales.par_chunks_mut(at_once * blocks),
    );
    pieces.into_par_iter().for_each(round);
    (values, scales)
}

/// Row ranges of tiles of up to `most` rows, as even as can be: a tile of one row costs half of one of six.
pub(super) fn tiles(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.len().div_ceil(most);
    let at = move |tile: usize| rows.start + rows.len() * tile / count.max(1);
    (0..count).map(move |tile| at(tile)..at(tile + 1))
}
