//! The loops over integers for AVX-512 with VNNI, whose instruction multiplies four bytes, adds the products up and adds them to
//! the sum in one. No sum comes near to what 32 bits hold.

use std::arch::x86_64::{
    _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
};

use super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};
use super::avx512::{add_block, broadcast, halves, prefetch, scales, store};
use super::{Blocks, Tile};

/// Products of fours: weights from 1 to 255 times eight bits.
///
/// # Safety
/// The machine has AVX-512 F, BW and VNNI; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q8<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for index in 0..x.blocks {
        // SAFETY: all offsets lie inside of block `index` of the panel and of each row, which are there.
        unsafe {
            let block = panel.as_ptr().add(index * Q8_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            prefetch::<Q8_BLOCK>(block);
            let mut sums = [_mm512_setzero_si512(); ROWS];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_set1_epi32(*x.offsets.as_ptr().add(r * x.blocks + index));
            }
            for step in 0..BLOCK / 4 {
                let weights = _mm512_loadu_si512(block.add(step * 4 * PANEL).cast());
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_dpbusd_epi32(*sum, weights, broadcast(values.add(r * row + 4 * step)));
                }
            }
            let weight_scales = scales(block.add(Q8_BLOCK - 2 * PANEL));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let scale = *x.scales.as_ptr().add(r * x.blocks + index);
                *total = add_block(*total, sum, weight_scales, scale);
            }
        }
    }
    store(&totals, out);
}

/// Products of fours: weights from 0 to 15 times eight bits.
///
/// # Safety
/// As [`q8`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) unsafe fn q4<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for index in 0..x.blocks {
        // SAFETY: as in `q8`.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            prefetch::<Q4_BLOCK>(block);
            let mut sums = [_mm512_setzero_si512(); ROWS];
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_set1_epi32(*x.offsets.as_ptr().add(r * x.blocks + index));
            }
            for step in 0..BLOCK / 8 {
                let [low, high] = halves(block.add(step * 4 * PANEL));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let at = values.add(r * row + 8 * step);
                    *sum = _mm512_dpbusd_epi32(*sum, low, broadcast(at));
                    *sum = _mm512_dpbusd_epi32(*sum, high, broadcast(at.add(4)));
                }
            }
            let weight_scales = scales(block.add(Q4_BLOCK - 2 * PANEL));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let scale = *x.scales.as_ptr().add(r * x.blocks + index);
                *total = add_block(*total, sum, weight_scales, scale);
            }
        }
    }
    store(&totals, out);
}
