//! The tiles in NEON.

use super::super::neon::Pass;
use super::{Run, Start, TILE, WIDTH};

/// Stretches of the right side, 16 KiB, that all rows are multiplied with while it is in the first cache.
const GROUP: usize = 4;

/// `out[i][j] = Σ a[i · WIDTH + k] · b[k][j]`
///
/// # Safety
/// All of these elements lie inside their slices, and the machine has NEON.
pub(super) unsafe fn rows(runs: &[Run<'_>], out: &mut [[f32; WIDTH]; TILE]) {
    out.fill([0.0; WIDTH]);
    for run in runs {
        for first in (0..run.chunks).step_by(GROUP) {
            let stretches = GROUP.min(run.chunks - first);
            let is_last = first + stretches == run.chunks;
            let pass = Pass {
                x: run.a.as_ptr().wrapping_add(first * run.stride),
                row: WIDTH,
                step: 1,
                stretch: run.stride,
                stretches,
                last: if is_last { run.last } else { WIDTH },
                panel: run.b.as_ptr().wrapping_add(first * WIDTH * WIDTH),
            };
            // SAFETY: the caller's promise: the rows are those of the tile.
            unsafe { pass.add(out) };
        }
    }
}

/// `out[i][j] = start + Σ a[k · WIDTH + i] · b[k][j]`, over runs of a single stretch.
///
/// # Safety
/// As [`rows`].
pub(super) unsafe fn columns(runs: &[Run<'_>], start: Start, out: &mut [[f32; WIDTH]; WIDTH]) {
    if start == Start::Zero {
        out.fill([0.0; WIDTH]);
    }
    for run in runs {
        let pass = Pass {
            x: run.a.as_ptr(),
            row: 1,
            step: WIDTH,
            stretch: 0,
            stretches: 1,
            last: run.last,
            panel: run.b.as_ptr(),
        };
        // SAFETY: the caller's promise: the rows are the panel's columns.
        unsafe { pass.add(out) };
    }
}
