//! The loops for AVX2: two vectors of eight outputs each, and a pair of sums for each row.

use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_and_si256, _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256,
    _mm256_slli_epi32, _mm256_srli_epi16, _mm256_storeu_ps,
};

use super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};
use super::{Blocks, Tile};

/// Bytes that are asked for ahead: panels lie one behind the other, and the processor by itself does not look beyond a page of
/// memory.
const AHEAD: usize = 4096;
pub(super) const LINE: usize = 64;

/// Asks for what a block's successor of [`AHEAD`] bytes on will read.
///
/// # Safety
/// None: an address that is only prefetched may be any.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn prefetch<const BYTES: usize>(at: *const u8) {
    for line in 0..BYTES.div_ceil(LINE) {
        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + line * LINE).cast());
    }
}

/// The scales of a block's outputs.
///
/// # Safety
/// There are 32 bytes at `at`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn scales(at: *const u8) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    let halves = unsafe { [_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(16).cast())] };
    halves.map(|half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half))))
}

/// Four bytes at an address in each lane.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn broadcast<T>(at: *const T) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// # Safety
/// There are 64 bytes at `at`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load(at: *const u8) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        [
            _mm256_loadu_si256(at.cast()),
            _mm256_loadu_si256(at.add(32).cast()),
        ]
    }
}

/// `total + sum · (weight · x)`, added as it is multiplied, as the plain loop has it.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn add_block(total: __m256, sum: __m256i, weight: __m256, x: __m256) -> __m256 {
    _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(weight, x), total)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store<const ROWS: usize>(totals: &[[__m256; 2]; ROWS], out: &mut Tile) {
    for (totals, out) in totals.iter().zip(out) {
        // SAFETY: a row of `out` has room for two vectors.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), totals[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(PANEL / 2), totals[1]);
        }
    }
}

/// Products of pairs: both sides as 16 bits, which a multiplication then adds up without overflow.
///
/// # Safety
/// The machine has AVX2 and FMA; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn q8<const ROWS: usize>(x: Blocks<'_, i16>, panel: &[u8], out: &mut Tile) {
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
                let bytes = load(block.add(step * 4 * PANEL));
                let first = bytes.map(|bytes| _mm256_and_si256(bytes, _mm256_set1_epi16(255)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let pair = broadcast(values.add(r * row + 4 * step));
                    for (sum, weights) in sums.iter_mut().zip(first) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(weights, pair));
                    }
                }
                let second = bytes.map(|bytes| _mm256_srli_epi16::<8>(bytes));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let pair = broadcast(values.add(r * row + 4 * step + 2));
                    for (sum, weights) in sums.iter_mut().zip(second) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(weights, pair));
                    }
                }
            }
            let weight_scales = scales(block.add(Q8_BLOCK - 2 * PANEL));
            for r in 0..ROWS {
                let scale = _mm256_set1_ps(*x.scales.as_ptr().add(r * x.blocks + index));
                for half in 0..2 {
                    totals[r][half] = add_block(totals[r][half], sums[r][half], weight_scales[half], scale);
                }
            }
        }
    }
    store(&totals, out);
}

/// Products of fours: weights from 0 to 15 times eight bits, of which eight sums fit into 16 bits (8 · 2 · 15 · 127 < 2¹⁵).
///
/// # Safety
/// As [`q8`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn q4<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let (ones, low_bits) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
    let mut totals = [[_mm256_setzero_ps(); 2]; ROWS];
    for index in 0..x.blocks {
        // SAFETY: as in `q8`.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            prefetch::<Q4_BLOCK>(block);
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for step in 0..BLOCK / 8 {
                let pairs = load(block.add(step * 4 * PANEL));
                let low = pairs.map(|pair| _mm256_and_si256(pair, low_bits));
                let high = pairs.map(|pair| _mm256_and_si256(_mm256_srli_epi16::<4>(pair), low_bits));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let at = values.add(r * row + 8 * step);
                    let (first, second) = (broadcast(at), broadcast(at.add(4)));
                    for half in 0..2 {
                        let sum = _mm256_add_epi16(sums[half], _mm256_maddubs_epi16(low[half], first));
                        sums[half] = _mm256_add_epi16(sum, _mm256_maddubs_epi16(high[half], second));
                    }
                }
            }
            let weight_scales = scales(block.add(Q4_BLOCK - 2 * PANEL));
            for r in 0..ROWS {
                let at = r * x.blocks + index;
                let offset = _mm256_set1_epi32(*x.offsets.as_ptr().add(at));
                let scale = _mm256_set1_ps(*x.scales.as_ptr().add(at));
                for half in 0..2 {
                    let sum = _mm256_add_epi32(_mm256_madd_epi16(sums[r][half], ones), offset);
                    totals[r][half] = add_block(totals[r][half], sum, weight_scales[half], scale);
                }
            }
        }
    }
    store(&totals, out);
}

/// A bf16 number is the upper half of an f32, and two of them lie in each word.
///
/// # Safety
/// The machine has AVX2 and FMA; `ROWS` rows of `x` as wide as the panel are there, and that width is even.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn bf16<const ROWS: usize>(x: &[f32], panel: &[u8], out: &mut Tile) {
    let width = panel.len() / (2 * PANEL);
    let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for pair in 0..width / 2 {
        // SAFETY: the pair lies inside of the panel and of each row.
        unsafe {
            let at = panel.as_ptr().add(pair * 4 * PANEL);
            let x = x.as_ptr().add(2 * pair);
            prefetch::<LINE>(at);
            let words = load(at);
            let even = words.map(|word| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(word)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*x.add(r * width));
                for half in 0..2 {
                    sums[half] = _mm256_fmadd_ps(x, even[half], sums[half]);
                }
            }
            let odd = words.map(|word| _mm256_castsi256_ps(_mm256_and_si256(word, upper)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*x.add(r * width + 1));
                for half in 0..2 {
                    sums[half] = _mm256_fmadd_ps(x, odd[half], sums[half]);
                }
            }
        }
    }
    store(&sums, out);
}
