//! Up to three rows times a panel in AVX2: of its sixteen registers three rows' sums are twelve, their factors three and a vector of
//! the panel one.
//!
//! Three rows are written out, because the compiler keeps some of the sums in memory, at a third of the speed.

use std::arch::x86_64::{
    __m256, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use half::f16;

use super::WIDTH;

/// Rows at once.
pub(in super::super) const ROWS: usize = 3;
/// Vectors of a panel's row.
const VECTORS: usize = WIDTH / 8;

type Sums<const COUNT: usize> = [[__m256; VECTORS]; COUNT];

/// Whether the machine has what the loops here are made of.
pub(in super::super) fn is_here() -> bool {
    // Every processor with AVX2 has the conversion of halves as well.
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// What a panel may be made of; halves become f32 as they are read.
pub(in super::super) trait Element: Copy {
    const IS_HALF: bool;
}

impl Element for f32 {
    const IS_HALF: bool = false;
}

impl Element for f16 {
    const IS_HALF: bool = true;
}

/// Rows and a panel: step `k` of stretch `c` of row `r` is `x[r · row + c · stretch + k · step]`, and is multiplied with the next row of
/// the panel, which is one run of memory over all stretches.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Pass<T = f32> {
    pub x: *const f32,
    pub row: usize,
    pub step: usize,
    pub stretch: usize,
    pub stretches: usize,
    /// Steps of the last stretch; those before it have [`WIDTH`].
    pub last: usize,
    pub panel: *const T,
    /// What is fetched meanwhile, and how many bytes further at each step. It may be any address.
    pub next: *const T,
    pub fetch: usize,
}

/// The loop over the steps of a stretch: how a vector of the panel is read, and where the next three and the next step begin.
macro_rules! three {
    (
        $pass:expr, $sums:expr, $x:expr, $panel:expr, $next:expr, $steps:expr,
        $load:literal, $size:literal, $second:literal, $third:literal, $fourth:literal, $all:literal
    ) => {{
        let [[s0, s1, s2, s3], [s4, s5, s6, s7], [s8, s9, s10, s11]] = &mut $sums;
        std::arch::asm!(
            "2:",
            "vbroadcastss {f0}, dword ptr [{x}]",
            "vbroadcastss {f1}, dword ptr [{x} + {row}]",
            "vbroadcastss {f2}, dword ptr [{x} + 2 * {row}]",
            "prefetcht1 byte ptr [{next}]",
            "prefetcht1 byte ptr [{next} + 64]",
            concat!($load, " {v}, ", $size, " ptr [{panel}]"),
            "vfmadd231ps {s0}, {f0}, {v}",
            "vfmadd231ps {s4}, {f1}, {v}",
            "vfmadd231ps {s8}, {f2}, {v}",
            concat!($load, " {v}, ", $size, " ptr [{panel} + ", $second, "]"),
            "vfmadd231ps {s1}, {f0}, {v}",
            "vfmadd231ps {s5}, {f1}, {v}",
            "vfmadd231ps {s9}, {f2}, {v}",
            concat!($load, " {v}, ", $size, " ptr [{panel} + ", $third, "]"),
            "vfmadd231ps {s2}, {f0}, {v}",
            "vfmadd231ps {s6}, {f1}, {v}",
            "vfmadd231ps {s10}, {f2}, {v}",
            concat!($load, " {v}, ", $size, " ptr [{panel} + ", $fourth, "]"),
            "vfmadd231ps {s3}, {f0}, {v}",
            "vfmadd231ps {s7}, {f1}, {v}",
            "vfmadd231ps {s11}, {f2}, {v}",
            "add {x}, {step}",
            concat!("add {panel}, ", $all),
            "add {next}, {fetch}",
            "dec {steps}",
            "jnz 2b",
            s0 = inout(ymm_reg) *s0, s1 = inout(ymm_reg) *s1, s2 = inout(ymm_reg) *s2,
            s3 = inout(ymm_reg) *s3, s4 = inout(ymm_reg) *s4, s5 = inout(ymm_reg) *s5,
            s6 = inout(ymm_reg) *s6, s7 = inout(ymm_reg) *s7, s8 = inout(ymm_reg) *s8,
            s9 = inout(ymm_reg) *s9, s10 = inout(ymm_reg) *s10, s11 = inout(ymm_reg) *s11,
            x = inout(reg) $x => _,
            row = in(reg) $pass.row * size_of::<f32>(),
            step = in(reg) $pass.step * size_of::<f32>(),
            panel = inout(reg) $panel,
            next = inout(reg) $next,
            fetch = in(reg) $pass.fetch,
            steps = inout(reg) $steps => _,
            f0 = out(ymm_reg) _, f1 = out(ymm_reg) _, f2 = out(ymm_reg) _, v = out(ymm_reg) _,
            options(readonly, nostack),
        );
    }};
}

impl<T: Element> Pass<T> {
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
    /// All of these elements lie inside their slices, and [the machine has](is_here) the instructions.
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
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn few<const COUNT: usize>(self, out: &mut [[f32; WIDTH]]) {
        let mut sums: Sums<COUNT> = load(out);
        let (mut panel, mut next) = (self.panel, self.next.cast::<i8>());
        for stretch in 0..self.stretches {
            let x = self.x.wrapping_add(stretch * self.stretch);
            for step in 0..self.steps(stretch) {
                _mm_prefetch::<_MM_HINT_T1>(next);
                _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(64));
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: an element of a row, as the caller promises.
                    let factor = _mm256_set1_ps(unsafe { *x.add(row * self.row + step * self.step) });
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: a row of the panel, as the caller promises.
                        let b = unsafe {
                            let at = panel.add(vector * 8);
                            match T::IS_HALF {
                                true => _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                                false => _mm256_loadu_ps(at.cast()),
                            }
                        };
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
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn three(self, out: &mut [[f32; WIDTH]]) {
        const { assert!(VECTORS == 4 && ROWS == 3, "the loop is written for twelve sums") };
        let mut sums: Sums<ROWS> = load(out);
        let (mut panel, mut next) = (self.panel, self.next);
        for stretch in 0..self.stretches {
            let (x, steps) = (self.x.wrapping_add(stretch * self.stretch), self.steps(stretch));
            if steps == 0 {
                continue;
            }
            // SAFETY: reads one element of each row and 32 of the panel at each step, which lie inside their slices as the caller
            // promises; a prefetch may name any address.
            unsafe {
                if T::IS_HALF {
                    three!(
                        self,
                        sums,
                        x,
                        panel,
                        next,
                        steps,
                        "vcvtph2ps",
                        "xmmword",
                        "16",
                        "32",
                        "48",
                        "64"
                    );
                } else {
                    three!(
                        self, sums, x, panel, next, steps, "vmovups", "ymmword", "32", "64", "96", "128"
                    );
                }
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
