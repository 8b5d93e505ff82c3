//! Weights as the right side of a product.

use std::ops::Range;

use rayon::prelude::*;

use super::super::buffers::Buffer;
use super::super::matrix::Matrix;
use super::{Form, WIDTH};

/// Rows that are transposed at a time: their columns stay in the first cache.
const ROWS: usize = 16;

/// Rows that become words of another form at a time.
const CONVERTED: usize = 4 * ROWS;

/// A matrix of `[rows, columns]` as `[panels][words][WIDTH]`, the words of a form being what its rows are; columns are filled up
/// with zeros.
#[derive(Debug)]
pub(in super::super) struct Packed {
    memory: Buffer,
    form: Form,
    words: usize,
    columns: usize,
}

impl Packed {
    /// `scale · matrix`
    ///
    /// # Panics
    /// When the matrix reaches beyond its slice.
    pub fn new(form: Form, matrix: Matrix<'_>, scale: f32) -> Self {
        Self::scaled(form, matrix.rows, matrix.columns, scale, |put| {
            put(0..matrix.rows, matrix)
        })
    }

    /// A matrix that comes in parts of some of its rows, which `each` hands over one by one and in order; all of them but the
    /// last have an even number.
    ///
    /// # Panics
    /// When a part is no part of such a matrix.
    pub fn from_parts(
        form: Form,
        rows: usize,
        columns: usize,
        each: impl FnOnce(&mut dyn FnMut(Range<usize>, Matrix<'_>)),
    ) -> Self {
        Self::scaled(form, rows, columns, 1.0, each)
    }

    fn scaled(
        form: Form,
        rows: usize,
        columns: usize,
        scale: f32,
        each: impl FnOnce(&mut dyn FnMut(Range<usize>, Matrix<'_>)),
    ) -> Self {
        let words = form.words(rows);
        let mut memory = Buffer::take(words * columns.next_multiple_of(WIDTH));
        each(&mut |range, part| {
            assert_eq!(
                (part.rows, part.columns, range.start % 2),
                (range.len(), columns, 0),
                "a part of a matrix"
            );
            memory
                .par_chunks_mut((words * WIDTH).max(1))
                .enumerate()
                .for_each(|(panel, out)| {
                    let range = form.words(range.start)..form.words(range.end);
                    let out = &mut out[range.start * WIDTH..range.end * WIDTH];
                    pack_words(form, part, panel * WIDTH, scale, out);
                });
        });
        Self {
            memory,
            form,
            words,
            columns,
        }
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Words of a panel.
    pub fn words(&self) -> usize {
        self.words
    }

    pub fn panels(&self) -> usize {
        self.columns.div_ceil(WIDTH)
    }

    /// Columns of a panel that are no padding.
    pub fn columns_of(&self, panel: usize) -> usize {
        WIDTH.min(self.columns - panel * WIDTH)
    }

    /// `[words][WIDTH]`
    pub fn panel(&self, index: usize) -> &[f32] {
        &self.memory[index * self.words * WIDTH..][..self.words * WIDTH]
    }
}

/// [`pack_panel`], scaled and in words of a form.
fn pack_words(form: Form, matrix: Matrix<'_>, first: usize, scale: f32, out: &mut [f32]) {
    let scaled = |values: &mut [f32]| {
        if scale != 1.0 {
            values.iter_mut().for_each(|value| *value *= scale);
        }
    };
    if form == Form::F32 {
        pack_panel(matrix, first, out);
        return scaled(out);
    }
    let mut rows = [0.0; CONVERTED * WIDTH];
    for (index, out) in out.chunks_mut(form.words(CONVERTED) * WIDTH).enumerate() {
        let start = index * CONVERTED;
        let part = Matrix {
            data: &matrix.data[start * matrix.row_stride..],
            rows: CONVERTED.min(matrix.rows - start),
            ..matrix
        };
        let rows = &mut rows[..part.rows * WIDTH];
        pack_panel(part, first, rows);
        scaled(rows);
        form.write_rows(rows, out);
    }
}

/// The columns of a matrix from `first` on as a panel, `[rows][WIDTH]`, filled up with zeros.
///
/// # Panics
/// When the matrix reaches beyond its slice, or has no such column.
pub(in super::super) fn pack_panel(matrix: Matrix<'_>, first: usize, out: &mut [f32]) {
    let width = WIDTH.min(matrix.columns - first);
    if width < WIDTH {
        out.fill(0.0);
    }
    if matrix.column_stride == 1 {
        for (row, out) in out.chunks_exact_mut(WIDTH).enumerate() {
            let at = row * matrix.row_stride + first;
            let row = &matrix.data[at..at + width];
            match (
                <&mut [f32; WIDTH]>::try_from(&mut *out),
                <&[f32; WIDTH]>::try_from(row),
            ) {
                (Ok(out), Ok(row)) => *out = *row,
                _ => out[..width].copy_from_slice(row),
            }
        }
        return;
    }
    for (index, out) in out.chunks_mut(ROWS * WIDTH).enumerate() {
        let at = index * ROWS + first * matrix.column_stride;
        if matrix.row_stride == 1 && width == WIDTH && out.len() == ROWS * WIDTH {
            turn(&matrix.data[at..], matrix.column_stride, out);
            continue;
        }
        for column in 0..width {
            let at = index * ROWS * matrix.row_stride + (first + column) * matrix.column_stride;
            for (row, out) in out[column..].iter_mut().step_by(WIDTH).enumerate() {
                *out = matrix.data[at + row * matrix.row_stride];
            }
        }
    }
}

/// Puts `WIDTH` runs of [`ROWS`] numbers, a step apart, side by side.
fn turn(runs: &[f32], step: usize, out: &mut [f32]) {
    /// So many runs at a time that the registers hold a row of them.
    const AT_ONCE: usize = 8;
    for first in (0..WIDTH).step_by(AT_ONCE) {
        let runs: [&[f32]; AT_ONCE] = std::array::from_fn(|run| &runs[(first + run) * step..][..ROWS]);
        let (rows, _) = out.as_chunks_mut::<WIDTH>();
        for (row, out) in rows.iter_mut().take(ROWS).enumerate() {
            let values: [f32; AT_ONCE] = std::array::from_fn(|run| runs[run][row]);
            out[first..first + AT_ONCE].copy_from_slice(&values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_and_its_transpose_lie_in_panels() {
        let (rows, columns) = (37, 45);
        let values: Vec<f32> = (0..rows * columns).map(|value| value as f32).collect();
        let matrix = Matrix::new(&values, rows, columns, columns);
        for (matrix, transposed) in [(matrix, false), (matrix.transposed(), true)] {
            let packed = Packed::new(Form::F32, matrix, 2.0);
            assert_eq!(packed.panels(), matrix.columns.div_ceil(WIDTH));
            for row in 0..matrix.rows {
                for column in 0..packed.panels() * WIDTH {
                    let got = packed.panel(column / WIDTH)[row * WIDTH + column % WIDTH];
                    let at = if transposed {
                        column * columns + row
                    } else {
                        row * columns + column
                    };
                    let expected = if column < matrix.columns {
                        2.0 * values[at]
                    } else {
                        0.0
                    };
                    assert_eq!(got, expected, "{row} {column} {transposed}");
                }
            }
        }
    }
}
