//! Matrix products over slices, for kernels that hold their own memory: small ones on the calling thread, large ones on all.

use gemm::{Parallelism, gemm};

/// A matrix inside a slice: element `(i, j)` is `data[i · row_stride + j · column_stride]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` elements, `row_stride` apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Elements a matrix reaches over: the index of its last one, and one more.
fn extent(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        return 0;
    }
    (rows - 1) * row_stride + (columns - 1) * column_stride + 1
}

/// `out = a · b`, or `out += a · b`; `out` has rows `row_stride` apart. Runs on the calling thread.
///
/// # Panics
/// When shapes do not fit together or reach beyond their slices.
pub(super) fn matmul(out: &mut [f32], row_stride: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert!(b.columns <= row_stride, "the rows of the output overlap");
    assert!(extent(a.rows, b.columns, row_stride, 1) <= out.len(), "output");
    // SAFETY: the output's extent was just checked.
    unsafe { matmul_into(out.as_mut_ptr(), row_stride, a, b, accumulate) };
}

/// What a large product does with what is in the output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Update {
    /// `out = a · b`
    Set,
    /// `out += scale · a · b`
    Add(f32),
}

/// `a · b` on all threads, into an output without gaps between its rows.
///
/// # Panics
/// When shapes do not fit together or reach beyond their slices.
pub(super) fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, update: Update) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert!(a.rows * b.columns <= out.len(), "output");
    // SAFETY: the output's extent was just checked, and it is borrowed for writing.
    unsafe { multiply(out.as_mut_ptr(), b.columns, a, b, update, threads(a, b)) };
}

/// Handing a product over to other threads costs as much as computing a small one.
fn threads(a: Matrix<'_>, b: Matrix<'_>) -> Parallelism {
    if a.rows * a.columns * b.columns < 1 << 20 {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    }
}

/// [`matmul`] into memory of which other threads write other columns.
///
/// # Safety
/// `out` is valid for writing `b.columns` elements, and for reading them when accumulating, at each of `a.rows` offsets
/// `row_stride` apart, and nobody else touches those elements meanwhile.
pub(super) unsafe fn matmul_into(
    out: *mut f32,
    row_stride: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    accumulate: bool,
) {
    let update = if accumulate { Update::Add(1.0) } else { Update::Set };
    // SAFETY: the caller's promise is the same.
    unsafe { multiply(out, row_stride, a, b, update, Parallelism::None) };
}

/// # Safety
/// As [`matmul_into`].
unsafe fn multiply(
    out: *mut f32,
    row_stride: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    update: Update,
    threads: Parallelism,
) {
    for matrix in [a, b] {
        let reach = extent(
            matrix.rows,
            matrix.columns,
            matrix.row_stride,
            matrix.column_stride,
        );
        assert!(reach <= matrix.data.len(), "a matrix reaches beyond its slice");
    }
    let stride = |stride: usize| stride as isize;
    let (accumulate, scale) = match update {
        Update::Set => (false, 1.0),
        Update::Add(scale) => (true, scale),
    };
    // SAFETY: both inputs lie inside their slices as checked above; the caller vouches for the output.
    unsafe {
        gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            stride(row_stride),
            accumulate,
            a.data.as_ptr(),
            stride(a.column_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.column_stride),
            stride(b.row_stride),
            1.0,
            scale,
            false,
            false,
            false,
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_transposes_and_sums() {
        // [[1, 2], [4, 5], [7, 8]], the first two columns of three.
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        let a = Matrix::new(&a, 3, 2, 3);
        let mut out = [1.0; 9];
        matmul(&mut out, 3, a.transposed(), a, false);
        assert_eq!(out, [66.0, 78.0, 1.0, 78.0, 93.0, 1.0, 1.0, 1.0, 1.0]);
        matmul(&mut out, 3, a.transposed(), a, true);
        assert_eq!(out[..2], [132.0, 156.0]);
    }

    #[test]
    #[should_panic(expected = "reaches beyond")]
    fn a_matrix_outside_its_slice_is_caught() {
        let a = Matrix::new(&[1.0; 5], 3, 2, 2);
        matmul(&mut [0.0; 9], 3, a, a.transposed(), false);
    }
}
