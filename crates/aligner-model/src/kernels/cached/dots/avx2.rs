//! Dot products in AVX2, whose sixteen sums are two vectors a row.

use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::{AHEAD, LANES};

/// The sums of the products of each row with `weight`, but for those of an incomplete last vector.
///
/// # Safety
/// The machine has AVX2 and FMA, and every row is as long as `weight`.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn lanes<const ROWS: usize>(rows: [&[f32]; ROWS], weight: &[f32]) -> [[f32; LANES]; ROWS] {
    const { assert!(LANES == 16, "two vectors") };
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for at in (0..weight.len() / LANES * LANES).step_by(LANES) {
        let weight = weight.as_ptr().wrapping_add(at);
        _mm_prefetch::<_MM_HINT_T0>(weight.wrapping_add(AHEAD).cast());
        // SAFETY: sixteen elements from here on are inside of the slice.
        let (low, high) = unsafe { (_mm256_loadu_ps(weight), _mm256_loadu_ps(weight.add(8))) };
        for (sums, row) in sums.iter_mut().zip(rows) {
            let row = row.as_ptr().wrapping_add(at);
            // SAFETY: as above: the row is as long.
            let (of_low, of_high) = unsafe { (_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))) };
            sums[0] = _mm256_fmadd_ps(of_low, low, sums[0]);
            sums[1] = _mm256_fmadd_ps(of_high, high, sums[1]);
        }
    }
    let mut lanes = [[0.0; LANES]; ROWS];
    for (lanes, sums) in lanes.iter_mut().zip(sums) {
        for (lanes, sum) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            // SAFETY: a chunk has the vector's eight elements.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        }
    }
    lanes
}
