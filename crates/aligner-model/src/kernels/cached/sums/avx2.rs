//! The loop in AVX2, three rows at a time.

use super::Rows;
use crate::kernels::panels::WIDTH;
use crate::kernels::panels::avx2::{Element, Pass, ROWS};

/// See [`super::add`]; `steps` rows of the panel, and what is to be fetched.
///
/// # Safety
/// As many elements of each row as the panel has rows lie inside their slice, and the machine has the instructions.
pub(super) unsafe fn add<T: Element>(
    rows: Rows<'_>,
    panel: *const T,
    (steps, next): (usize, *const T),
    out: &mut [[f32; WIDTH]],
) {
    let passes = out.len().div_ceil(ROWS);
    // Each pass fetches its share: memory is read all the time, and not while one pass runs and the others wait.
    let share = WIDTH * size_of::<T>() / passes.max(1);
    for (index, out) in out.chunks_mut(ROWS).enumerate() {
        let pass = Pass {
            x: rows.x.as_ptr().wrapping_add(index * ROWS * rows.stride),
            row: rows.stride,
            step: 1,
            stretch: 0,
            stretches: 1,
            last: steps,
            panel,
            next: next.wrapping_byte_add(index * share * steps),
            fetch: share,
        };
        // SAFETY: the caller's promise; a pass's rows are those of `out`.
        unsafe { pass.add(out) };
    }
}
