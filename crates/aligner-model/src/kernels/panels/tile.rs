//! The innermost loops: a tile of sums in registers.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::{TILE, Tile, WIDTH};

/// What sums begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Start {
    Zero,
    /// What stands in the output.
    Held,
}

/// Columns of [`column_tile`]'s three parts in AVX-512, which together are a panel's.
#[cfg(target_arch = "x86_64")]
const PARTS: [usize; 3] = [11, 11, 10];

/// Columns at a time where not all of a panel's are wanted.
#[cfg(target_arch = "x86_64")]
const FEW: usize = 8;

/// Columns of a vector of AVX-512, of which a panel has two.
#[cfg(target_arch = "x86_64")]
const HALF: usize = WIDTH / 2;

/// Vector instructions that a tile is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Isa {
    /// Its elements are [pairs](super::Form::Pairs).
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// What the program was compiled for. Nothing but the tests needs it on aarch64, where NEON is never missing.
    Compiled,
}

impl Isa {
    /// Whether this machine multiplies pairs.
    #[cfg(target_arch = "x86_64")]
    pub fn pairs_are_here() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }

    /// The widest of this machine for elements of f32.
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if super::avx2::is_here() {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Self::Neon;
        }
        Self::Compiled
    }
}

/// A part of a sum: both sides are read in `chunks` stretches of up to [`WIDTH`] steps, or in a single one of any length.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Run<'a> {
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

/// `out[i][j] = Σ a[i · WIDTH + k] · b[k][j]`, over all runs, for `j` below `columns`; those behind may be computed or not.
pub(in super::super) fn row_tile(isa: Isa, runs: &[Run<'_>], out: &mut Tile, columns: usize) {
    assert!(columns <= WIDTH, "columns of a panel");
    for run in runs {
        assert!(run.last <= WIDTH, "a stretch as long as a panel is wide");
        let longest = if run.chunks > 1 { WIDTH } else { run.last };
        run.check((TILE - 1) * WIDTH + longest.max(run.last));
    }
    // SAFETY: every element that is read lies inside its slice, as was just checked, and the instructions are there.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if columns <= HALF => avx512_bf16::half_rows(runs, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => avx512_bf16::rows(runs, 0, Start::Zero, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if columns <= HALF => avx512::half_rows(runs, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::rows(runs, 0, Start::Zero, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::rows(runs, out),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::rows(runs, out),
            Isa::Compiled => plain::<TILE, WIDTH, 1>(runs, Start::Zero, out),
        }
    };
}

/// `out[i][j] = start + Σ a[k · WIDTH + i] · b[k][j]`, over all runs, which are single stretches, for `i` below `columns`; the rows behind
/// may be computed or not.
pub(in super::super) fn column_tile(
    isa: Isa,
    runs: &[Run<'_>],
    start: Start,
    out: &mut [[f32; WIDTH]; WIDTH],
    columns: usize,
) {
    assert!(columns <= WIDTH, "columns of a panel");
    for run in runs {
        assert_eq!(run.chunks, 1, "single stretches");
        run.check(run.last * WIDTH);
    }
    // SAFETY: as above.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => avx512_bf16::columns(runs, start, out, columns),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::columns(runs, start, out, columns),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::columns(runs, start, &mut out[..columns]),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::columns(runs, start, out),
            Isa::Compiled => plain::<WIDTH, 1, WIDTH>(runs, start, out),
        }
    }
}

/// The three parts of a panel's columns.
#[cfg(target_arch = "x86_64")]
type Parts<'a> = (
    &'a mut [[f32; WIDTH]; PARTS[0]],
    &'a mut [[f32; WIDTH]; PARTS[1]],
    &'a mut [[f32; WIDTH]; PARTS[2]],
);

/// `None` never: the parts are a panel's columns.
#[cfg(target_arch = "x86_64")]
fn parts(all: &mut [[f32; WIDTH]; WIDTH]) -> Option<Parts<'_>> {
    const { assert!(PARTS[0] + PARTS[1] + PARTS[2] == WIDTH) };
    let (first, rest) = all.as_mut_slice().split_first_chunk_mut()?;
    let (second, rest) = rest.split_first_chunk_mut()?;
    Some((first, second, rest.first_chunk_mut()?))
}

/// A stretch of a sum in AVX-512, by an instruction that multiplies and adds: for each row its number and those of its two sums among the operands.
///
/// Written out because the compiler, with so many sums, keeps some of them in memory.
#[cfg(target_arch = "x86_64")]
macro_rules! stretch {
    ([$a:ident, $b:ident, $steps:ident] $sums:ident, $multiply:literal, $row:literal, $step:literal; $($index:literal $low:literal $high:literal),+) => {
        std::arch::asm!(
            "2:",
            "vmovups {left}, zmmword ptr [{b}]",
            "vmovups {right}, zmmword ptr [{b} + 64]",
            "prefetcht0 byte ptr [{b} + 2048]",
            "prefetcht0 byte ptr [{b} + 2112]",
            $(
                concat!("vbroadcastss {factor}, dword ptr [{a} + ", $index, " * ", $row, "]"),
                concat!($multiply, " {", $low, "}, {factor}, {left}"),
                concat!($multiply, " {", $high, "}, {factor}, {right}"),
            )+
            concat!("add {a}, ", $step),
            "add {b}, 128",
            "dec {steps}",
            "jnz 2b",
            $(inout(zmm_reg) $sums[$index][0], inout(zmm_reg) $sums[$index][1],)+
            a = inout(reg) $a => _,
            b = inout(reg) $b,
            steps = inout(reg) $steps => _,
            left = out(zmm_reg) _,
            right = out(zmm_reg) _,
            factor = out(zmm_reg) _,
            options(readonly, nostack),
        )
    };
}

/// [`stretch`] of a panel's first half: for each row its number and that of its sum.
#[cfg(target_arch = "x86_64")]
macro_rules! half_stretch {
    ([$a:ident, $b:ident, $steps:ident] $sums:ident, $multiply:literal; $($index:literal),+) => {
        std::arch::asm!(
            "2:",
            "vmovups {left}, zmmword ptr [{b}]",
            "prefetcht0 byte ptr [{b} + 2048]",
            $(concat!($multiply, " {", $index, "}, {left}, dword ptr [{a} + ", $index, " * 128]{{1to16}}"),)+
            "add {a}, 4",
            "add {b}, 128",
            "dec {steps}",
            "jnz 2b",
            $(inout(zmm_reg) $sums[$index],)+
            a = inout(reg) $a => _,
            b = inout(reg) $b,
            steps = inout(reg) $steps => _,
            left = out(zmm_reg) _,
            options(readonly, nostack),
        )
    };
}

/// A function that runs [`stretch`] over all runs, for rows and steps that many bytes apart.
#[cfg(target_arch = "x86_64")]
macro_rules! avx512_sums {
    ($name:ident, $features:literal, $multiply:literal, $rows:literal, $row:literal, $step:literal; $($index:literal $low:literal $high:literal),+) => {
        /// # Safety
        /// All elements that the runs name lie inside their slices, and the machine has the instructions.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(runs: &[Run<'_>], first: usize, start: Start, out: &mut [[f32; WIDTH]; $rows]) {
            use std::arch::x86_64::{_mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps};
            const { assert!(WIDTH == 32, "the loop is written for two vectors of 64 bytes") };
            let mut sums = [[_mm512_setzero_ps(); 2]; $rows];
            if start == Start::Held {
                for (sums, out) in sums.iter_mut().zip(out.iter()) {
                    // SAFETY: a row of `out` has two vectors.
                    *sums = unsafe { [_mm512_loadu_ps(out.as_ptr()), _mm512_loadu_ps(out.as_ptr().add(16))] };
                }
            }
            for run in runs {
                let mut b = run.b.as_ptr();
                for chunk in 0..run.chunks {
                    let a = run.a.as_ptr().wrapping_add(chunk * run.stride + first);
                    let steps = if chunk + 1 == run.chunks { run.last } else { WIDTH };
                    if steps == 0 {
                        continue;
                    }
                    // SAFETY: reads one element of each row and 32 of `b` at each step, which lie inside their slices as
                    // the caller promises; a prefetch may name any address.
                    unsafe { stretch!([a, b, steps] sums, $multiply, $row, $step; $($index $low $high),+) };
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
    };
}

/// The loops of AVX-512 by one instruction.
#[cfg(target_arch = "x86_64")]
macro_rules! avx512_loops {
    ($module:ident, $features:literal, $multiply:literal) => {
        mod $module {
            use super::{FEW, HALF, PARTS, Run, Start, TILE, WIDTH, parts};

            avx512_sums!(rows, $features, $multiply, 14, 128, 4; 0 0 1, 1 2 3, 2 4 5, 3 6 7, 4 8 9, 5 10 11, 6 12 13, 7 14 15, 8 16 17, 9 18 19, 10 20 21, 11 22 23, 12 24 25, 13 26 27);
            avx512_sums!(eleven_columns, $features, $multiply, 11, 4, 128; 0 0 1, 1 2 3, 2 4 5, 3 6 7, 4 8 9, 5 10 11, 6 12 13, 7 14 15, 8 16 17, 9 18 19, 10 20 21);
            avx512_sums!(ten_columns, $features, $multiply, 10, 4, 128; 0 0 1, 1 2 3, 2 4 5, 3 6 7, 4 8 9, 5 10 11, 6 12 13, 7 14 15, 8 16 17, 9 18 19);

            avx512_sums!(few_columns, $features, $multiply, 8, 4, 128; 0 0 1, 1 2 3, 2 4 5, 3 6 7, 4 8 9, 5 10 11, 6 12 13, 7 14 15);

            /// [`rows`] of the first [`HALF`] of the columns; the others stay as they are.
            ///
            /// # Safety
            /// As [`rows`].
            #[target_feature(enable = $features)]
            pub(super) unsafe fn half_rows(runs: &[Run<'_>], out: &mut [[f32; WIDTH]; TILE]) {
                use std::arch::x86_64::{_mm512_setzero_ps, _mm512_storeu_ps};
                const { assert!(TILE == 14 && HALF == 16, "the loop is written for 14 vectors") };
                let mut sums = [_mm512_setzero_ps(); TILE];
                for run in runs {
                    let mut b = run.b.as_ptr();
                    for chunk in 0..run.chunks {
                        let a = run.a.as_ptr().wrapping_add(chunk * run.stride);
                        let steps = if chunk + 1 == run.chunks { run.last } else { WIDTH };
                        if steps == 0 {
                            continue;
                        }
                        // SAFETY: as in `rows`, and of `b` only the first half of each step.
                        unsafe { half_stretch!([a, b, steps] sums, $multiply; 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13) };
                    }
                }
                for (sums, out) in sums.iter().zip(out) {
                    // SAFETY: a row of `out` has room for two vectors.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sums) };
                }
            }

            /// The first columns of a panel, and those of the part that the last of them is in.
            ///
            /// # Safety
            /// As [`rows`].
            #[target_feature(enable = $features)]
            pub(super) unsafe fn columns(
                runs: &[Run<'_>],
                start: Start,
                out: &mut [[f32; WIDTH]; WIDTH],
                columns: usize,
            ) {
                if columns + FEW <= WIDTH {
                    let (parts, _) = out.as_chunks_mut::<FEW>();
                    for (part, out) in parts.iter_mut().take(columns.div_ceil(FEW)).enumerate() {
                        // SAFETY: the caller's promise.
                        unsafe { few_columns(runs, part * FEW, start, out) };
                    }
                    return;
                }
                let Some((first, second, third)) = parts(out) else {
                    return;
                };
                // SAFETY: the caller's promise.
                unsafe {
                    eleven_columns(runs, 0, start, first);
                    eleven_columns(runs, PARTS[0], start, second);
                    ten_columns(runs, PARTS[0] + PARTS[1], start, third);
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
avx512_loops!(avx512, "avx512f", "vfmadd231ps");
#[cfg(target_arch = "x86_64")]
avx512_loops!(avx512_bf16, "avx512f,avx512bf16", "vdpbf16ps");

/// The loops for the compiler to vectorise, three rows at a time: `out[i][j] = Σ a[i · ROW + k · STEP] · b[k][j]`.
///
/// # Safety
/// All of these elements lie inside their slices.
unsafe fn plain<const ROWS: usize, const ROW: usize, const STEP: usize>(
    runs: &[Run<'_>],
    start: Start,
    out: &mut [[f32; WIDTH]; ROWS],
) {
    const ROWS_AT_ONCE: usize = 3;
    let multiply_add = |a: f32, b: f32, sum: f32| {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            a.mul_add(b, sum)
        } else {
            a * b + sum
        }
    };
    for (part, out) in out.chunks_mut(ROWS_AT_ONCE).enumerate() {
        let mut sums = [[0.0f32; WIDTH]; ROWS_AT_ONCE];
        if start == Start::Held {
            sums[..out.len()].copy_from_slice(out);
        }
        // The last rows of a short part are its first ones again; their sums are dropped.
        let rows: [usize; ROWS_AT_ONCE] =
            std::array::from_fn(|row| (part * ROWS_AT_ONCE + row % out.len()) * ROW);
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
mod tests;
