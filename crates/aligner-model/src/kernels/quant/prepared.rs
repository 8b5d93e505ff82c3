//! Activations as a format multiplies them.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use bytemuck::Pod;
use rayon::prelude::*;

use super::QuantFormat;
use super::layout::{BLOCK, bias, padded};
use super::round::{Row, nearest_bf16, round_narrow, round_wide};
use super::tile::{Blocks, Isa};
use crate::kernels::buffers::Buffer;
use crate::kernels::flex::PIECE;
use crate::kernels::math::vectorized;

/// Rows of activations, made once for all weights of a format that read them.
#[derive(Debug)]
pub struct Prepared {
    format: QuantFormat,
    rows: usize,
    input: usize,
    /// Whose loops read it.
    pub(super) isa: Isa,
    pub(super) values: Values,
}

/// See [`Prepared`].
#[derive(Debug)]
pub(super) enum Values {
    /// `[rows, input]`, with a zero behind each row of an odd width.
    Floats(Buffer),
    /// The same in bf16.
    Bf16(Integers<u16>),
    /// In 16 bits, though none is beyond eight.
    Wide(Rounded<i16>),
    /// In eight bits, the inputs in the order of the weights.
    Narrow(Rounded<i8>),
}

/// Rows of integers.
#[derive(Debug)]
pub(super) struct Rounded<T> {
    /// `[rows, blocks · 32]`
    values: Integers<T>,
    /// `[rows, blocks]`
    scales: Buffer,
    /// `[rows, blocks]`: what the bias of stored weights adds to a block's products, with the other sign.
    offsets: Integers<i32>,
    blocks: usize,
}

impl<T: Pod + Send> Rounded<T> {
    /// Rounds rows, many of them on all threads.
    fn new(x: &[f32], input: usize, round: impl Fn(&[f32], Row<'_, T>) + Sync) -> Self {
        let blocks = input.div_ceil(BLOCK);
        let rows = x.len() / input.max(1);
        let mut rounded = Self {
            values: Integers::take(rows * blocks * BLOCK),
            scales: Buffer::take(rows * blocks),
            offsets: Integers::take(rows * blocks),
            blocks,
        };
        if rows == 0 {
            return rounded;
        }
        let round_rows = |x: &[f32], rows: Row<'_, T>| {
            let values = rows.values.chunks_exact_mut(blocks * BLOCK);
            let of_blocks = rows.scales.chunks_exact_mut(blocks);
            let of_blocks = of_blocks.zip(rows.offsets.chunks_exact_mut(blocks));
            for ((x, values), (scales, offsets)) in x.chunks_exact(input).zip(values).zip(of_blocks) {
                let row = Row {
                    values,
                    scales,
                    offsets,
                };
                round(x, row);
            }
        };
        let at_once = (PIECE / input).max(1);
        if rows <= at_once {
            let (values, scales, offsets) =
                (&mut *rounded.values, &mut *rounded.scales, &mut *rounded.offsets);
            round_rows(
                x,
                Row {
                    values,
                    scales,
                    offsets,
                },
            );
        } else {
            x.par_chunks(at_once * input)
                .zip(rounded.values.par_chunks_mut(at_once * blocks * BLOCK))
                .zip(rounded.scales.par_chunks_mut(at_once * blocks))
                .zip(rounded.offsets.par_chunks_mut(at_once * blocks))
                .for_each(|(((x, values), scales), offsets)| {
                    let rows = Row {
                        values,
                        scales,
                        offsets,
                    };
                    round_rows(x, rows);
                });
        }
        rounded
    }

    /// Some rows.
    pub fn rows(&self, rows: Range<usize>) -> Blocks<'_, T> {
        let blocks = self.blocks;
        let of_blocks = rows.start * blocks..rows.end * blocks;
        Blocks {
            values: &self.values[of_blocks.start * BLOCK..of_blocks.end * BLOCK],
            scales: &self.scales[of_blocks.clone()],
            offsets: &self.offsets[of_blocks],
            blocks,
        }
    }
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
    pub(super) fn new(isa: Isa, format: QuantFormat, x: &[f32], rows: usize, input: usize) -> Self {
        assert_eq!(x.len(), rows * input, "elements of the activations");
        let bias = bias(format);
        let values = if format == QuantFormat::Bf16 {
            match isa.multiplies_bf16() {
                true => Values::Bf16(rounded_bf16(x, rows, input)),
                false => Values::Floats(floats(x, rows, input)),
            }
        } else if isa.is_wide(format) {
            Values::Wide(Rounded::new(x, input, |x, row| round_wide(x, bias, row)))
        } else {
            Values::Narrow(Rounded::new(x, input, |x, row| round_narrow(isa, x, bias, row)))
        };
        Self {
            format,
            rows,
            input,
            isa,
            values,
        }
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
        self.format
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

/// Activations rounded to bf16, many of them on all threads.
fn rounded_bf16(x: &[f32], rows: usize, input: usize) -> Integers<u16> {
    let (input, width) = (
        input.max(1),
        padded(QuantFormat::Bf16, input).unwrap_or(input).max(1),
    );
    let mut out = Integers::take(rows * width);
    let round_rows = |out: &mut [u16], x: &[f32]| {
        vectorized!((out: &'a mut [u16], x: &'a [f32], width: usize, input: usize) -> () {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(input)) {
                let (out, rest) = out.split_at_mut(input);
                for (out, x) in out.iter_mut().zip(x) {
                    *out = nearest_bf16(*x);
                }
                rest.fill(0);
            }
        });
    };
    let at_once = (PIECE / input).max(1);
    if rows <= at_once {
        round_rows(&mut out, x);
    } else {
        out.par_chunks_mut(at_once * width)
            .zip(x.par_chunks(at_once * input))
            .for_each(|(out, x)| round_rows(out, x));
    }
    out
}

/// Row ranges of tiles of up to `most` rows, as even as can be: a tile of one row costs half of one of six.
pub(super) fn tiles(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.len().div_ceil(most);
    let at = move |tile: usize| rows.start + rows.len() * tile / count.max(1);
    (0..count).map(move |tile| at(tile)..at(tile + 1))
}
