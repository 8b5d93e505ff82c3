//! The loops for AVX-512, where a vector is a panel's sixteen outputs: one sum for each row, and twelve rows to a tile.
//!
//! Each row's factor is broadcast from memory by the instruction that multiplies with it, wherever there is one that can; none
//! of 16 bits or fewer can, but those of VNNI, which take 32.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T1, _mm_prefetch, _mm256_loadu_si256, _mm512_add_epi16, _mm512_add_epi32,
    _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_fmadd_ps,
    _mm512_loadu_si512, _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_mul_ps, _mm512_set1_epi8,
    _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps,
};

use super::super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};
use super::avx2::LINE;
use super::{Blocks, Tile};

/// Bytes that are asked for ahead.
const AHEAD: usize = 2048;

/// Asks for what a block's successor of [`AHEAD`] bytes on will read, into the second cache: the first one has fewer places for
/// lines that are on their way than memory is deep.
///
/// # Safety
/// None: an address that is only prefetched may be any.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn prefetch<const BYTES: usize>(at: *const u8) {
    for line in 0..BYTES.div_ceil(LINE) {
        _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(AHEAD + line * LINE).cast());
    }
}

/// The scales of a block's outputs.
///
/// # Safety
/// There are 32 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn scales(at: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    let upper = unsafe { _mm256_loadu_si256(at.cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(upper)))
}

/// Four bytes at an address in each lane.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn broadcast<T>(at: *const T) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// The first and the second pair of each four inputs, in 16 bits.
///
/// # Safety
/// There are 64 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pairs(at: *const u8) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    let bytes = unsafe { _mm512_loadu_si512(at.cast()) };
    let first = _mm512_and_si512(bytes, _mm512_set1_epi16(255));
    [first, _mm512_srli_epi16::<8>(bytes)]
}

/// The lower and the upper half of each byte.
///
/// # Safety
/// There are 64 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn halves(at: *const u8) -> [__m512i; 2] {
    let low_bits = _mm512_set1_epi8(15);
    // SAFETY: the caller's promise.
    let bytes = unsafe { _mm512_loadu_si512(at.cast()) };
    [bytes, _mm512_srli_epi16::<4>(bytes)].map(|half| _mm512_and_si512(half, low_bits))
}

/// `total + sum · (weight · x)`, added as it is multiplied, as the plain loop has it.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_block(total: __m512, sum: __m512i, weight: __m512, x: f32) -> __m512 {
    let scale = _mm512_mul_ps(weight, _mm512_set1_ps(x));
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, total)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store<const ROWS: usize>(totals: &[__m512; ROWS], out: &mut Tile) {
    for (total, out) in totals.iter().zip(out) {
        // SAFETY: a row of `out` has room for the vector.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *total) };
    }
}

/// Products of pairs: both sides as 16 bits, which a multiplication then adds up without overflow.
///
/// # Safety
/// The machine has AVX-512 F and BW; `ROWS` rows of `x` and its blocks of the panel are there.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn q8<const ROWS: usize>(x: Blocks<'_, i16>, panel: &[u8], out: &mut Tile) {
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
                let [first, second] = pairs(block.add(step * 4 * PANEL));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let at = values.add(r * row + 4 * step);
                    *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(first, broadcast(at)));
                    *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(second, broadcast(at.add(2))));
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

/// Products of fours: weights from 0 to 15 times eight bits, of which eight sums fit into 16 bits (8 · 2 · 15 · 127 < 2¹⁵).
///
/// # Safety
/// As [`q8`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn q4<const ROWS: usize>(x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    let row = x.blocks * BLOCK;
    let ones = _mm512_set1_epi16(1);
    let mut totals = [_mm512_setzero_ps(); ROWS];
    for index in 0..x.blocks {
        // SAFETY: as in `q8`.
        unsafe {
            let block = panel.as_ptr().add(index * Q4_BLOCK);
            let values = x.values.as_ptr().add(index * BLOCK);
            prefetch::<Q4_BLOCK>(block);
            let mut sums = [_mm512_setzero_si512(); ROWS];
            for step in 0..BLOCK / 8 {
                let [low, high] = halves(block.add(step * 4 * PANEL));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let at = values.add(r * row + 8 * step);
                    *sum = _mm512_add_epi16(*sum, _mm512_maddubs_epi16(low, broadcast(at)));
                    *sum = _mm512_add_epi16(*sum, _mm512_maddubs_epi16(high, broadcast(at.add(4))));
                }
            }
            let weight_scales = scales(block.add(Q4_BLOCK - 2 * PANEL));
            for (r, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let at = r * x.blocks + index;
                let offset = _mm512_set1_epi32(*x.offsets.as_ptr().add(at));
                let sum = _mm512_add_epi32(_mm512_madd_epi16(sum, ones), offset);
                *total = add_block(*total, sum, weight_scales, *x.scales.as_ptr().add(at));
            }
        }
    }
    store(&totals, out);
}

/// A bf16 number is the upper half of an f32, and two of them lie in each word. Every sum takes its terms in the order of AVX2.
///
/// # Safety
/// The machine has AVX-512 F; `ROWS` rows of `x` as wide as the panel are there, and that width is even.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn bf16<const ROWS: usize>(x: &[f32], panel: &[u8], out: &mut Tile) {
    let width = panel.len() / (2 * PANEL);
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let mut sums = [_mm512_setzero_ps(); ROWS];
    for pair in 0..width / 2 {
        // SAFETY: the pair lies inside of the panel and of each row.
        unsafe {
            let at = panel.as_ptr().add(pair * 4 * PANEL);
            let x = x.as_ptr().add(2 * pair);
            prefetch::<LINE>(at);
            let words = _mm512_loadu_si512(at.cast());
            let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(*x.add(r * width)), even, *sum);
            }
            let odd = _mm512_castsi512_ps(_mm512_and_si512(words, upper));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(*x.add(r * width + 1)), odd, *sum);
            }
        }
    }
    store(&sums, out);
}
