//! Up to three rows times a panel in NEON: of its 32 registers three rows' sums are 24, their factors three, and vectors of the
//! panel take what is left.
//!
//! Over arrays the compiler takes the products in another order, and then moves sums from register to register, once or twice for
//! every multiply-add.

use std::arch::aarch64::{
    float32x4_t, vdup_n_f32, vdupq_n_f32, vfmaq_lane_f32, vld1_dup_f32, vld1q_f32, vst1q_f32,
};

use super::WIDTH;

/// Rows at once.
pub(in super::super) const ROWS: usize = 3;
/// Vectors of a panel's row.
const VECTORS: usize = WIDTH / 4;

/// Rows and a panel: step `k` of stretch `c` of row `r` is `x[r · row + c · stretch + k · step]`, and is multiplied with the next row of
/// the panel, which is one run of memory over all stretches.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Pass {
    pub x: *const f32,
    pub row: usize,
    pub step: usize,
    pub stretch: usize,
    pub stretches: usize,
    /// Steps of the last stretch; those before it have [`WIDTH`].
    pub last: usize,
    pub panel: *const f32,
}

impl Pass {
    /// Adds the products of all rows of `out`, [`ROWS`] at a time.
    ///
    /// # Safety
    /// All of these elements lie inside their slices, and the machine has NEON.
    pub unsafe fn add(self, out: &mut [[f32; WIDTH]]) {
        for (part, out) in out.chunks_mut(ROWS).enumerate() {
            let pass = Self {
                x: self.x.wrapping_add(part * ROWS * self.row),
                ..self
            };
            // SAFETY: the caller's promise.
            unsafe {
                match out {
                    [a, b, c] => pass.few([a, b, c]),
                    [a, b] => pass.few([a, b]),
                    [a] => pass.few([a]),
                    _ => {}
                }
            }
        }
    }

    /// # Safety
    /// As [`add`](Self::add).
    #[target_feature(enable = "neon")]
    unsafe fn few<const COUNT: usize>(self, out: [&mut [f32; WIDTH]; COUNT]) {
        let mut sums = [[vdupq_n_f32(0.0); VECTORS]; COUNT];
        for (sums, out) in sums.iter_mut().zip(&out) {
            *sums = load(out);
        }
        let mut panel = self.panel;
        for stretch in 0..self.stretches {
            let is_last = stretch + 1 == self.stretches;
            let mut x = self.x.wrapping_add(stretch * self.stretch);
            for _ in 0..if is_last { self.last } else { WIDTH } {
                let mut factors = [vdup_n_f32(0.0); COUNT];
                for (row, factor) in factors.iter_mut().enumerate() {
                    // SAFETY: an element of a row, as the caller promises.
                    *factor = unsafe { vld1_dup_f32(x.add(row * self.row)) };
                }
                for vector in 0..VECTORS {
                    // SAFETY: a row of the panel, as the caller promises.
                    let b = unsafe { vld1q_f32(panel.add(vector * 4)) };
                    for (sums, factor) in sums.iter_mut().zip(factors) {
                        sums[vector] = vfmaq_lane_f32::<0>(sums[vector], b, factor);
                    }
                }
                x = x.wrapping_add(self.step);
                panel = panel.wrapping_add(WIDTH);
            }
        }
        for (sums, out) in sums.into_iter().zip(out) {
            for (sum, out) in sums.into_iter().zip(out.as_chunks_mut::<4>().0) {
                // SAFETY: a chunk has the vector's four elements.
                unsafe { vst1q_f32(out.as_mut_ptr(), sum) };
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(row: &[f32; WIDTH]) -> [float32x4_t; VECTORS] {
    let mut vectors = [vdupq_n_f32(0.0); VECTORS];
    for (vector, row) in vectors.iter_mut().zip(row.as_chunks::<4>().0) {
        // SAFETY: a chunk has the vector's four elements.
        *vector = unsafe { vld1q_f32(row.as_ptr()) };
    }
    vectors
}
