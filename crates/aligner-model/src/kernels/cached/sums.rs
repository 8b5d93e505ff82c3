//! A few or many rows times a panel of 32 columns: the innermost loop of everything here.
//!
//! Every sum starts from what is there and takes its terms in order, fused multiply-adds one after the other, as the tiles of
//! `panels` do: it does not depend on how many rows are computed at once, nor on where they are cut.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::memory::Row;
use crate::kernels::math::vectorized;
use crate::kernels::panels::WIDTH;

/// Rows that lie in a slice, `stride` elements apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub x: &'a [f32],
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// The rows from element `first` of each on.
    pub fn starting_at(self, first: usize) -> Self {
        Self {
            x: &self.x[first..],
            ..self
        }
    }
}

/// Steps of a panel that all rows are multiplied with while it is in the first cache: 8 KiB of it, and the next is fetched
/// meanwhile.
const STRETCH: usize = 64;
/// The same where there are so many rows that memory is not waited for.
const LONG_STRETCH: usize = 128;
/// Rows from which a stretch is a long one.
const MANY_ROWS: usize = 24;
/// Steps ahead of which the panel is fetched from memory: 16 KiB.
const AHEAD: usize = 128;

/// `out[r][j] = Σ_k rows[r][k] · panel[k][j]`, for a panel that is read from memory.
///
/// # Panics
/// When the rows have fewer steps than the panel.
pub(super) fn product(rows: Rows<'_>, panel: &[Row], out: &mut [[f32; WIDTH]]) {
    out.fill([0.0; WIDTH]);
    let stretch = if out.len() < MANY_ROWS {
        STRETCH
    } else {
        LONG_STRETCH
    };
    for (index, part) in panel.chunks(stretch).enumerate() {
        let ahead = part.as_ptr().wrapping_add(AHEAD).cast();
        add(rows.starting_at(index * stretch), part, ahead, out);
    }
}

/// `out[r][j] += Σ_k rows[r][k] · panel[k][j]`; meanwhile AVX2 fetches as much memory at `next` as the panel has.
///
/// # Panics
/// When the rows have fewer steps than the panel.
pub(super) fn add(rows: Rows<'_>, panel: &[Row], next: *const f32, out: &mut [[f32; WIDTH]]) {
    let steps = panel.len();
    if out.is_empty() || steps == 0 {
        return;
    }
    let reach = (out.len() - 1) * rows.stride + steps;
    assert!(reach <= rows.x.len(), "rows shorter than their panel");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: all elements of the rows and the panel lie inside their slices, as was just checked, and the instructions
        // are there.
        unsafe { avx2::add(rows, panel, next, out) };
        return;
    }
    let _ = next;
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: as above.
        unsafe { neon::add(rows, panel, out) };
        return;
    }
    plain(rows, panel, out);
}

/// The loop for the compiler to vectorise.
fn plain(rows: Rows<'_>, panel: &[Row], out: &mut [[f32; WIDTH]]) {
    vectorized!((rows: Rows<'a>, panel: &'a [Row], out: &'a mut [[f32; WIDTH]]) -> () {
        for (row, sums) in out.iter_mut().enumerate() {
            let x = &rows.x[row * rows.stride..][..panel.len()];
            let mut kept = *sums;
            for (&x, Row(panel)) in x.iter().zip(panel) {
                for (sum, &b) in kept.iter_mut().zip(panel) {
                    *sum = x.mul_add(b, *sum);
                }
            }
            *sums = kept;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 7919 + seed) % 1009) as f32 / 173.0 - 2.9)
            .collect()
    }

    /// One fused multiply-add after the other, from the first step on.
    fn defined(x: &[f32], panel: &[Row], column: usize) -> f32 {
        let terms = x.iter().zip(panel);
        terms.fold(0.0, |sum, (&x, Row(b))| x.mul_add(b[column], sum))
    }

    #[test]
    fn sums_are_those_of_one_term_after_the_other_to_the_last_bit() {
        for steps in [1usize, 5, 63, 64, 65, 128, 300] {
            let values = numbers(steps * WIDTH, 1);
            let panel: Vec<Row> = values.as_chunks().0.iter().copied().map(Row).collect();
            for count in (1..10).chain([23, 24, 25, 100]) {
                let stride = steps + 3;
                let x = numbers(count * stride, count);
                let mut out = vec![[f32::NAN; WIDTH]; count];
                product(Rows { x: &x, stride }, &panel, &mut out);
                for (row, sums) in out.iter().enumerate() {
                    for (column, &sum) in sums.iter().enumerate() {
                        let expected = defined(&x[row * stride..][..steps], &panel, column);
                        assert_eq!(
                            sum.to_bits(),
                            expected.to_bits(),
                            "{steps} {count} {row} {column}"
                        );
                    }
                }
                let mut again = vec![[0.0; WIDTH]; count];
                plain(Rows { x: &x, stride }, &panel, &mut again);
                assert_eq!(again, out, "{steps} {count}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "shorter than their panel")]
    fn rows_that_are_too_short_are_caught() {
        let rows = Rows {
            x: &[1.0; 9],
            stride: 5,
        };
        product(rows, &[Row([1.0; WIDTH]); 5], &mut [[0.0; WIDTH]; 2]);
    }
}
