//! The loop in AVX2, three rows at a time.

use super::super::memory::Row;
use super::Rows;
use crate::kernels::panels::WIDTH;
use crate::kernels::panels::avx2::{Pass, ROWS};

/// See [`super::add`].
///
/// # Safety
/// As many elements of each row as the panel has rows lie inside their slice, and the machine has AVX2 and FMA.
pub(super) unsafe fn add(rows: Rows<'_>, panel: &[Row], next: *const f32, out: &mut [[f32; WIDTH]]) {
    let steps = panel.len();
    let passes = out.len().div_ceil(ROWS);
    // Each pass fetches its share: memory is read all the time, and not while one pass runs and the others wait.
    let share = WIDTH * size_of::<f32>() / passes.max(1);
    for (index, out) in out.chunks_mut(ROWS).enumerate() {
        let pass = Pass {
            x: rows.x.as_ptr().wrapping_add(index * ROWS * rows.stride),
            row: rows.stride,
            step: 1,
            stretch: 0,
            stretches: 1,
            last: steps,
            panel: panel.as_ptr().cast(),
            next: next.wrapping_byte_add(index * share * steps),
            fetch: share,
        };
        // SAFETY: the caller's promise; a pass's rows are those of `out`.
        unsafe { pass.add(out) };
    }
}
