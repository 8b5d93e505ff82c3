//! The loops over integers with VNNI, whose instructions multiply, add up and add to the sum in one: in vectors of AVX-512, and in
//! those of AVX2, which processors have that lack the former (AVX-VNNI).
//!
//! No sum comes near to what 32 bits hold. Of the two instructions for pairs of 16 bits, the one that saturates is used, as the
//! compiler takes the other apart again, into a multiplication and an addition.

use std::arch::x86_64::{
    _mm_loadu_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi8_epi16, _mm256_dpbusd_avx_epi32,
    _mm256_dpwssds_avx_epi32, _mm256_set1_epi8, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_srli_epi16, _mm512_dpbusd_epi32, _mm512_dpwssds_epi32, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_setzero_si512,
};

use super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};
use super::{Blocks, Tile, avx2, avx512};

/// Products of pairs of 16 bits.
///
/// # Safety
/// The machine has AVX-512 F, BW and VNNI; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q8_avx512<const ROWS: usize>(x: Blocks<'_, i16>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for index in 0..x.blocks {
        // SAFETY: all offsets lie inside of block `index` of the panel and of each row, which are there.
        unsafe {
            let block = panel.as_ptr().add(index * Q8_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            avx2::prefetch::<Q8_BLOCK>(block);
            let mut sums = [_mm512_setzero_si512(); ROWS];
            for step in 0..BLOCK / 2 {
                let weights = avx512::wide(block.add(step * 2 * PANEL));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let pair = avx512::broadcast(values.add(r * row + 2 * step));
                    *sum = _mm512_dpwssds_epi32(*sum, weights, pair);
                }
            }
            let weight_scales = avx512::scales(block.add(Q8_BLOCK - 2 * PANEL));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let scale = *x.scales.as_ptr().add(r * x.blocks + index);
                *total = avx512::add_block(*total, sum, weight_scales, scale);
            }
        }
    }
    avx512::store(&totals, out);
}

/// Products of fours: weights from 0 to 15 times eight bits.
///
/// # Safety
/// As [`q8_avx512`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q4_avx512<const ROWS: usize>(
    x: Blocks<'_, i8>,
    offsets: &[i32],
    panel: &[u8],
    out: &mut Tile,
) {
    let row = x.blocks * BLOCK;
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for index in 0..x.blocks {
        // SAFETY: as in `q8_avx512`.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            avx2::prefetch::<Q4_BLOCK>(block);
            let mut sums = [_mm512_setzero_si512(); ROWS];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_set1_epi32(*offsets.as_ptr().add(r * x.blocks + index));
            }
            for step in 0..BLOCK / 8 {
                let [low, high] = avx512::halves(block.add(step * 4 * PANEL));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let at = values.add(r * row + 8 * step);
                    *sum = _mm512_dpbusd_epi32(*sum, low, avx512::broadcast(at));
                    *sum = _mm512_dpbusd_epi32(*sum, high, avx512::broadcast(at.add(4)));
                }
            }
            let weight_scales = avx512::scales(block.add(Q4_BLOCK - 2 * PANEL));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let scale = *x.scales.as_ptr().add(r * x.blocks + index);
                *total = avx512::add_block(*total, sum, weight_scales, scale);
            }
        }
    }
    avx512::store(&totals, out);
}

/// As [`q8_avx512`].
///
/// # Safety
/// The machine has AVX2 and AVX-VNNI; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn q8_avx2<const ROWS: usize>(x: Blocks<'_, i16>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: as in `q8_avx512`.
        unsafe {
            let block = panel.as_ptr().add(index * Q8_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            avx2::prefetch::<Q8_BLOCK>(block);
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for step in 0..BLOCK / 2 {
                let at = block.add(step * 2 * PANEL);
                let weights = [at, at.add(PANEL)].map(|at| _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast())));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let pair = avx2::broadcast(values.add(r * row + 2 * step));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm256_dpwssds_avx_epi32(*sum, weights, pair);
                    }
                }
            }
            let weight_scales = avx2::scales(block.add(Q8_BLOCK - 2 * PANEL));
            for (r, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
                let scale = _mm256_set1_ps(*x.scales.as_ptr().add(r * x.blocks + index));
                for half in 0..2 {
                    totals[half] = avx2::add_block(totals[half], sums[half], weight_scales[half], scale);
                }
            }
        }
    }
    avx2::store(&totals, out);
}

/// As [`q4_avx512`].
///
/// # Safety
/// As [`q8_avx2`].
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn q4_avx2<const ROWS: usize>(
    x: Blocks<'_, i8>,
    offsets: &[i32],
    panel: &[u8],
    out: &mut Tile,
) {
    let row = x.blocks * BLOCK;
    let low_bits = _mm256_set1_epi8(15);
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: as in `q8_avx512`.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            avx2::prefetch::<Q4_BLOCK>(block);
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for step in 0..BLOCK / 8 {
                let pairs = avx2::load(block.add(step * 4 * PANEL));
                let low = pairs.map(|pair| _mm256_and_si256(pair, low_bits));
                let high = pairs.map(|pair| _mm256_and_si256(_mm256_srli_epi16::<4>(pair), low_bits));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let at = values.add(r * row + 8 * step);
                    let (first, second) = (avx2::broadcast(at), avx2::broadcast(at.add(4)));
                    for half in 0..2 {
                        let sum = _mm256_dpbusd_avx_epi32(sums[half], low[half], first);
                        sums[half] = _mm256_dpbusd_avx_epi32(sum, high[half], second);
                    }
                }
            }
            let weight_scales = avx2::scales(block.add(Q4_BLOCK - 2 * PANEL));
            for (r, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
                let at = r * x.blocks + index;
                let offset = _mm256_set1_epi32(*offsets.as_ptr().add(at));
                let scale = _mm256_set1_ps(*x.scales.as_ptr().add(at));
                for half in 0..2 {
                    let sum = _mm256_add_epi32(sums[half], offset);
                    totals[half] = avx2::add_block(totals[half], sum, weight_scales[half], scale);
                }
            }
        }
    }
    avx2::store(&totals, out);
}
