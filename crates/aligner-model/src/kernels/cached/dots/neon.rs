//! Dot products in NEON, whose sixteen sums are four vectors a row.
//!
//! The compiled loop goes through the weight once for each row, with four sums at a time: each has to wait for the one before it.

use std::arch::aarch64::{float32x4_t, vdupq_n_f32, vfmaq_f32, vld1q_f32, vst1q_f32};

use super::LANES;

const VECTORS: usize = LANES / 4;

/// The sums of the products of each row with `weight`, but for those of an incomplete last vector.
///
/// # Safety
/// The machine has NEON, and every row is as long as `weight`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn lanes<const ROWS: usize>(rows: [&[f32]; ROWS], weight: &[f32]) -> [[f32; LANES]; ROWS] {
    let mut sums = [[vdupq_n_f32(0.0); VECTORS]; ROWS];
    for at in (0..weight.len() / LANES * LANES).step_by(LANES) {
        // SAFETY: sixteen elements from here on are inside of the slice.
        let weight = unsafe { load(weight.as_ptr().add(at)) };
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: as above: the row is as long.
            let row = unsafe { load(row.as_ptr().add(at)) };
            for (sum, (a, b)) in sums.iter_mut().zip(row.into_iter().zip(weight)) {
                *sum = vfmaq_f32(*sum, a, b);
            }
        }
    }
    let mut lanes = [[0.0; LANES]; ROWS];
    for (lanes, sums) in lanes.iter_mut().zip(sums) {
        for (lanes, sum) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            // SAFETY: a chunk has the vector's four elements.
            unsafe { vst1q_f32(lanes.as_mut_ptr(), sum) };
        }
    }
    lanes
}

/// # Safety
/// Sixteen elements are there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(at: *const f32) -> [float32x4_t; VECTORS] {
    const { assert!(VECTORS == 4, "four vectors") };
    // SAFETY: the caller's promise.
    unsafe {
        [
            vld1q_f32(at),
            vld1q_f32(at.add(4)),
            vld1q_f32(at.add(8)),
            vld1q_f32(at.add(12)),
        ]
    }
}
