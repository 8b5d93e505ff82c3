//! The loops for NEON: four vectors of four outputs each, and as many sums for each row.
//!
//! Nothing is fetched ahead, as the loops for AVX2 do: what that is worth could not be measured.

pub(super) mod dot;
pub(super) mod long;

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, uint8x16_t, vandq_u8, vandq_u32, vcvtq_f32_s32, vdupq_n_f32,
    vdupq_n_u8, vdupq_n_u32, veorq_u8, vfmaq_f32, vfmaq_lane_f32, vget_high_u16, vget_low_u16, vld1_f32,
    vld1q_u8, vld1q_u16, vmulq_n_f32, vreinterpretq_f32_u32, vreinterpretq_s8_u8, vreinterpretq_u32_u8,
    vshll_n_u16, vshlq_n_u32, vshrq_n_u8, vst1q_f32,
};

use super::super::layout::PANEL;
use super::Tile;

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

/// Weights of `q8` as what they stand for, so that nothing is to be added to their products.
///
/// # Safety
/// There are sixteen bytes at `at`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn signed(at: *const u8) -> int8x16_t {
    // SAFETY: the caller's promise; vectors are loaded from any address. 128 less is the highest bit turned over.
    vreinterpretq_s8_u8(veorq_u8(unsafe { vld1q_u8(at) }, vdupq_n_u8(128)))
}

/// Weights of `q4` as numbers from 0 to 15: those in the lower halves, and those in the upper ones.
#[inline]
#[target_feature(enable = "neon")]
fn halves(bytes: uint8x16_t) -> [int8x16_t; 2] {
    [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)].map(|half| vreinterpretq_s8_u8(half))
}

/// `totals + sums · (weights · x)`, added as it is multiplied, as the plain loop has it.
#[inline]
#[target_feature(enable = "neon")]
fn add_block(totals: &mut Totals, sums: Sums, weights: Totals, x: f32) {
    for ((total, sum), weight) in totals.iter_mut().zip(sums).zip(weights) {
        *total = vfmaq_f32(*total, vcvtq_f32_s32(sum), vmulq_n_f32(weight, x));
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
