//! The tiles in AVX2, three rows at a time.

use super::super::avx2::{Pass, ROWS};
use super::{Run, Start, TILE, WIDTH};

/// Stretches of the right side, 16 KiB, that all rows are multiplied with while it is in the first cache.
const GROUP: usize = 4;
/// Elements ahead of which the right side is fetched.
const AHEAD: usize = 8 * WIDTH;

/// `out[i][j] = Σ a[i · WIDTH + k] · b[k][j]`
///
/// # Safety
/// All of these elements lie inside their slices, and the machine has AVX2 and FMA.
pub(super) unsafe fn rows(runs: &[Run<'_>], out: &mut [[f32; WIDTH]; TILE]) {
    out.fill([0.0; WIDTH]);
    for run in runs {
        for first in (0..run.chunks).step_by(GROUP) {
            let stretches = GROUP.min(run.chunks - first);
            let is_last = first + stretches == run.chunks;
            let pass = Pass {
                row: WIDTH,
                step: 1,
                stretch: run.stride,
                stretches,
                last: if is_last { run.last } else { WIDTH },
                ..whole(run, first)
            };
            // SAFETY: the caller's promise: the rows are those of the tile.
            unsafe { add_all(pass, out) };
        }
    }
}

/// `out[i][j] = start + Σ a[k · WIDTH + i] · b[k][j]`, over runs of a single stretch; the rows of `out` are a panel's first columns.
///
/// # Safety
/// As [`rows`].
pub(super) unsafe fn columns(runs: &[Run<'_>], start: Start, out: &mut [[f32; WIDTH]]) {
    if start == Start::Zero {
        out.fill([0.0; WIDTH]);
    }
    for run in runs {
        // SAFETY: the caller's promise: the rows are the panel's columns.
        unsafe { add_all(whole(run, 0), out) };
    }
}

/// A single stretch of a run, read by columns, from stretch `first` on.
fn whole(run: &Run<'_>, first: usize) -> Pass {
    let panel = run.b.as_ptr().wrapping_add(first * WIDTH * WIDTH);
    Pass {
        x: run.a.as_ptr().wrapping_add(first * run.stride),
        row: 1,
        step: WIDTH,
        stretch: 0,
        stretches: 1,
        last: run.last,
        panel,
        next: panel.wrapping_add(AHEAD),
        fetch: WIDTH * size_of::<f32>(),
    }
}

/// # Safety
/// As [`Pass::add`], of all rows of `out`.
unsafe fn add_all(pass: Pass, out: &mut [[f32; WIDTH]]) {
    for (part, out) in out.chunks_mut(ROWS).enumerate() {
        let pass = Pass {
            x: pass.x.wrapping_add(part * ROWS * pass.row),
            ..pass
        };
        // SAFETY: the caller's promise.
        unsafe { pass.add(out) };
    }
}
