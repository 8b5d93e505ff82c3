//! The loops over integers for AVX-VNNI: the instruction of VNNI over vectors of AVX2, for processors without AVX-512.

use std::arch::x86_64::{
    _mm256_and_si256, _mm256_dpbusd_avx_epi32, _mm256_set1_epi8, _mm256_set1_epi32, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_srli_epi16,
};

use super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};
use super::avx2::{add_block, broadcast, load, prefetch, scales, store};
use super::{Blocks, Tile};

/// Products of fours: weights from 1 to 255 times eight bits.
///
/// # Safety
/// The machine has AVX2, FMA and AVX-VNNI; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) unsafe fn q8<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: all offsets lie inside of block `index` of the panel and of each row, which are there.
        unsafe {
            let block = panel.as_ptr().add(index * Q8_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            prefetch::<Q8_BLOCK>(block);
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for (r, sums) in sums.iter_mut().enumerate() {
                *sums = [_mm256_set1_epi32(*x.offsets.as_ptr().add(r * x.blocks + index)); 2];
            }
            for step in 0..BLOCK / 4 {
                let weights = load(block.add(step * 4 * PANEL));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let four = broadcast(values.add(r * row + 4 * step));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm256_dpbusd_avx_epi32(*sum, weights, four);
                    }
                }
            }
            let weight_scales = scales(block.add(Q8_BLOCK - 2 * PANEL));
            for (r, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
                let scale = _mm256_set1_ps(*x.scales.as_ptr().add(r * x.blocks + index));
                for half in 0..2 {
                    totals[half] = add_block(totals[half], sums[half], weight_scales[half], scale);
                }
            }
        }
    }
    store(&totals, out);
}

/// Products of fours: weights from 0 to 15 times eight bits.
///
/// # Safety
/// As [`q8`].
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) unsafe fn q4<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let low_bits = _mm256_set1_epi8(15);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: as in `q8`.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            prefetch::<Q4_BLOCK>(block);
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for (r, sums) in sums.iter_mut().enumerate() {
                *sums = [_mm256_set1_epi32(*x.offsets.as_ptr().add(r * x.blocks + index)); 2];
            }
            for step in 0..BLOCK / 8 {
                let pairs = load(block.add(step * 4 * PANEL));
                let low = pairs.map(|pair| _mm256_and_si256(pair, low_bits));
                let high = pairs.map(|pair| _mm256_and_si256(_mm256_srli_epi16::<4>(pair), low_bits));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let at = values.add(r * row + 8 * step);
                    let (first, second) = (broadcast(at), broadcast(at.add(4)));
                    for half in 0..2 {
                        let sum = _mm256_dpbusd_avx_epi32(sums[half], low[half], first);
                        sums[half] = _mm256_dpbusd_avx_epi32(sum, high[half], second);
                    }
                }
            }
            let weight_scales = scales(block.add(Q4_BLOCK - 2 * PANEL));
            for (r, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
                let scale = _mm256_set1_ps(*x.scales.as_ptr().add(r * x.blocks + index));
                for half in 0..2 {
                    totals[half] = add_block(totals[half], sums[half], weight_scales[half], scale);
                }
            }
        }
    }
    store(&totals, out);
}
