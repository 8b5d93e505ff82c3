//! The loops for NEON: four vectors of four outputs each, and as many sums for each row.
//!
//! Nothing is fetched ahead, as the loops for AVX2 do: what that is worth could not be measured.

pub(super) mod dot;

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int16x8_t, int32x4_t, uint8x16_t, vaddq_f32, vandq_u8, vandq_u32, vcvtq_f32_s32,
    vdupq_n_f32, vdupq_n_s8, vdupq_n_s16, vdupq_n_s32, vdupq_n_u8, vdupq_n_u32, vfmaq_lane_f32,
    vget_high_u16, vget_low_s8, vget_low_u16, vld1_f32, vld1q_s8, vld1q_u8, vld1q_u16, vmlal_high_s8,
    vmlal_s8, vmull_high_s8, vmull_s8, vmulq_f32, vmulq_n_f32, vpadalq_s16, vpaddq_s16,
    vreinterpretq_f32_u32, vreinterpretq_s8_u8, vreinterpretq_u32_u8, vshll_n_u16, vshlq_n_u32, vshrq_n_u8,
    vst1q_f32, vuzp1q_s8,
};

use super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};
use super::{Blocks, Tile};

/// Vectors of a panel's outputs.
const VECTORS: usize = PANEL / 4;

type Totals = [float32x4_t; VECTORS];
type Sums = [int32x4_t; VECTORS];

/// The scales of a block's outputs.
///
/// # Safety
/// There are 32 bytes at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn scales(at: *const u8) -> Totals {
    // SAFETY: the caller's promise; vectors are loaded from any address.
    let halves = unsafe { [vld1q_u16(at.cast()), vld1q_u16(at.add(16).cast())] };
    let [low, high] = halves.map(|half| {
        [
            vshll_n_u16::<16>(vget_low_u16(half)),
            vshll_n_u16::<16>(vget_high_u16(half)),
        ]
    });
    [low[0], low[1], high[0], high[1]].map(|bits| vreinterpretq_f32_u32(bits))
}

/// Sixteen integers of sixteen bits that fit into eight.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn narrowed(at: *const i16) -> int8x16_t {
    // SAFETY: the caller's promise. The lower bytes are every second one.
    unsafe { vuzp1q_s8(vld1q_s8(at.cast()), vld1q_s8(at.add(8).cast())) }
}

/// Weights of `q4` as numbers from 0 to 15: those in the lower halves, and those in the upper ones.
#[inline]
#[target_feature(enable = "neon")]
fn halves(bytes: uint8x16_t) -> [int8x16_t; 2] {
    [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)].map(|half| vreinterpretq_s8_u8(half))
}

/// `totals + sums · (weights · x)`, each step rounded, as the plain loop has it.
#[inline]
#[target_feature(enable = "neon")]
fn add_block(totals: &mut Totals, sums: Sums, weights: Totals, x: f32) {
    for ((total, sum), weight) in totals.iter_mut().zip(sums).zip(weights) {
        *total = vaddq_f32(*total, vmulq_f32(vcvtq_f32_s32(sum), vmulq_n_f32(weight, x)));
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn store<const ROWS: usize>(totals: &[Totals; ROWS], out: &mut Tile) {
    for (totals, out) in totals.iter().zip(out) {
        for (total, out) in totals.iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: a chunk has the vector's four elements.
            unsafe { vst1q_f32(out.as_mut_ptr(), *total) };
        }
    }
}

/// A function that puts some of sixteen inputs into every lane.
///
/// Written out because the compiler sees that both halves are the same, and then moves the weights' upper half down before it
/// multiplies it.
macro_rules! repeated {
    ($name:ident, $lanes:literal, $lane:literal) => {
        #[inline]
        #[target_feature(enable = "neon")]
        fn $name<const INDEX: u8>(x: int8x16_t) -> int8x16_t {
            let out;
            // SAFETY: the function has the instruction, which touches registers alone.
            unsafe {
                std::arch::asm!(
                    concat!("dup {out:v}.", $lanes, ", {x:v}.", $lane, "[{index}]"),
                    out = lateout(vreg) out,
                    x = in(vreg) x,
                    index = const INDEX,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            out
        }
    };
}
repeated!(pair, "8h", "h");
repeated!(four, "4s", "s");

/// Adds the products of four inputs, two pairs of them: two products of eight bits fit into 16 bits, even those of −128.
///
/// # Safety
/// There are 64 bytes at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_pairs<const FIRST: u8, const SECOND: u8, const ROWS: usize>(
    at: *const u8,
    x: &[int8x16_t; ROWS],
    sums: &mut [Sums; ROWS],
) {
    // SAFETY: the caller's promise.
    let weights = unsafe { [0, 1, 2, 3].map(|vector| vld1q_s8(at.add(vector * PANEL).cast())) };
    for (x, sums) in x.iter().zip(sums) {
        let (first, second) = (pair::<FIRST>(*x), pair::<SECOND>(*x));
        for (vector, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (of_first, of_second) = (weights[vector], weights[2 + vector]);
            let low = vmull_s8(vget_low_s8(of_first), vget_low_s8(first));
            let low = vmlal_s8(low, vget_low_s8(of_second), vget_low_s8(second));
            let high = vmull_high_s8(of_first, first);
            let high = vmlal_high_s8(high, of_second, second);
            *sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
        }
    }
}

/// Products of pairs: twice eight bits, where those of AVX2 take sixteen.
///
/// # Safety
/// The machine has NEON; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "neon")]
pub(super) unsafe fn q8<const ROWS: usize>(x: Blocks<'_, i16>, panel: &[u8], out: &mut Tile) {
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
                    *x = narrowed(values.add(r * row + half * 16));
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

/// The products of eight inputs with eight outputs are added to four sums of each output.
///
/// # Safety
/// There are 32 bytes at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_fours<const FIRST: u8, const SECOND: u8, const ROWS: usize>(
    at: *const u8,
    x: &[int8x16_t; ROWS],
    products: &mut [[int16x8_t; 4]; ROWS],
) {
    // SAFETY: the caller's promise.
    let weights = unsafe { [halves(vld1q_u8(at)), halves(vld1q_u8(at.add(PANEL)))] };
    for (x, products) in x.iter().zip(products) {
        let (first, second) = (four::<FIRST>(*x), four::<SECOND>(*x));
        for (products, [low, high]) in products.as_chunks_mut::<2>().0.iter_mut().zip(weights) {
            let sum = vmlal_s8(products[0], vget_low_s8(low), vget_low_s8(first));
            products[0] = vmlal_s8(sum, vget_low_s8(high), vget_low_s8(second));
            let sum = vmlal_high_s8(products[1], low, first);
            products[1] = vmlal_high_s8(sum, high, second);
        }
    }
}

/// The sums of a block's products with eight outputs from `FIRST` on: sixteen products fit into 16 bits (16 · 15 · 128 < 2¹⁵).
///
/// # Safety
/// `ROWS` rows of 32 values, `row` apart, and the block are there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn eight_outputs<const FIRST: usize, const ROWS: usize>(
    values: *const i8,
    row: usize,
    block: *const u8,
) -> [[int16x8_t; 2]; ROWS] {
    let mut products = [[vdupq_n_s16(0); 4]; ROWS];
    for half in 0..2 {
        let mut sixteen = [vdupq_n_s8(0); ROWS];
        // SAFETY: the caller's promise.
        unsafe {
            for (r, x) in sixteen.iter_mut().enumerate() {
                *x = vld1q_s8(values.add(r * row + half * 16));
            }
            let at = block.add(half * 8 * PANEL + FIRST * 4);
            add_fours::<0, 1, ROWS>(at, &sixteen, &mut products);
            add_fours::<2, 3, ROWS>(at.add(4 * PANEL), &sixteen, &mut products);
        }
    }
    products.map(|[a, b, c, d]| [vpaddq_s16(a, b), vpaddq_s16(c, d)])
}

/// Products of fours: weights from 0 to 15 times eight bits. A block is read in two halves of eight outputs, as the sums of all
/// sixteen would not fit into the registers.
///
/// # Safety
/// As [`q8`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn q4<const ROWS: usize>(x: Blocks<'_, i8>, offsets: &[i32], panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: all offsets lie inside of block `index` of the panel and of each row, which are there.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            let low = eight_outputs::<0, ROWS>(values, row, block);
            let high = eight_outputs::<8, ROWS>(values, row, block);
            let weights = scales(block.add(Q4_BLOCK - 2 * PANEL));
            for r in 0..ROWS {
                let at = r * x.blocks + index;
                let offset = vdupq_n_s32(*offsets.as_ptr().add(at));
                let sums = [low[r][0], low[r][1], high[r][0], high[r][1]].map(|sum| vpadalq_s16(offset, sum));
                add_block(&mut totals[r], sums, weights, *x.scales.as_ptr().add(at));
            }
        }
    }
    store(&totals, out);
}

/// A bf16 number is the upper half of an f32, and two of them lie in each word.
///
/// # Safety
/// The machine has NEON; `ROWS` rows of `x` as wide as the panel are there, and that width is even.
#[target_feature(enable = "neon")]
pub(super) unsafe fn bf16<const ROWS: usize>(x: &[f32], panel: &[u8], out: &mut Tile) {
    let width = panel.len() / (2 * PANEL);
    let upper = vdupq_n_u32(0xffff_0000);
    let mut sums = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
    for pair in 0..width / 2 {
        // SAFETY: the pair lies inside of the panel and of each row.
        unsafe {
            let at = panel.as_ptr().add(pair * 4 * PANEL);
            let x = x.as_ptr().add(2 * pair);
            for vector in 0..VECTORS {
                let words = vreinterpretq_u32_u8(vld1q_u8(at.add(vector * PANEL)));
                let even = vreinterpretq_f32_u32(vshlq_n_u32::<16>(words));
                let odd = vreinterpretq_f32_u32(vandq_u32(words, upper));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = vld1_f32(x.add(r * width));
                    let sum = vfmaq_lane_f32::<0>(sums[vector], even, x);
                    sums[vector] = vfmaq_lane_f32::<1>(sum, odd, x);
                }
            }
        }
    }
    store(&sums, out);
}
