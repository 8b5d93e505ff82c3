//! Up to three rows times a panel in AVX2: of its sixteen registers three rows' sums are twelve, their factors three and a vector of
//! the panel one.
//!
//! Three rows are written out, because the compiler keeps some of the sums in memory, at a third of the speed.

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_storeu_ps,
};

use super::WIDTH;

/// Rows at once.
pub(in super::super) const ROWS: usize = 3;
/// Vectors of a panel's row.
const VECTORS: usize = WIDTH / 8;

type Sums<const COUNT: usize> = [[__m256; VECTORS]; COUNT];

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
    /// What is fetched meanwhile, and how many bytes further at each step. It may be any address.
    pub next: *const f32,
    pub fetch: usize,
}

impl Pass {
    fn steps(self, stretch: usize) -> usize {
        if stretch + 1 == self.stretches {
            self.last
        } else {
            WIDTH
        }
    }

    /// Adds the products of as many rows as `out` has, up to [`ROWS`].
    ///
    /// # Safety
    /// All of these elements lie inside their slices, and the machine has AVX2 and FMA.
    pub unsafe fn add(self, out: &mut [[f32; WIDTH]]) {
        // SAFETY: the caller's promise.
        unsafe {
            match out.len() {
                0 => {}
                1 => self.few::<1>(out),
                2 => self.few::<2>(out),
                _ => self.three(out),
            }
        }
    }

    /// # Safety
    /// As [`add`](Self::add), of `COUNT` rows.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn few<const COUNT: usize>(self, out: &mut [[f32; WIDTH]]) {
        let mut sums: Sums<COUNT> = load(out);
        let (mut panel, mut next) = (self.panel, self.next.cast::<i8>());
        for stretch in 0..self.stretches {
            let x = self.x.wrapping_add(stretch * self.stretch);
            for step in 0..self.steps(stretch) {
                _mm_prefetch::<_MM_HINT_T0>(next);
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(64));
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: an element of a row, as the caller promises.
                    let factor = _mm256_set1_ps(unsafe { *x.add(row * self.row + step * self.step) });
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: a row of the panel, as the caller promises.
                        let b = unsafe { _mm256_loadu_ps(panel.add(vector * 8)) };
                        *sum = _mm256_fmadd_ps(factor, b, *sum);
                    }
                }
                panel = panel.wrapping_add(WIDTH);
                next = next.wrapping_add(self.fetch);
            }
        }
        store(sums, out);
    }

    /// # Safety
    /// As [`add`](Self::add), of three rows.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn three(self, out: &mut [[f32; WIDTH]]) {
        const { assert!(VECTORS == 4 && ROWS == 3, "the loop is written for twelve sums") };
        let mut sums: Sums<ROWS> = load(out);
        let (mut panel, mut next) = (self.panel, self.next);
        for stretch in 0..self.stretches {
            let (x, steps) = (self.x.wrapping_add(stretch * self.stretch), self.steps(stretch));
            if steps == 0 {
                continue;
            }
            let [[s0, s1, s2, s3], [s4, s5, s6, s7], [s8, s9, s10, s11]] = &mut sums;
            // SAFETY: reads one element of each row and 32 of the panel at each step, which lie inside their slices as the caller
            // promises; a prefetch may name any address.
            unsafe {
                std::arch::asm!(
                    "2:",
                    "vbroadcastss {f0}, dword ptr [{x}]",
                    "vbroadcastss {f1}, dword ptr [{x} + {row}]",
                    "vbroadcastss {f2}, dword ptr [{x} + 2 * {row}]",
                    "prefetcht0 byte ptr [{next}]",
                    "prefetcht0 byte ptr [{next} + 64]",
                    "vmovups {v}, ymmword ptr [{panel}]",
                    "vfmadd231ps {s0}, {f0}, {v}",
                    "vfmadd231ps {s4}, {f1}, {v}",
                    "vfmadd231ps {s8}, {f2}, {v}",
                    "vmovups {v}, ymmword ptr [{panel} + 32]",
                    "vfmadd231ps {s1}, {f0}, {v}",
                    "vfmadd231ps {s5}, {f1}, {v}",
                    "vfmadd231ps {s9}, {f2}, {v}",
                    "vmovups {v}, ymmword ptr [{panel} + 64]",
                    "vfmadd231ps {s2}, {f0}, {v}",
                    "vfmadd231ps {s6}, {f1}, {v}",
                    "vfmadd231ps {s10}, {f2}, {v}",
                    "vmovups {v}, ymmword ptr [{panel} + 96]",
                    "vfmadd231ps {s3}, {f0}, {v}",
                    "vfmadd231ps {s7}, {f1}, {v}",
                    "vfmadd231ps {s11}, {f2}, {v}",
                    "add {x}, {step}",
                    "add {panel}, 128",
                    "add {next}, {fetch}",
                    "dec {steps}",
                    "jnz 2b",
                    s0 = inout(ymm_reg) *s0, s1 = inout(ymm_reg) *s1, s2 = inout(ymm_reg) *s2,
                    s3 = inout(ymm_reg) *s3, s4 = inout(ymm_reg) *s4, s5 = inout(ymm_reg) *s5,
                    s6 = inout(ymm_reg) *s6, s7 = inout(ymm_reg) *s7, s8 = inout(ymm_reg) *s8,
                    s9 = inout(ymm_reg) *s9, s10 = inout(ymm_reg) *s10, s11 = inout(ymm_reg) *s11,
                    x = inout(reg) x => _,
                    row = in(reg) self.row * size_of::<f32>(),
                    step = in(reg) self.step * size_of::<f32>(),
                    panel = inout(reg) panel,
                    next = inout(reg) next,
                    fetch = in(reg) self.fetch,
                    steps = inout(reg) steps => _,
                    f0 = out(ymm_reg) _, f1 = out(ymm_reg) _, f2 = out(ymm_reg) _, v = out(ymm_reg) _,
                    options(readonly, nostack),
                );
            }
        }
        store(sums, out);
    }
}

/// The first rows of `out`, which are there.
#[target_feature(enable = "avx2")]
fn load<const COUNT: usize>(out: &[[f32; WIDTH]]) -> Sums<COUNT> {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; COUNT];
    for (sums, out) in sums.iter_mut().zip(out) {
        for (vector, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a row has that many vectors.
            *sum = unsafe { _mm256_loadu_ps(out.as_ptr().add(vector * 8)) };
        }
    }
    sums
}

#[target_feature(enable = "avx2")]
fn store<const COUNT: usize>(sums: Sums<COUNT>, out: &mut [[f32; WIDTH]]) {
    for (sums, out) in sums.iter().zip(out) {
        for (vector, &sum) in sums.iter().enumerate() {
            // SAFETY: a row has that many vectors.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(vector * 8), sum) };
        }
    }
}
