//! Activations as a format multiplies them.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use bytemuck::Pod;
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
    Wide { values: Integers<i16>, scales: Buffer },
    /// The same in eight bits, and −8 times the sum of each block: `[rows, blocks]`.
    Narrow {
        values: Integers<i8>,
        scales: Buffer,
        offsets: Integers<i32>,
    },
}

/// Integers in memory that is used again.
#[derive(Debug)]
pub(super) struct Integers<T> {
    memory: Buffer,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Pod> Integers<T> {
    /// Whatever was there before.
    fn take(len: usize) -> Self {
        Self {
            memory: Buffer::take((len * size_of::<T>()).div_ceil(size_of::<f32>())),
            len,
            of: PhantomData,
        }
    }
}

impl<T: Pod> Deref for Integers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.memory)[..self.len]
    }
}

impl<T: Pod> DerefMut for Integers<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.memory)[..self.len]
    }
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
                let (wide, scales) = integers(x, input);
                let (mut values, mut offsets) = (Integers::take(wide.len()), Integers::take(scales.len()));
                let blocks = wide.as_chunks::<BLOCK>().0.iter();
                let out = values.as_chunks_mut::<BLOCK>().0.iter_mut();
                for ((wide, values), offset) in blocks.zip(out).zip(offsets.iter_mut()) {
                    *values = wide.map(|value| value as i8);
                    *offset = -8 * wide.iter().map(|&value| i32::from(value)).sum::<i32>();
                }
                Values::Narrow {
                    values,
                    scales,
                    offsets,
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
fn integers(x: &[f32], input: usize) -> (Integers<i16>, Buffer) {
    let blocks = input.div_ceil(BLOCK);
    let rows = x.len() / input.max(1);
    let (mut values, mut scales) = (Integers::take(rows * blocks * BLOCK), Buffer::take(rows * blocks));
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
