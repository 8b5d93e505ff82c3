//! The loop over bf16 for AVX512-BF16, whose instruction multiplies two pairs and adds both products to the sum.

use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_setzero_ps};

use super::super::layout::PANEL;
use super::Tile;
use super::avx2::LINE;
use super::avx512::{broadcast, prefetch, store};

/// Both sides are read as they lie: pairs of inputs.
///
/// # Safety
/// The machine has AVX-512 F and BF16; `ROWS` rows of `x` as wide as the panel are there, and that width is even.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn bf16<const ROWS: usize>(x: &[u16], panel: &[u8], out: &mut Tile) {
    let width = panel.len() / (2 * PANEL);
    let mut sums = [_mm512_setzero_ps(); ROWS];
    for pair in 0..width / 2 {
        // SAFETY: the pair lies inside of the panel and of each row.
        unsafe {
            let at = panel.as_ptr().add(pair * 4 * PANEL);
            let x = x.as_ptr().add(2 * pair);
            prefetch::<LINE>(at);
            let weights = halves(_mm512_loadu_si512(at.cast()));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_dpbf16_ps(*sum, weights, halves(broadcast(x.add(r * width))));
            }
        }
    }
    store(&sums, out);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn halves(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, any of which are 32 numbers.
    unsafe { std::mem::transmute(words) }
}
