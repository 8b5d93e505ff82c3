//! The loops for integers where the machine has SDOT, which adds up the products of four bytes in each lane.

use std::arch::aarch64::{int8x16_t, int32x4_t, vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, vld1q_s8, vld1q_u8};

use super::super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};
use super::super::{Blocks, Tile};
use super::{Sums, VECTORS, add_block, halves, scales, signed, store};

/// Adds the products of four weights of each output with four of sixteen inputs.
///
/// Written out because its intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const FOUR: u8>(mut sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the function has the instruction, which touches registers alone.
    unsafe {
        std::arch::asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {x:v}.4b[{four}]",
            sum = inout(vreg) sum,
            weights = in(vreg) weights,
            x = in(vreg) x,
            four = const FOUR,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds the products of four inputs in `q8`.
///
/// # Safety
/// There are 64 bytes at `at`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_four<const FOUR: u8, const ROWS: usize>(
    at: *const u8,
    x: &[int8x16_t; ROWS],
    sums: &mut [Sums; ROWS],
) {
    for vector in 0..VECTORS {
        // SAFETY: the caller's promise.
        let weights = unsafe { signed(at.add(vector * PANEL)) };
        for (x, sums) in x.iter().zip(&mut *sums) {
            sums[vector] = sdot::<FOUR>(sums[vector], weights, *x);
        }
    }
}

/// # Safety
/// The machine has SDOT; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "neon,dotprod")]
pub(in super::super) unsafe fn q8<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: all offsets lie inside of block `index` of the panel and of each row, which are there.
        unsafe {
            let block = panel.as_ptr().add(index * Q8_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            let mut sums = [[vdupq_n_s32(0); VECTORS]; ROWS];
            for half in 0..2 {
                let mut sixteen = [vdupq_n_s8(0); ROWS];
                for (r, x) in sixteen.iter_mut().enumerate() {
                    *x = vld1q_s8(values.add(r * row + half * 16));
                }
                let at = block.add(half * 16 * PANEL);
                add_four::<0, ROWS>(at, &sixteen, &mut sums);
                add_four::<1, ROWS>(at.add(4 * PANEL), &sixteen, &mut sums);
                add_four::<2, ROWS>(at.add(8 * PANEL), &sixteen, &mut sums);
                add_four::<3, ROWS>(at.add(12 * PANEL), &sixteen, &mut sums);
            }
            let weights = scales(block.add(Q8_BLOCK - 2 * PANEL));
            for r in 0..ROWS {
                let scale = *x.scales.as_ptr().add(r * x.blocks + index);
                add_block(&mut totals[r], sums[r], weights, scale);
            }
        }
    }
    store(&totals, out);
}

/// Adds the products of eight inputs in `q4`.
///
/// # Safety
/// There are 64 bytes at `at`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn add_eight<const FIRST: u8, const SECOND: u8, const ROWS: usize>(
    at: *const u8,
    x: &[int8x16_t; ROWS],
    sums: &mut [Sums; ROWS],
) {
    for vector in 0..VECTORS {
        // SAFETY: the caller's promise.
        let [low, high] = halves(unsafe { vld1q_u8(at.add(vector * PANEL)) });
        for (x, sums) in x.iter().zip(&mut *sums) {
            sums[vector] = sdot::<SECOND>(sdot::<FIRST>(sums[vector], low, *x), high, *x);
        }
    }
}

/// # Safety
/// As [`q8`].
#[target_feature(enable = "neon,dotprod")]
pub(in super::super) unsafe fn q4<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: all offsets lie inside of block `index` of the panel and of each row, which are there.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            let mut sums = [[vdupq_n_s32(0); VECTORS]; ROWS];
            for (r, sums) in sums.iter_mut().enumerate() {
                *sums = [vdupq_n_s32(*x.offsets.as_ptr().add(r * x.blocks + index)); VECTORS];
            }
            for half in 0..2 {
                let mut sixteen = [vdupq_n_s8(0); ROWS];
                for (r, x) in sixteen.iter_mut().enumerate() {
                    *x = vld1q_s8(values.add(r * row + half * 16));
                }
                let at = block.add(half * 8 * PANEL);
                add_eight::<0, 1, ROWS>(at, &sixteen, &mut sums);
                add_eight::<2, 3, ROWS>(at.add(4 * PANEL), &sixteen, &mut sums);
            }
            let weights = scales(block.add(Q4_BLOCK - 2 * PANEL));
            for r in 0..ROWS {
                let scale = *x.scales.as_ptr().add(r * x.blocks + index);
                add_block(&mut totals[r], sums[r], weights, scale);
            }
        }
    }
    store(&totals, out);
}
