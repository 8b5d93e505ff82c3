//! The loops for the compiler to vectorise.

use super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK, scale_of};
use super::{Blocks, Tile};

/// Adds a block's exact sums.
fn add_block(out: &mut [f32; PANEL], sums: &[i32; PANEL], block: &[u8], scale: f32) {
    let scales = block.len() - 2 * PANEL;
    for output in 0..PANEL {
        let scale = scale_of(&block[scales..], output) * scale;
        // One rounding, as the instructions of the other loops have it: a call of the C library where there is none.
        out[output] = (sums[output] as f32).mul_add(scale, out[output]);
    }
}

/// `order` says which of four activations the weight at a place is multiplied by.
#[inline]
pub(super) fn q8<T: Copy + Into<i32>>(
    rows: usize,
    x: Blocks<'_, T>,
    panel: &[u8],
    out: &mut Tile,
    order: [usize; 4],
) {
    let out: &mut [[f32; PANEL]] = &mut out[..rows];
    out.fill([0.0; PANEL]);
    for (index, block) in panel.chunks_exact(Q8_BLOCK).take(x.blocks).enumerate() {
        for (row, out) in out.iter_mut().enumerate() {
            let at = row * x.blocks + index;
            let (fours, _) = x.values[at * BLOCK..][..BLOCK].as_chunks::<4>();
            let mut sums = [x.offsets[at]; PANEL];
            for (x, weights) in fours.iter().zip(block.as_chunks::<{ 4 * PANEL }>().0) {
                let x: [i32; 4] = order.map(|at| x[at].into());
                for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                    for (x, &weight) in x.iter().zip(weights) {
                        *sum += x * i32::from(weight);
                    }
                }
            }
            add_block(out, &sums, block, x.scales[at]);
        }
    }
}

pub(super) fn q4(rows: usize, x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let out: &mut [[f32; PANEL]] = &mut out[..rows];
    out.fill([0.0; PANEL]);
    for (index, block) in panel.chunks_exact(Q4_BLOCK).take(x.blocks).enumerate() {
        for (row, out) in out.iter_mut().enumerate() {
            let at = row * x.blocks + index;
            let (eights, _) = x.values[at * BLOCK..][..BLOCK].as_chunks::<8>();
            let mut sums = [x.offsets[at]; PANEL];
            for (x, weights) in eights.iter().zip(block.as_chunks::<{ 4 * PANEL }>().0) {
                for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
                    for (step, &pair) in weights.iter().enumerate() {
                        *sum += i32::from(x[step]) * i32::from(pair & 15)
                            + i32::from(x[4 + step]) * i32::from(pair >> 4);
                    }
                }
            }
            add_block(out, &sums, block, x.scales[at]);
        }
    }
}

pub(super) fn bf16<const ROWS: usize>(x: &[f32], panel: &[u8], out: &mut Tile) {
    let width = panel.len() / (2 * PANEL);
    let rows = x.chunks_exact(width.max(1));
    for (x, out) in rows.zip(&mut out[..ROWS]) {
        let mut sums = [0.0f32; PANEL];
        let (pairs, _) = x.as_chunks::<2>();
        for (x, weights) in pairs.iter().zip(panel.as_chunks::<{ 4 * PANEL }>().0) {
            for (half, x) in x.iter().enumerate() {
                for (output, sum) in sums.iter_mut().enumerate() {
                    let at = 4 * output + 2 * half;
                    let bits = u16::from_le_bytes([weights[at], weights[at + 1]]);
                    let weight = f32::from_bits(u32::from(bits) << 16);
                    *sum = if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                        x.mul_add(weight, *sum)
                    } else {
                        *sum + x * weight
                    };
                }
            }
        }
        *out = sums;
    }
}
