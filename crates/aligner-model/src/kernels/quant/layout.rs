//! Where the elements of a weight lie: panels of sixteen outputs, one behind the other, each read from front to back.
//!
//! ```text
//! bf16   panel:  two inputs × 16 outputs, as pairs           ·  width / 2
//! q8     block:   8 × (four inputs × 16 outputs, as fours)   then 16 scales   ·  width / 32
//! q4     block:   4 × (eight inputs × 16 outputs, as fours)  then 16 scales   ·  width / 32
//! ```
//!
//! Four inputs lie in the order 0, 2, 1, 3: an instruction that takes bytes takes all four of an output at once, and for one that
//! takes 16 bits the even bytes are the first pair and the odd ones the second, so that neither moves bytes about.
//!
//! In `q8` a byte is 128 more than it stands for. In `q4` it holds an input in its lower half and the fourth one behind it in
//! its upper half, each 8 more than it stands for. Scales are bf16. Inputs and outputs that are missing at the end are zeros.

use super::QuantFormat;
use super::round::{round_bf16, round_q4, round_q8};
use crate::kernels::math::vectorized;

/// Outputs of a panel.
pub(super) const PANEL: usize = 16;
/// Inputs that share a scale.
pub(super) const BLOCK: usize = 32;
/// Bytes of a block of a panel in `q8`.
pub(super) const Q8_BLOCK: usize = PANEL * BLOCK + 2 * PANEL;
/// Bytes of a block of a panel in `q4`.
pub(super) const Q4_BLOCK: usize = PANEL * BLOCK / 2 + 2 * PANEL;

/// Bytes of a panel; `None` when they are more than can be counted.
pub(super) fn panel_bytes(format: QuantFormat, input: usize) -> Option<usize> {
    match format {
        QuantFormat::Bf16 => padded(format, input)?.checked_mul(2 * PANEL),
        QuantFormat::Q8 => input.div_ceil(BLOCK).checked_mul(Q8_BLOCK),
        QuantFormat::Q4 => input.div_ceil(BLOCK).checked_mul(Q4_BLOCK),
    }
}

/// Bytes of a weight; `None` when they are more than can be counted.
pub(super) fn weight_bytes(format: QuantFormat, input: usize, output: usize) -> Option<usize> {
    panel_bytes(format, input)?.checked_mul(output.div_ceil(PANEL))
}

/// The input width with the zeros at its end.
pub(super) fn padded(format: QuantFormat, input: usize) -> Option<usize> {
    let multiple = match format {
        QuantFormat::Bf16 => 2,
        QuantFormat::Q8 | QuantFormat::Q4 => BLOCK,
    };
    input.checked_next_multiple_of(multiple)
}

/// The `index`th of some scales.
pub(super) fn scale_of(scales: &[u8], index: usize) -> f32 {
    bf16_at(scales, 2 * index)
}

fn bf16_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])) << 16)
}

/// Rounds up to sixteen rows of a weight into a panel, whose bytes are zeros.
///
/// # Shapes
/// - `rows`: `[outputs, input]`
pub(super) fn fill_panel(format: QuantFormat, rows: &[f32], input: usize, panel: &mut [u8]) {
    vectorized!((format: QuantFormat, rows: &'a [f32], input: usize, panel: &'a mut [u8]) -> () {
        for (output, row) in rows.chunks_exact(input).enumerate() {
            match format {
                QuantFormat::Bf16 => fill_bf16(output, row, panel),
                QuantFormat::Q8 => {
                    for (block, out) in row.chunks(BLOCK).zip(panel.chunks_exact_mut(Q8_BLOCK)) {
                        fill_q8(output, &padded_block(block), out);
                    }
                }
                QuantFormat::Q4 => {
                    for (block, out) in row.chunks(BLOCK).zip(panel.chunks_exact_mut(Q4_BLOCK)) {
                        fill_q4(output, &padded_block(block), out);
                    }
                }
            }
        }
    });
}

#[inline(always)]
fn padded_block(block: &[f32]) -> [f32; BLOCK] {
    let mut whole = [0.0; BLOCK];
    whole[..block.len()].copy_from_slice(block);
    whole
}

fn bf16_place(output: usize, input: usize) -> usize {
    input / 2 * 4 * PANEL + 4 * output + 2 * (input % 2)
}

/// What the stored integers are more than they stand for.
pub(super) fn bias(format: QuantFormat) -> i32 {
    match format {
        QuantFormat::Bf16 => 0,
        QuantFormat::Q8 => 128,
        QuantFormat::Q4 => 8,
    }
}

/// Where each of four inputs lies among them; the same says which input lies at a place.
pub(super) const IN_FOUR: [usize; 4] = [0, 2, 1, 3];

/// [`IN_FOUR`] for any input or place.
pub(super) const fn in_fours(input: usize) -> usize {
    input / 4 * 4 + IN_FOUR[input % 4]
}

fn q8_place(output: usize, input: usize) -> usize {
    input / 4 * 4 * PANEL + 4 * output + IN_FOUR[input % 4]
}

/// The byte, and whether it is its upper half.
fn q4_place(output: usize, input: usize) -> (usize, bool) {
    (
        input / 8 * 4 * PANEL + 4 * output + IN_FOUR[input % 4],
        input % 8 >= 4,
    )
}

#[inline(always)]
fn fill_bf16(output: usize, row: &[f32], panel: &mut [u8]) {
    for (input, &weight) in row.iter().enumerate() {
        let at = bf16_place(output, input);
        panel[at..at + 2].copy_from_slice(&round_bf16(weight).to_le_bytes());
    }
}

#[inline(always)]
fn fill_q8(output: usize, weights: &[f32; BLOCK], out: &mut [u8]) {
    let (values, scale) = round_q8(weights);
    for (input, value) in values.into_iter().enumerate() {
        out[q8_place(output, input)] = (i16::from(value) + 128) as u8;
    }
    let at = Q8_BLOCK - 2 * PANEL + 2 * output;
    out[at..at + 2].copy_from_slice(&scale.to_le_bytes());
}

#[inline(always)]
fn fill_q4(output: usize, weights: &[f32; BLOCK], out: &mut [u8]) {
    let (values, scale) = round_q4(weights);
    for (input, value) in values.into_iter().enumerate() {
        let (at, upper) = q4_place(output, input);
        let value = (value + 8) as u8;
        out[at] |= if upper { value << 4 } else { value };
    }
    let at = Q4_BLOCK - 2 * PANEL + 2 * output;
    out[at..at + 2].copy_from_slice(&scale.to_le_bytes());
}

/// What a panel's bytes stand for in the row of one of its outputs.
///
/// # Shapes
/// - `row`: `[input]`
pub(super) fn read_row(format: QuantFormat, panel: &[u8], output: usize, row: &mut [f32]) {
    match format {
        QuantFormat::Bf16 => {
            for (input, out) in row.iter_mut().enumerate() {
                *out = bf16_at(panel, bf16_place(output, input));
            }
        }
        QuantFormat::Q8 => {
            for (out, block) in row.chunks_mut(BLOCK).zip(panel.chunks_exact(Q8_BLOCK)) {
                let scale = scale_of(&block[Q8_BLOCK - 2 * PANEL..], output);
                for (input, out) in out.iter_mut().enumerate() {
                    *out = (f32::from(block[q8_place(output, input)]) - 128.0) * scale;
                }
            }
        }
        QuantFormat::Q4 => {
            for (out, block) in row.chunks_mut(BLOCK).zip(panel.chunks_exact(Q4_BLOCK)) {
                let scale = scale_of(&block[Q4_BLOCK - 2 * PANEL..], output);
                for (input, out) in out.iter_mut().enumerate() {
                    let (at, upper) = q4_place(output, input);
                    let value = if upper { block[at] >> 4 } else { block[at] & 15 };
                    *out = (f32::from(value) - 8.0) * scale;
                }
            }
        }
    }
}
