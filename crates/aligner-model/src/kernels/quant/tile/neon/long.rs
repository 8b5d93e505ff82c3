//! The loops for integers without SDOT: products of eight bits are sums of 16 bits for a while.

use std::arch::aarch64::{
    int8x16_t, int16x8_t, vdupq_laneq_s16, vdupq_laneq_s32, vdupq_n_f32, vdupq_n_s8, vdupq_n_s16,
    vdupq_n_s32, vld1q_s8, vld1q_u8, vpadalq_s16, vpaddq_s16, vreinterpretq_s8_s16, vreinterpretq_s8_s32,
    vreinterpretq_s16_s8, vreinterpretq_s32_s8, vuzp1q_s16, vuzp2q_s16,
};

use super::super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};
use super::super::{Blocks, Tile};
use super::{Sums, VECTORS, add_block, halves, scales, signed, store};

/// Functions for products of bytes, of the lower or the upper halves of their vectors.
///
/// Written out because the compiler sees that both halves of `x` are the same, moves the weights' upper half down before it
/// multiplies that, and adds products up by themselves that would go to their sum at once.
macro_rules! products {
    ($name:ident, $add:ident, $half:literal, $bytes:literal) => {
        #[inline]
        #[target_feature(enable = "neon")]
        fn $name(weights: int8x16_t, x: int8x16_t) -> int16x8_t {
            let out;
            // SAFETY: the function has the instruction, which touches registers alone.
            unsafe {
                std::arch::asm!(
                    concat!("smull", $half, " {out:v}.8h, {weights:v}.", $bytes, ", {x:v}.", $bytes),
                    out = lateout(vreg) out,
                    weights = in(vreg) weights,
                    x = in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            out
        }

        #[inline]
        #[target_feature(enable = "neon")]
        fn $add(mut sum: int16x8_t, weights: int8x16_t, x: int8x16_t) -> int16x8_t {
            // SAFETY: as above.
            unsafe {
                std::arch::asm!(
                    concat!("smlal", $half, " {sum:v}.8h, {weights:v}.", $bytes, ", {x:v}.", $bytes),
                    sum = inout(vreg) sum,
                    weights = in(vreg) weights,
                    x = in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sum
        }
    };
}
products!(multiply_low, add_low, "", "8b");
products!(multiply_high, add_high, "2", "16b");

/// A pair of sixteen inputs, in every lane.
#[inline]
#[target_feature(enable = "neon")]
fn pair<const PAIR: i32>(x: int8x16_t) -> int8x16_t {
    vreinterpretq_s8_s16(vdupq_laneq_s16::<PAIR>(vreinterpretq_s16_s8(x)))
}

/// Four of sixteen inputs, in every lane.
#[inline]
#[target_feature(enable = "neon")]
fn four<const FOUR: i32>(x: int8x16_t) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_laneq_s32::<FOUR>(vreinterpretq_s32_s8(x)))
}

/// Adds the products of four inputs, two pairs of them: two products of eight bits fit into 16 bits, even those of −128.
///
/// # Safety
/// There are 64 bytes at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_pairs<const FIRST: i32, const SECOND: i32, const ROWS: usize>(
    at: *const u8,
    x: &[int8x16_t; ROWS],
    sums: &mut [Sums; ROWS],
) {
    // SAFETY: the caller's promise.
    let fours = unsafe { [0, 1, 2, 3].map(|vector| vreinterpretq_s16_s8(signed(at.add(vector * PANEL)))) };
    // The first pairs of eight outputs and of eight more, then the second ones.
    let weights = [
        vuzp1q_s16(fours[0], fours[1]),
        vuzp1q_s16(fours[2], fours[3]),
        vuzp2q_s16(fours[0], fours[1]),
        vuzp2q_s16(fours[2], fours[3]),
    ]
    .map(|pairs| vreinterpretq_s8_s16(pairs));
    for (x, sums) in x.iter().zip(sums) {
        let (first, second) = (pair::<FIRST>(*x), pair::<SECOND>(*x));
        for (vector, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (of_first, of_second) = (weights[vector], weights[2 + vector]);
            let low = add_low(multiply_low(of_first, first), of_second, second);
            let high = add_high(multiply_high(of_first, first), of_second, second);
            *sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
        }
    }
}

/// Products of pairs: twice eight bits, where those of AVX2 take sixteen. Pairs of eight outputs are brought together for that.
///
/// # Safety
/// The machine has NEON; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "neon")]
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
                add_pairs::<0, 1, ROWS>(at, &sixteen, &mut sums);
                add_pairs::<2, 3, ROWS>(at.add(4 * PANEL), &sixteen, &mut sums);
                add_pairs::<4, 5, ROWS>(at.add(8 * PANEL), &sixteen, &mut sums);
                add_pairs::<6, 7, ROWS>(at.add(12 * PANEL), &sixteen, &mut sums);
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

/// Adds the products of eight inputs, to four sums of each output.
///
/// # Safety
/// There are 64 bytes at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_eight<const FIRST: i32, const SECOND: i32, const ROWS: usize>(
    at: *const u8,
    x: &[int8x16_t; ROWS],
    products: &mut [[int16x8_t; 2 * VECTORS]; ROWS],
) {
    for vector in 0..VECTORS {
        // SAFETY: the caller's promise.
        let [low, high] = halves(unsafe { vld1q_u8(at.add(vector * PANEL)) });
        for (x, products) in x.iter().zip(&mut *products) {
            let (first, second) = (four::<FIRST>(*x), four::<SECOND>(*x));
            let (lower, upper) = (products[2 * vector], products[2 * vector + 1]);
            products[2 * vector] = add_low(add_low(lower, low, first), high, second);
            products[2 * vector + 1] = add_high(add_high(upper, low, first), high, second);
        }
    }
}

/// Products of fours: weights from 0 to 15 times eight bits, of which sixteen sums fit into 16 bits (16 · 15 · 128 < 2¹⁵).
///
/// # Safety
/// As [`q8`].
#[target_feature(enable = "neon")]
pub(in super::super) unsafe fn q4<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: all offsets lie inside of block `index` of the panel and of each row, which are there.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            let mut products = [[vdupq_n_s16(0); 2 * VECTORS]; ROWS];
            for half in 0..2 {
                let mut sixteen = [vdupq_n_s8(0); ROWS];
                for (r, x) in sixteen.iter_mut().enumerate() {
                    *x = vld1q_s8(values.add(r * row + half * 16));
                }
                let at = block.add(half * 8 * PANEL);
                add_eight::<0, 1, ROWS>(at, &sixteen, &mut products);
                add_eight::<2, 3, ROWS>(at.add(4 * PANEL), &sixteen, &mut products);
            }
            let weights = scales(block.add(Q4_BLOCK - 2 * PANEL));
            for r in 0..ROWS {
                let at = r * x.blocks + index;
                let mut sums = [vdupq_n_s32(*x.offsets.as_ptr().add(at)); VECTORS];
                for (sum, [a, b]) in sums.iter_mut().zip(products[r].as_chunks::<2>().0) {
                    *sum = vpadalq_s16(*sum, vpaddq_s16(*a, *b));
                }
                add_block(&mut totals[r], sums, weights, *x.scales.as_ptr().add(at));
            }
        }
    }
    store(&totals, out);
}
