//! The loop in AVX2: of its sixteen registers three rows' sums are twelve, their factors three and a vector of the panel one.
//!
//! Three rows are written out, because the compiler keeps some of the sums in memory.

use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_storeu_ps,
};

use super::super::memory::Row;
use super::Rows;
use crate::kernels::panels::WIDTH;

/// Vectors of a panel's row.
const VECTORS: usize = WIDTH / 8;
/// Rows at once.
const ROWS: usize = 3;

/// What the rows of one pass over the panel share.
#[derive(Clone, Copy)]
struct Pass {
    x: *const f32,
    /// Elements from one row to the next.
    stride: usize,
    steps: usize,
    panel: *const f32,
    /// What is fetched meanwhile, and how many bytes further at each step.
    next: *const f32,
    fetch: usize,
}

/// See [`super::add`].
///
/// # Safety
/// As many elements of each row as the panel has rows, at least one, lie inside their slice, and the machine has AVX2 and FMA.
pub(super) unsafe fn add(rows: Rows<'_>, panel: &[Row], next: *const f32, out: &mut [[f32; WIDTH]]) {
    let steps = panel.len();
    let passes = out.len().div_ceil(ROWS);
    // Each pass fetches its share: memory is read all the time, and not while one pass runs and the others wait.
    let share = WIDTH * size_of::<f32>() / passes;
    for (index, out) in out.chunks_mut(ROWS).enumerate() {
        let pass = Pass {
            x: rows.x.as_ptr().wrapping_add(index * ROWS * rows.stride),
            stride: rows.stride,
            steps,
            panel: panel.as_ptr().cast(),
            next: next.wrapping_byte_add(index * share * steps),
            fetch: share,
        };
        // SAFETY: the caller's promise; a pass's rows are those of `out`.
        unsafe {
            match out.len() {
                ROWS => three(pass, out),
                2 => few::<2>(pass, out),
                _ => few::<1>(pass, out),
            }
        }
    }
}

/// # Safety
/// As [`add`]; there are as many rows as `out` has, which are `COUNT`.
#[target_feature(enable = "avx2,fma")]
unsafe fn few<const COUNT: usize>(pass: Pass, out: &mut [[f32; WIDTH]]) {
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; COUNT];
    for (sums, out) in sums.iter_mut().zip(&*out) {
        for (vector, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a row has that many vectors.
            *sum = unsafe { _mm256_loadu_ps(out.as_ptr().add(vector * 8)) };
        }
    }
    let (mut panel, mut next) = (pass.panel, pass.next.cast::<i8>());
    for step in 0..pass.steps {
        _mm_prefetch::<_MM_HINT_T0>(next);
        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(64));
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: an element of a row, as the caller promises.
            let factor = _mm256_set1_ps(unsafe { *pass.x.add(row * pass.stride + step) });
            for (vector, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a row of the panel, as the caller promises.
                let b = unsafe { _mm256_loadu_ps(panel.add(vector * 8)) };
                *sum = _mm256_fmadd_ps(factor, b, *sum);
            }
        }
        panel = panel.wrapping_add(WIDTH);
        next = next.wrapping_add(pass.fetch);
    }
    for (sums, out) in sums.iter().zip(out) {
        for (vector, &sum) in sums.iter().enumerate() {
            // SAFETY: a row has that many vectors.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(vector * 8), sum) };
        }
    }
}

/// # Safety
/// As [`few`], of three rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn three(pass: Pass, out: &mut [[f32; WIDTH]]) {
    const { assert!(VECTORS == 4 && ROWS == 3, "the loop is written for twelve sums") };
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
    for (sums, out) in sums.iter_mut().zip(&*out) {
        for (vector, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a row has that many vectors.
            *sum = unsafe { _mm256_loadu_ps(out.as_ptr().add(vector * 8)) };
        }
    }
    let [[s0, s1, s2, s3], [s4, s5, s6, s7], [s8, s9, s10, s11]] = &mut sums;
    // SAFETY: reads one element of each row and 32 of the panel at each of at least one step, which lie inside their slices
    // as the caller promises; a prefetch may name any address.
    unsafe {
        std::arch::asm!(
            "2:",
            "vbroadcastss {f0}, dword ptr [{x}]",
            "vbroadcastss {f1}, dword ptr [{x} + {stride}]",
            "vbroadcastss {f2}, dword ptr [{x} + 2 * {stride}]",
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
            "add {x}, 4",
            "add {panel}, 128",
            "add {next}, {fetch}",
            "dec {steps}",
            "jnz 2b",
            s0 = inout(ymm_reg) *s0, s1 = inout(ymm_reg) *s1, s2 = inout(ymm_reg) *s2,
            s3 = inout(ymm_reg) *s3, s4 = inout(ymm_reg) *s4, s5 = inout(ymm_reg) *s5,
            s6 = inout(ymm_reg) *s6, s7 = inout(ymm_reg) *s7, s8 = inout(ymm_reg) *s8,
            s9 = inout(ymm_reg) *s9, s10 = inout(ymm_reg) *s10, s11 = inout(ymm_reg) *s11,
            x = inout(reg) pass.x => _,
            stride = in(reg) pass.stride * size_of::<f32>(),
            panel = inout(reg) pass.panel => _,
            next = inout(reg) pass.next => _,
            fetch = in(reg) pass.fetch,
            steps = inout(reg) pass.steps => _,
            f0 = out(ymm_reg) _, f1 = out(ymm_reg) _, f2 = out(ymm_reg) _, v = out(ymm_reg) _,
            options(readonly, nostack),
        );
    }
    for (sums, out) in sums.iter().zip(out) {
        for (vector, &sum) in sums.iter().enumerate() {
            // SAFETY: a row has that many vectors.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(vector * 8), sum) };
        }
    }
}
