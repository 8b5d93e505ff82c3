//! Rows times a weight that lies output by output: every element is a dot product of two runs of memory.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::sums::Rows;
use crate::kernels::math::vectorized;

/// Sums of a dot product that run side by side.
const LANES: usize = 16;
/// Rows that are multiplied with a weight's output while it is in registers.
const AT_ONCE: usize = 4;
/// How far ahead the weight is fetched from memory, in elements.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// The dot product of each of `count` rows with `weight`; `write` is given the row's number.
///
/// Sixteen sums of every sixteenth product each, which are added pairwise: the order depends on the length alone.
///
/// # Panics
/// When the rows are shorter than `weight`.
pub(super) fn dots(rows: Rows<'_>, count: usize, weight: &[f32], mut write: impl FnMut(usize, f32)) {
    let row = |index: usize| &rows.x[index * rows.stride..][..weight.len()];
    let mut first = 0;
    while first + AT_ONCE <= count {
        let sums = some([0, 1, 2, 3].map(|index| row(first + index)), weight);
        sums.iter()
            .enumerate()
            .for_each(|(index, &sum)| write(first + index, sum));
        first += AT_ONCE;
    }
    for index in first..count {
        let [sum] = some([row(index)], weight);
        write(index, sum);
    }
}

fn some<const ROWS: usize>(rows: [&[f32]; ROWS], weight: &[f32]) -> [f32; ROWS] {
    let mut lanes = lanes(rows, weight);
    let (_, rest) = weight.as_chunks::<LANES>();
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        let row = &row[weight.len() - rest.len()..];
        for (lane, (a, b)) in lanes.iter_mut().zip(row.iter().zip(rest)) {
            *lane = a.mul_add(*b, *lane);
        }
    }
    lanes.map(total)
}

/// The sums of the products of each row with `weight`, but for the last ones that are fewer than the lanes.
fn lanes<const ROWS: usize>(rows: [&[f32]; ROWS], weight: &[f32]) -> [[f32; LANES]; ROWS] {
    for row in rows {
        assert_eq!(row.len(), weight.len(), "rows as long as the weight");
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the instructions are there, and the lengths were just checked.
        return unsafe { avx2::lanes(rows, weight) };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: as above.
        return unsafe { neon::lanes(rows, weight) };
    }
    plain(rows, weight)
}

/// The loop for the compiler to vectorise.
fn plain<const ROWS: usize>(rows: [&[f32]; ROWS], weight: &[f32]) -> [[f32; LANES]; ROWS] {
    rows.map(|row| {
        let mut lanes = [0.0f32; LANES];
        for (a, b) in row
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(weight.as_chunks::<LANES>().0)
        {
            for lane in 0..LANES {
                lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
            }
        }
        lanes
    })
}

#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Elements of several rows times a matrix of `columns` columns, of which some lie side by side: `out[r] += rows[r] · matrix`.
///
/// Every sum takes its terms in order, as those of [`super::sums`] do.
///
/// # Shapes
/// - `matrix`: from the first of its columns on, rows `columns` apart
/// - `out`: `[count, width]`
///
/// # Panics
/// When the rows have fewer than `steps` elements, or the matrix fewer rows.
pub(super) fn strided(
    rows: Rows<'_>,
    steps: usize,
    (matrix, columns): (&[f32], usize),
    (out, width): (&mut [f32], usize),
) {
    vectorized!((
        rows: Rows<'a>, steps: usize, matrix: &'a [f32], columns: usize, out: &'a mut [f32], width: usize
    ) -> () {
        const AT_ONCE: usize = 8;
        let line = |step: usize| &matrix[step * columns..][..width];
        let mut step = 0;
        while step + AT_ONCE <= steps {
            let lines: [&[f32]; AT_ONCE] = std::array::from_fn(|index| line(step + index));
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let x: [f32; AT_ONCE] = std::array::from_fn(|index| rows.x[row * rows.stride + step + index]);
                for (j, out) in out.iter_mut().enumerate() {
                    let mut sum = *out;
                    for (x, line) in x.iter().zip(&lines) {
                        sum = x.mul_add(line[j], sum);
                    }
                    *out = sum;
                }
            }
            step += AT_ONCE;
        }
        for step in step..steps {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let x = rows.x[row * rows.stride + step];
                for (out, b) in out.iter_mut().zip(line(step)) {
                    *out = x.mul_add(*b, *out);
                }
            }
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

    #[test]
    fn a_dot_product_does_not_depend_on_the_rows_beside_it() {
        for len in [1usize, 15, 16, 17, 100, 576] {
            let (x, weight) = (numbers(9 * len, 1), numbers(len, 2));
            let rows = |first: usize| Rows {
                x: &x[first * len..],
                stride: len,
            };
            let mut together = [0.0f32; 9];
            dots(rows(0), 9, &weight, |row, sum| together[row] = sum);
            for (row, together) in together.iter().enumerate() {
                let mut alone = 0.0f32;
                dots(rows(row), 1, &weight, |_, sum| alone = sum);
                assert_eq!(alone.to_bits(), together.to_bits(), "{len} {row}");
                let row_alone = [&x[row * len..][..len]];
                assert_eq!(
                    plain(row_alone, &weight),
                    lanes(row_alone, &weight),
                    "{len} {row}"
                );
                let terms = x[row * len..][..len].iter().zip(&weight);
                let exact: f64 = terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((f64::from(alone) - exact).abs() < 1e-3, "{len} {row}");
            }
        }
    }

    #[test]
    fn columns_of_a_matrix_are_summed_in_order() {
        let (steps, columns) = (21, 50);
        let (x, matrix) = (numbers(3 * steps, 1), numbers(steps * columns, 2));
        for (first, width) in [(0, 50), (7, 32), (49, 1)] {
            let mut out = vec![0.0f32; 3 * width];
            let rows = Rows { x: &x, stride: steps };
            strided(rows, steps, (&matrix[first..], columns), (&mut out, width));
            for (at, sum) in out.iter().enumerate() {
                let (row, column) = (at / width, first + at % width);
                let terms = (0..steps).map(|step| (x[row * steps + step], matrix[step * columns + column]));
                let expected = terms.fold(0.0f32, |sum, (x, b)| x.mul_add(b, sum));
                assert_eq!(sum.to_bits(), expected.to_bits());
            }
        }
    }
}
