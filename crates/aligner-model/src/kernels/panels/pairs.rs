//! Pairs of bf16 by the instructions of AVX512-BF16, which round to the nearest, of two the even one, and take what is below the
//! smallest normal number for 0.

use std::arch::x86_64::{
    __m512, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_loadu_ps,
    _mm512_or_si512, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_si512,
};

use super::WIDTH;
use super::tile::Isa;

/// Vectors of a panel's row.
const VECTORS: usize = WIDTH / 16;

type Row = [f32; WIDTH];

fn check() {
    assert!(Isa::pairs_are_here(), "pairs on a machine that multiplies none");
}

/// Pairs of neighbouring columns; the right panel may not be there.
///
/// # Shapes
/// - `left`, `right`, `out`: `[rows][WIDTH]`
pub(super) fn of_columns(left: &[f32], right: Option<&[f32]>, out: &mut [f32]) {
    check();
    // SAFETY: the machine has the instructions.
    unsafe { columns(left, right, out) }
}

/// Pairs of neighbouring rows.
///
/// # Shapes
/// - `panel`: `[rows][WIDTH]`
/// - `out`: `[rows / 2][WIDTH]`, rounded up
pub(super) fn of_rows(panel: &[f32], out: &mut [f32]) {
    check();
    // SAFETY: the machine has the instructions.
    unsafe { rows(panel, out) }
}

/// Puts 0 in the place of the later number of one column's words.
pub(super) fn without_later(panel: &mut [f32], column: usize) {
    for word in panel[column..].iter_mut().step_by(WIDTH) {
        *word = f32::from_bits(word.to_bits() & 0xffff);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn columns(left: &[f32], right: Option<&[f32]>, out: &mut [f32]) {
    let (left, right) = (
        left.as_chunks::<WIDTH>().0,
        right.map(|right| right.as_chunks::<WIDTH>().0),
    );
    for (index, (out, left)) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(left).enumerate() {
        let right = match right {
            Some(right) => load(&right[index]),
            None => [_mm512_setzero_ps(); VECTORS],
        };
        store([neighbours(load(left)), neighbours(right)], out);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn rows(panel: &[f32], out: &mut [f32]) {
    let panel = panel.as_chunks::<WIDTH>().0;
    for (out, rows) in out.as_chunks_mut::<WIDTH>().0.iter_mut().zip(panel.chunks(2)) {
        let first = load(&rows[0]);
        let second = match rows.get(1) {
            Some(second) => load(second),
            None => [_mm512_setzero_ps(); VECTORS],
        };
        store([above(first[0], second[0]), above(first[1], second[1])], out);
    }
}

/// Words of the numbers of a row.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn neighbours([first, second]: [__m512; VECTORS]) -> __m512i {
    // SAFETY: both are 512 bits, any of which are words.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) }
}

/// Words of one number of either row.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn above(first: __m512, second: __m512) -> __m512i {
    // SAFETY: both are 256 bits, any of which are words.
    let [first, second] = unsafe {
        [_mm512_cvtneps_pbh(first), _mm512_cvtneps_pbh(second)].map(|row| std::mem::transmute(row))
    };
    let (first, second) = (_mm512_cvtepu16_epi32(first), _mm512_cvtepu16_epi32(second));
    _mm512_or_si512(first, _mm512_slli_epi32::<16>(second))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(row: &Row) -> [__m512; VECTORS] {
    // SAFETY: a row is two vectors long.
    unsafe {
        [
            _mm512_loadu_ps(row.as_ptr()),
            _mm512_loadu_ps(row.as_ptr().add(16)),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(words: [__m512i; VECTORS], row: &mut Row) {
    // SAFETY: a row is two vectors long.
    unsafe {
        _mm512_storeu_si512(row.as_mut_ptr().cast(), words[0]);
        _mm512_storeu_si512(row.as_mut_ptr().add(16).cast(), words[1]);
    }
}
