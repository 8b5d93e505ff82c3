//! Activations in eight bits with AVX-512, which rounds sixteen numbers and narrows them in one instruction each.

use std::arch::x86_64::{
    __m128i, _mm_set_epi8, _mm_setzero_si128, _mm_shuffle_epi8, _mm_storeu_si128, _mm512_add_epi32,
    _mm512_and_si512, _mm512_castps_si512, _mm512_cvtepi32_epi8, _mm512_cvtps_epi32, _mm512_loadu_ps,
    _mm512_max_epu32, _mm512_mul_ps, _mm512_reduce_add_epi32, _mm512_reduce_max_epu32, _mm512_set1_epi32,
    _mm512_set1_ps,
};

use super::{BLOCK, INFINITE, Row, SIGN, SMALLEST, block_of};

/// Elements of a vector.
const LANES: usize = 16;

/// See [`round_narrow`](super::round_narrow).
///
/// # Safety
/// The machine has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn round_narrow(x: &[f32], bias: i32, row: Row<'_, i8>) {
    let blocks = row.values.as_chunks_mut::<BLOCK>().0.iter_mut();
    let of_blocks = row.scales.iter_mut().zip(row.offsets);
    for ((index, values), (scale, offset)) in blocks.enumerate().zip(of_blocks) {
        let (of_block, sum) = match x.get(index * BLOCK..(index + 1) * BLOCK) {
            Some(block) => round_block(block, values),
            None => round_block(&block_of(x, index), values),
        };
        *scale = of_block;
        *offset = -bias * sum;
    }
}

/// A block's scale, and the sum of its integers.
#[inline]
#[target_feature(enable = "avx512f")]
fn round_block(block: &[f32], values: &mut [i8; BLOCK]) -> (f32, i32) {
    assert_eq!(block.len(), BLOCK);
    // SAFETY: the block has the elements of two vectors.
    let x = [0, LANES].map(|at| unsafe { _mm512_loadu_ps(block.as_ptr().add(at)) });
    let magnitudes = x.map(|x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(!SIGN as i32)));
    let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes[0], magnitudes[1]));
    let magnitude = f32::from_bits(largest);
    if largest >= INFINITE || magnitude < SMALLEST {
        store(values, [_mm_setzero_si128(); 2]);
        return (if largest >= INFINITE { f32::NAN } else { 0.0 }, 0);
    }
    let inverse = _mm512_set1_ps(127.0 / magnitude);
    // To the nearest, of two the even one, as adding 1.5 · 2²³ does.
    let whole = x.map(|x| _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)));
    let in_fours = _mm_set_epi8(15, 13, 14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0);
    store(
        values,
        whole.map(|whole| _mm_shuffle_epi8(_mm512_cvtepi32_epi8(whole), in_fours)),
    );
    let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(whole[0], whole[1]));
    (magnitude / 127.0, sum)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(values: &mut [i8; BLOCK], halves: [__m128i; 2]) {
    for (half, values) in halves.iter().zip(values.as_chunks_mut::<LANES>().0) {
        // SAFETY: a chunk has the vector's sixteen bytes.
        unsafe { _mm_storeu_si128(values.as_mut_ptr().cast(), *half) };
    }
}
