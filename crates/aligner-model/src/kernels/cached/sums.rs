//! A few or many rows times a panel of 32 columns: the innermost loop of everything here.
//!
//! Every sum starts from what is there and takes its terms in order, fused multiply-adds one after the other, as the tiles of
//! `panels` do: it does not depend on how many rows are computed at once, nor on where they are cut.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
use half::f16;

use super::memory::{HalfRow, Row};
use crate::kernels::math::vectorized;
use crate::kernels::panels::WIDTH;
#[cfg(target_arch = "x86_64")]
use crate::kernels::panels::avx2::is_here;

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
        let ahead = part.as_ptr().wrapping_add(AHEAD);
        add(rows.starting_at(index * stretch), part, ahead, out);
    }
}

/// `out[r][j] += Σ_k rows[r][k] · panel[k][j]`; meanwhile AVX2 fetches as much memory at `next` as the panel has.
///
/// # Panics
/// When the rows have fewer steps than the panel.
pub(super) fn add(rows: Rows<'_>, panel: &[Row], next: *const Row, out: &mut [[f32; WIDTH]]) {
    let steps = panel.len();
    if !check(rows, steps, out.len()) {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if is_here() {
        // SAFETY: all elements of the rows and the panel lie inside their slices, as was just checked, and the instructions
        // are there.
        unsafe { avx2::add(rows, panel.as_ptr().cast::<f32>(), (steps, next.cast()), out) };
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

/// [`add`] of a panel of halves: the same sums over what they stand for.
///
/// # Panics
/// As [`add`].
pub(super) fn add_halves(rows: Rows<'_>, panel: &[HalfRow], next: *const HalfRow, out: &mut [[f32; WIDTH]]) {
    let steps = panel.len();
    if !check(rows, steps, out.len()) {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if is_here() {
        // SAFETY: as in `add`.
        unsafe { avx2::add(rows, panel.as_ptr().cast::<f16>(), (steps, next.cast()), out) };
        return;
    }
    let _ = next;
    let mut floats = [Row([0.0; WIDTH]); WIDTH];
    for (index, part) in panel.chunks(WIDTH).enumerate() {
        for (row, halves) in floats.iter_mut().zip(part) {
            halves.read(&mut row.0);
        }
        add(
            rows.starting_at(index * WIDTH),
            &floats[..part.len()],
            std::ptr::null(),
            out,
        );
    }
}

/// Whether there is something to add.
///
/// # Panics
/// When the rows have fewer steps than the panel.
fn check(rows: Rows<'_>, steps: usize, count: usize) -> bool {
    if count == 0 || steps == 0 {
        return false;
    }
    let reach = (count - 1) * rows.stride + steps;
    assert!(reach <= rows.x.len(), "rows shorter than their panel");
    true
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
    fn sums_over_halves_are_those_over_what_they_stand_for_to_the_last_bit() {
        for steps in [1usize, 31, 32, 33, 64, 200] {
            let mut halves = vec![HalfRow::ZERO; steps];
            let mut panel = vec![Row([0.0; WIDTH]); steps];
            for (index, (half, row)) in halves.iter_mut().zip(&mut panel).enumerate() {
                half.write(&numbers(WIDTH, index));
                half.read(&mut row.0);
            }
            for count in [1usize, 2, 3, 4, 7, 48] {
                let stride = steps + 5;
                let x = numbers(count * stride, count);
                let rows = Rows { x: &x, stride };
                let mut expected = vec![[0.5; WIDTH]; count];
                let mut got = expected.clone();
                add(rows, &panel, panel.as_ptr(), &mut expected);
                add_halves(rows, &halves, halves.as_ptr(), &mut got);
                assert_eq!(
                    got.as_flattened().iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                    expected
                        .as_flattened()
                        .iter()
                        .map(|x| x.to_bits())
                        .collect::<Vec<_>>(),
                    "{steps} {count}"
                );
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
