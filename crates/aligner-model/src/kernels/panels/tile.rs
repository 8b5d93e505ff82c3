//! The innermost loops: a tile of sums in registers.

use super::{TILE, Tile, WIDTH};

/// Rows of [`gradient_tile`]'s three parts, which together are a panel's columns.
const PARTS: [usize; 3] = [11, 11, 10];

/// Vector instructions that a tile is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the program was compiled for: on aarch64 that is NEON.
    Compiled,
}

impl Isa {
    /// The widest of this machine.
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Compiled
    }
}

/// A part of a sum: both sides are read in `chunks` stretches of up to [`WIDTH`] steps, or in a single one of any length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    pub a: &'a [f32],
    /// Elements of `a` from one stretch to the next.
    pub stride: usize,
    /// `[steps][WIDTH]`
    pub b: &'a [f32],
    pub chunks: usize,
    /// Steps of the last stretch; those before it have [`WIDTH`].
    pub last: usize,
}

impl<'a> Run<'a> {
    pub fn single(a: &'a [f32], b: &'a [f32], steps: usize) -> Self {
        Self {
            a,
            stride: 0,
            b,
            chunks: 1,
            last: steps,
        }
    }

    /// # Panics
    /// When the run reaches beyond its slices: `reach` elements behind the beginning of `a`'s last stretch.
    fn check(&self, reach: usize) {
        let before = self.chunks.saturating_sub(1);
        assert!(
            before * self.stride + reach <= self.a.len()
                && (before * WIDTH + self.last) * WIDTH <= self.b.len()
                && (before == 0 || self.last <= WIDTH),
            "a run beyond its matrix"
        );
    }
}

/// `out[i][j] = Σ a[i · WIDTH + k] · b[k][j]`, over all runs.
pub(super) fn row_tile(isa: Isa, runs: &[Run<'_>], out: &mut Tile) {
    for run in runs {
        assert!(run.last <= WIDTH, "a stretch as long as a panel is wide");
        let longest = if run.chunks > 1 { WIDTH } else { run.last };
        run.check((TILE - 1) * WIDTH + longest.max(run.last));
    }
    // SAFETY: every element that is read lies inside its slice, as was just checked, and the instructions are there.
    unsafe { sums::<TILE, WIDTH, 1>(isa, runs, 0, out) };
}

/// `out[i][j] = Σ a[k · WIDTH + i] · b[k][j]`, over all runs, which are single stretches.
pub(super) fn column_tile(isa: Isa, runs: &[Run<'_>], out: &mut [[f32; WIDTH]; WIDTH]) {
    for run in runs {
        assert_eq!(run.chunks, 1, "single stretches");
        run.check(run.last * WIDTH);
    }
    let (first, rest) = out.split_at_mut(PARTS[0]);
    let (second, third) = rest.split_at_mut(PARTS[1]);
    let parts = (
        <&mut [_; PARTS[0]]>::try_from(first),
        <&mut [_; PARTS[1]]>::try_from(second),
        <&mut [_; PARTS[2]]>::try_from(third),
    );
    if let (Ok(first), Ok(second), Ok(third)) = parts {
        // SAFETY: as above; the columns of the three parts are a panel's.
        unsafe {
            sums::<{ PARTS[0] }, 1, WIDTH>(isa, runs, 0, first);
            sums::<{ PARTS[1] }, 1, WIDTH>(isa, runs, PARTS[0], second);
            sums::<{ PARTS[2] }, 1, WIDTH>(isa, runs, PARTS[0] + PARTS[1], third);
        }
    }
}

/// `out[i][j] = Σ a[first + i · ROW + k · STEP] · b[k][j]`
///
/// # Safety
/// All of these elements lie inside their slices, and the machine has the instructions.
unsafe fn sums<const ROWS: usize, const ROW: usize, const STEP: usize>(
    isa: Isa,
    runs: &[Run<'_>],
    first: usize,
    out: &mut [[f32; WIDTH]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::<ROWS, ROW, STEP>(runs, first, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::<ROWS, ROW, STEP>(runs, first, out),
            Isa::Compiled => plain::<ROWS, ROW, STEP>(runs, first, out, |a, b, sum| {
                if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                    a.mul_add(b, sum)
                } else {
                    a * b + sum
                }
            }),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize, const ROW: usize, const STEP: usize>(
    runs: &[Run<'_>],
    first: usize,
    out: &mut [[f32; WIDTH]; ROWS],
) {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    /// Steps ahead at which the panel is fetched.
    const AHEAD: usize = 16;
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for run in runs {
        let mut b = run.b.as_ptr();
        for chunk in 0..run.chunks {
            let mut a = run.a.as_ptr().wrapping_add(chunk * run.stride + first);
            let steps = if chunk + 1 == run.chunks { run.last } else { WIDTH };
            for _ in 0..steps {
                // SAFETY: the caller's promise; a prefetch may name any address.
                unsafe {
                    let (left, right) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * WIDTH).cast());
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD * WIDTH + 16).cast());
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let factor = _mm512_set1_ps(*a.add(row * ROW));
                        sums[0] = _mm512_fmadd_ps(factor, left, sums[0]);
                        sums[1] = _mm512_fmadd_ps(factor, right, sums[1]);
                    }
                }
                a = a.wrapping_add(STEP);
                b = b.wrapping_add(WIDTH);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        // SAFETY: a row of `out` has room for two vectors.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(out.as_mut_ptr().add(16), sums[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const ROWS: usize, const ROW: usize, const STEP: usize>(
    runs: &[Run<'_>],
    first: usize,
    out: &mut [[f32; WIDTH]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe { plain::<ROWS, ROW, STEP>(runs, first, out, |a, b, sum| a.mul_add(b, sum)) };
}

/// The loops for the compiler to vectorise: three rows at a time, whose sums are twelve vectors of AVX2.
///
/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn plain<const ROWS: usize, const ROW: usize, const STEP: usize>(
    runs: &[Run<'_>],
    first: usize,
    out: &mut [[f32; WIDTH]; ROWS],
    multiply_add: impl Fn(f32, f32, f32) -> f32,
) {
    const ROWS_AT_ONCE: usize = 3;
    for (part, out) in out.chunks_mut(ROWS_AT_ONCE).enumerate() {
        let mut sums = [[0.0f32; WIDTH]; ROWS_AT_ONCE];
        // The last rows of a short part are its first ones again; their sums are dropped.
        let rows: [usize; ROWS_AT_ONCE] =
            std::array::from_fn(|row| first + (part * ROWS_AT_ONCE + row % out.len()) * ROW);
        for run in runs {
            for chunk in 0..run.chunks {
                let steps = if chunk + 1 == run.chunks { run.last } else { WIDTH };
                for step in 0..steps {
                    let at = (chunk * WIDTH + step) * WIDTH;
                    // SAFETY: the caller's promise.
                    let b = unsafe { &*run.b.as_ptr().add(at).cast::<[f32; WIDTH]>() };
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        // SAFETY: the caller's promise.
                        let factor = unsafe { *run.a.as_ptr().add(chunk * run.stride + row + step * STEP) };
                        for (sum, &b) in sums.iter_mut().zip(b) {
                            *sum = multiply_add(factor, b, *sum);
                        }
                    }
                }
            }
        }
        out.copy_from_slice(&sums[..out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> Vec<Isa> {
        let mut all = vec![Isa::Compiled];
        #[cfg(target_arch = "x86_64")]
        {
            if Isa::here() != Isa::Compiled {
                all.push(Isa::Avx2);
            }
            if Isa::here() == Isa::Avx512 {
                all.push(Isa::Avx512);
            }
        }
        all
    }

    /// Small whole numbers, whose sums are exact in any order.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn tiles_of_every_instruction_set_are_exact() {
        for isa in every() {
            for last in [1, 2, 31, 32] {
                let (a, b) = (numbers(3 * TILE * WIDTH, 1), numbers(3 * WIDTH * WIDTH, 2));
                let run = Run {
                    a: &a,
                    stride: TILE * WIDTH,
                    b: &b,
                    chunks: 3,
                    last,
                };
                let mut out = [[f32::NAN; WIDTH]; TILE];
                row_tile(isa, &[run, run], &mut out);
                for (i, row) in out.iter().enumerate() {
                    for (j, &got) in row.iter().enumerate() {
                        let term =
                            |k: usize| a[k / WIDTH * TILE * WIDTH + i * WIDTH + k % WIDTH] * b[k * WIDTH + j];
                        let sum: f32 = (0..2 * WIDTH + last).map(term).sum();
                        assert_eq!(got, 2.0 * sum, "{isa:?} {last} {i} {j}");
                    }
                }
            }
            for steps in [1, 14, 100] {
                let (a, b) = (numbers(steps * WIDTH, 3), numbers(steps * WIDTH, 4));
                let run = Run::single(&a, &b, steps);
                let mut out = [[f32::NAN; WIDTH]; WIDTH];
                column_tile(isa, &[run, run], &mut out);
                for (i, row) in out.iter().enumerate() {
                    for (j, &got) in row.iter().enumerate() {
                        let sum: f32 = (0..steps).map(|k| a[k * WIDTH + i] * b[k * WIDTH + j]).sum();
                        assert_eq!(got, 2.0 * sum, "{isa:?} {steps} {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond its matrix")]
    fn a_run_outside_its_slice_is_caught() {
        let a = [0.0; TILE * WIDTH - 1];
        let b = [0.0; WIDTH * WIDTH];
        let run = Run::single(&a, &b, WIDTH);
        row_tile(Isa::here(), &[run], &mut [[0.0; WIDTH]; TILE]);
    }
}
