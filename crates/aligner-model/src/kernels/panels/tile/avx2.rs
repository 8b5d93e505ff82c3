//! The loops in AVX2: of its sixteen registers three rows' sums are twelve, their factors three and a vector of the panel one.
//!
//! Written out because the compiler keeps some of the sums in memory, at a third of the speed.

use std::arch::x86_64::{
    __m256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::{Run, TILE, WIDTH};

/// Vectors of a panel's row.
const VECTORS: usize = WIDTH / 8;
/// Rows of a part; two are left of a tile's fourteen and of a panel's 32 columns.
const PART: usize = 3;
/// Stretches of the right side, 16 KiB, that all parts are multiplied with while it is in the first cache.
const GROUP: usize = 4;

type Sums<const ROWS: usize> = [[__m256; VECTORS]; ROWS];

/// `out[i][j] = Σ a[i · WIDTH + k] · b[k][j]`
///
/// # Safety
/// All of these elements lie inside their slices, and the machine has AVX2 and FMA.
pub(super) unsafe fn rows(runs: &[Run<'_>], out: &mut [[f32; WIDTH]; TILE]) {
    out.fill([0.0; WIDTH]);
    for run in runs {
        for first in (0..run.chunks).step_by(GROUP) {
            let chunks = GROUP.min(run.chunks - first);
            let group = Group {
                a: run.a.as_ptr().wrapping_add(first * run.stride),
                b: run.b.as_ptr().wrapping_add(first * WIDTH * WIDTH),
                stride: run.stride,
                chunks,
                last: if first + chunks == run.chunks {
                    run.last
                } else {
                    WIDTH
                },
            };
            for (part, out) in out.chunks_mut(PART).enumerate() {
                // SAFETY: the caller's promise; rows of a part are those of the tile.
                unsafe { group.starting_at(part * PART * WIDTH).add_rows(out) };
            }
        }
    }
}

/// `out[i][j] = Σ a[k · WIDTH + i] · b[k][j]`, over runs of a single stretch.
///
/// # Safety
/// As [`rows`].
pub(super) unsafe fn columns(runs: &[Run<'_>], out: &mut [[f32; WIDTH]; WIDTH]) {
    out.fill([0.0; WIDTH]);
    for run in runs {
        let group = Group {
            a: run.a.as_ptr(),
            b: run.b.as_ptr(),
            stride: 0,
            chunks: 1,
            last: run.last,
        };
        for (part, out) in out.chunks_mut(PART).enumerate() {
            // SAFETY: the caller's promise; columns of a part are those of the panel.
            unsafe { group.starting_at(part * PART).add_columns(out) };
        }
    }
}

/// Stretches of a run.
#[derive(Clone, Copy)]
struct Group {
    a: *const f32,
    b: *const f32,
    stride: usize,
    chunks: usize,
    last: usize,
}

impl Group {
    fn starting_at(self, first: usize) -> Self {
        Self {
            a: self.a.wrapping_add(first),
            ..self
        }
    }

    /// # Safety
    /// As [`rows`]; `out` has two or three rows, which exist.
    unsafe fn add_rows(self, out: &mut [[f32; WIDTH]]) {
        // SAFETY: the caller's promise.
        unsafe {
            match out.len() {
                PART => self.three_rows(out),
                _ => self.few::<WIDTH, 1>(out),
            }
        }
    }

    /// # Safety
    /// As [`add_rows`](Self::add_rows), of columns.
    unsafe fn add_columns(self, out: &mut [[f32; WIDTH]]) {
        // SAFETY: the caller's promise.
        unsafe {
            match out.len() {
                PART => self.three_columns(out),
                _ => self.few::<1, WIDTH>(out),
            }
        }
    }

    /// Steps of a stretch.
    fn steps(self, chunk: usize) -> usize {
        if chunk + 1 == self.chunks {
            self.last
        } else {
            WIDTH
        }
    }

    /// Two rows, or columns, `ROW` elements apart, whose steps are `STEP` apart.
    ///
    /// # Safety
    /// As [`rows`]; `out` has two rows.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn few<const ROW: usize, const STEP: usize>(self, out: &mut [[f32; WIDTH]]) {
        const ROWS: usize = 2;
        const { assert!(TILE % PART == ROWS && WIDTH % PART == ROWS) };
        let mut sums: Sums<ROWS> = load(out);
        let mut b = self.b;
        for chunk in 0..self.chunks {
            let a = self.a.wrapping_add(chunk * self.stride);
            for step in 0..self.steps(chunk) {
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: an element of the left side, as the caller promises.
                    let factor = _mm256_set1_ps(unsafe { *a.add(row * ROW + step * STEP) });
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: a row of the panel, as the caller promises.
                        let b = unsafe { _mm256_loadu_ps(b.add(vector * 8)) };
                        *sum = _mm256_fmadd_ps(factor, b, *sum);
                    }
                }
                b = b.wrapping_add(WIDTH);
            }
        }
        store(sums, out);
    }
}

/// The first rows of `out`, which are there.
#[target_feature(enable = "avx2")]
fn load<const ROWS: usize>(out: &[[f32; WIDTH]]) -> Sums<ROWS> {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    for (sums, out) in sums.iter_mut().zip(out) {
        for (vector, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a row has that many vectors.
            *sum = unsafe { _mm256_loadu_ps(out.as_ptr().add(vector * 8)) };
        }
    }
    sums
}

#[target_feature(enable = "avx2")]
fn store<const ROWS: usize>(sums: Sums<ROWS>, out: &mut [[f32; WIDTH]]) {
    for (sums, out) in sums.iter().zip(out) {
        for (vector, &sum) in sums.iter().enumerate() {
            // SAFETY: a row has that many vectors.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(vector * 8), sum) };
        }
    }
}

/// A function that adds the stretches of a group to three rows, for rows and steps that many bytes apart.
macro_rules! three {
    ($name:ident, $row:literal, $step:literal) => {
        impl Group {
            /// # Safety
            /// As [`rows`]; `out` has three rows.
            #[target_feature(enable = "avx2,fma")]
            unsafe fn $name(self, out: &mut [[f32; WIDTH]]) {
                const { assert!(VECTORS == 4 && PART == 3, "the loop is written for twelve sums") };
                let mut sums: Sums<PART> = load(out);
                let mut b = self.b;
                for chunk in 0..self.chunks {
                    let (a, steps) = (self.a.wrapping_add(chunk * self.stride), self.steps(chunk));
                    if steps == 0 {
                        continue;
                    }
                    let [[s0, s1, s2, s3], [s4, s5, s6, s7], [s8, s9, s10, s11]] = &mut sums;
                    // SAFETY: reads one element of each row and 32 of `b` at each step, which lie inside their slices as
                    // the caller promises; a prefetch may name any address.
                    unsafe {
                        std::arch::asm!(
                            "2:",
                            "vbroadcastss {f0}, dword ptr [{a}]",
                            concat!("vbroadcastss {f1}, dword ptr [{a} + ", $row, "]"),
                            concat!("vbroadcastss {f2}, dword ptr [{a} + 2 * ", $row, "]"),
                            "prefetcht0 byte ptr [{b} + 1024]",
                            "prefetcht0 byte ptr [{b} + 1088]",
                            "vmovups {v}, ymmword ptr [{b}]",
                            "vfmadd231ps {s0}, {f0}, {v}",
                            "vfmadd231ps {s4}, {f1}, {v}",
                            "vfmadd231ps {s8}, {f2}, {v}",
                            "vmovups {v}, ymmword ptr [{b} + 32]",
                            "vfmadd231ps {s1}, {f0}, {v}",
                            "vfmadd231ps {s5}, {f1}, {v}",
                            "vfmadd231ps {s9}, {f2}, {v}",
                            "vmovups {v}, ymmword ptr [{b} + 64]",
                            "vfmadd231ps {s2}, {f0}, {v}",
                            "vfmadd231ps {s6}, {f1}, {v}",
                            "vfmadd231ps {s10}, {f2}, {v}",
                            "vmovups {v}, ymmword ptr [{b} + 96]",
                            "vfmadd231ps {s3}, {f0}, {v}",
                            "vfmadd231ps {s7}, {f1}, {v}",
                            "vfmadd231ps {s11}, {f2}, {v}",
                            concat!("add {a}, ", $step),
                            "add {b}, 128",
                            "dec {steps}",
                            "jnz 2b",
                            s0 = inout(ymm_reg) *s0, s1 = inout(ymm_reg) *s1, s2 = inout(ymm_reg) *s2,
                            s3 = inout(ymm_reg) *s3, s4 = inout(ymm_reg) *s4, s5 = inout(ymm_reg) *s5,
                            s6 = inout(ymm_reg) *s6, s7 = inout(ymm_reg) *s7, s8 = inout(ymm_reg) *s8,
                            s9 = inout(ymm_reg) *s9, s10 = inout(ymm_reg) *s10, s11 = inout(ymm_reg) *s11,
                            a = inout(reg) a => _,
                            b = inout(reg) b,
                            steps = inout(reg) steps => _,
                            f0 = out(ymm_reg) _, f1 = out(ymm_reg) _, f2 = out(ymm_reg) _, v = out(ymm_reg) _,
                            options(readonly, nostack),
                        );
                    }
                }
                store(sums, out);
            }
        }
    };
}

three!(three_rows, 128, 4);
three!(three_columns, 4, 128);
