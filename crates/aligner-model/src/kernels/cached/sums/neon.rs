//! The loop in NEON.

use super::super::memory::Row;
use super::Rows;
use crate::kernels::panels::WIDTH;
use crate::kernels::panels::neon::Pass;

/// See [`super::add`].
///
/// # Safety
/// As many elements of each row as the panel has rows lie inside their slice, and the machine has NEON.
pub(super) unsafe fn add(rows: Rows<'_>, panel: &[Row], out: &mut [[f32; WIDTH]]) {
    let pass = Pass {
        x: rows.x.as_ptr(),
        row: rows.stride,
        step: 1,
        stretch: 0,
        stretches: 1,
        last: panel.len(),
        panel: panel.as_ptr().cast(),
    };
    // SAFETY: the caller's promise.
    unsafe { pass.add(out) };
}
