//! Products of panels.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::layout::{Block, Panels};
use super::packed::Packed;
use super::tile::{Isa, Run, Start, column_tile, row_tile};
use super::{Form, TILE, Tile, WIDTH};

/// Panels of the left side that are multiplied with all of the right side before the next ones are.
const GROUP: usize = 2;

/// A block times weights, in words of the same form: one of the products whose sum is computed.
#[derive(Clone, Copy)]
pub(in super::super) struct Term<'a> {
    pub block: Block<'a>,
    pub weights: &'a Packed,
}

/// One panel of `Σ block · weights`; `write` is given the first row of each tile and its rows, in which columns behind the
/// weights' last may be anything finite.
///
/// # Panics
/// When blocks and weights do not fit together.
pub(in super::super) fn multiply(
    terms: &[Term<'_>],
    panel: usize,
    mut write: impl FnMut(usize, &mut [[f32; WIDTH]]),
) {
    let (rows, form) = terms
        .first()
        .map_or((0, Form::F32), |term| (term.block.rows(), term.weights.form()));
    let columns = terms.first().map_or(0, |term| term.weights.columns_of(panel));
    for term in terms {
        assert_eq!(term.block.columns(), term.weights.words(), "inner dimensions");
        assert_eq!((term.block.rows(), term.weights.form()), (rows, form), "rows");
        assert_eq!(term.weights.columns_of(panel), columns, "columns");
    }
    let isa = form.isa();
    let mut tile: Tile = [[0.0; WIDTH]; TILE];
    let mut runs = Vec::with_capacity(terms.len());
    for row in (0..rows).step_by(TILE) {
        runs.clear();
        runs.extend(terms.iter().map(|term| Run {
            a: term.block.starting_at_row(row),
            stride: term.block.stride(),
            b: term.weights.panel(panel),
            chunks: term.block.panels(),
            last: term.block.columns() - (term.block.panels() - 1) * WIDTH,
        }));
        row_tile(isa, &runs, &mut tile, columns);
        write(row, &mut tile[..TILE.min(rows - row)]);
    }
}

/// All panels of `Σ block · weights`, as a block.
pub(in super::super) fn multiply_into(terms: &[Term<'_>], out: &mut [f32]) {
    let (rows, panels) = terms
        .first()
        .map_or((0, 0), |term| (term.block.rows(), term.weights.panels()));
    let stride = (rows * WIDTH).max(1);
    for (panel, out) in out.chunks_exact_mut(stride).take(panels).enumerate() {
        multiply(terms, panel, |row, tile| store_panel(out, row, tile));
    }
}

/// Puts rows of a tile into a panel of a block.
pub(in super::super) fn store_panel(panel: &mut [f32], row: usize, tile: &[[f32; WIDTH]]) {
    panel[row * WIDTH..][..tile.len() * WIDTH].copy_from_slice(tile.as_flattened());
}

/// Puts rows of a tile into rows of `columns` elements; with `add`, adds them.
pub(in super::super) fn store_rows(
    rows: &mut [f32],
    columns: usize,
    (row, panel): (usize, usize),
    tile: &[[f32; WIDTH]],
    add: bool,
) {
    let first = panel * WIDTH;
    let width = WIDTH.min(columns - first);
    for (index, tile) in tile.iter().enumerate() {
        let out = &mut rows[(row + index) * columns + first..][..width];
        // A whole row of known length needs no call of a function that copies.
        match (<&mut [f32; WIDTH]>::try_from(&mut *out), add) {
            (Ok(out), true) => out.iter_mut().zip(tile).for_each(|(out, tile)| *out += tile),
            (Ok(out), false) => *out = *tile,
            (Err(_), true) => out.iter_mut().zip(tile).for_each(|(out, tile)| *out += tile),
            (Err(_), false) => out.copy_from_slice(&tile[..width]),
        }
    }
}

/// Adds a row of a panel's columns to every row of a tile.
pub(in super::super) fn add_columns(tile: &mut [[f32; WIDTH]], panel: usize, values: &[f32]) {
    let values = &values[panel * WIDTH..];
    for row in tile {
        row.iter_mut().zip(values).for_each(|(out, value)| *out += value);
    }
}

/// `left ᵀ · right`: the gradient of the weights between them, summed over all rows.
///
/// # Shapes
/// - `left`: `[rows, m]`, `right`: `[rows, n]`
/// - output: `[m, n]`
pub(in super::super) fn transposed_product(form: Form, left: &Panels, right: &Panels) -> Vec<f32> {
    let (words_left, words_right) = (left.over_rows(form), right.over_rows(form));
    let (left, right) = (
        words_left.as_ref().unwrap_or(left),
        words_right.as_ref().unwrap_or(right),
    );
    let (rows, columns) = (left.columns(), right.columns());
    let mut out = Vec::with_capacity(rows * columns);
    let all = &mut out.spare_capacity_mut()[..rows * columns];
    if columns <= WIDTH {
        all.par_chunks_mut((WIDTH * columns).max(1))
            .enumerate()
            .for_each(|(panel, out)| thin_product(form.isa(), (left, right), panel, out));
        // SAFETY: the chunks above are all of these elements, and `thin_product` writes all of each.
        unsafe { out.set_len(rows * columns) };
        return out;
    }
    all.par_chunks_mut((GROUP * WIDTH * columns).max(1))
        .enumerate()
        .for_each(|(group, out)| group_product(form.isa(), (left, right), group * GROUP, out));
    // SAFETY: the chunks above are all of these elements, and `group_product` writes all of each.
    unsafe { out.set_len(rows * columns) };
    out
}

/// The rows of the output that belong to a panel of the left side, where the right one is no wider than a panel: with the sides
/// exchanged, sums of columns that are not there are left out, and the wide side is read in one stream.
fn thin_product(isa: Isa, (left, right): (&Panels, &Panels), panel: usize, out: &mut [MaybeUninit<f32>]) {
    let columns = right.columns();
    let mut sums = [[0.0; WIDTH]; WIDTH];
    let runs: Vec<_> = (0..left.grid().blocks())
        .map(|block| {
            let (a, b) = (right.block(block), left.block(block));
            Run::single(a.panel(0), b.panel(panel), a.rows())
        })
        .collect();
    column_tile(isa, &runs, Start::Zero, &mut sums, columns);
    for (at, out) in out.iter_mut().enumerate() {
        out.write(sums[at % columns][at / columns]);
    }
}

/// The rows of the output that belong to [`GROUP`] panels of the left side.
fn group_product(isa: Isa, (left, right): (&Panels, &Panels), first: usize, out: &mut [MaybeUninit<f32>]) {
    let columns = right.columns();
    let mut sums = [[0.0; WIDTH]; WIDTH];
    let mut runs = Vec::with_capacity(left.grid().blocks());
    for panel in 0..columns.div_ceil(WIDTH) {
        let width = WIDTH.min(columns - panel * WIDTH);
        for (index, out) in out.chunks_mut(WIDTH * columns).enumerate() {
            runs.clear();
            runs.extend((0..left.grid().blocks()).map(|block| {
                let (a, b) = (left.block(block), right.block(block));
                Run::single(a.panel(first + index), b.panel(panel), a.rows())
            }));
            column_tile(isa, &runs, Start::Zero, &mut sums, WIDTH);
            for (out, sums) in out.chunks_mut(columns).zip(&sums) {
                let out = &mut out[panel * WIDTH..][..width];
                match <&mut [MaybeUninit<f32>; WIDTH]>::try_from(&mut *out) {
                    Ok(out) => _ = out.write_copy_of_slice(sums),
                    Err(_) => _ = out.write_copy_of_slice(&sums[..width]),
                }
            }
        }
    }
}

/// Sums of the columns: the gradient of a bias.
pub(in super::super) fn column_sums(panels: &Panels) -> Vec<f32> {
    let columns = panels.columns();
    let sums = (0..columns.div_ceil(WIDTH))
        .into_par_iter()
        .flat_map_iter(|panel| {
            let mut sums = [0.0f32; WIDTH];
            for block in 0..panels.grid().blocks() {
                for row in panels.block(block).panel(panel).as_chunks::<WIDTH>().0 {
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            }
            sums
        });
    let mut sums: Vec<f32> = sums.collect();
    sums.truncate(columns);
    sums
}

#[cfg(test)]
mod tests {
    use super::super::super::matrix::Matrix;
    use super::super::super::precision::Precision;
    use super::super::layout::{Grid, Panels};
    use super::*;

    /// Small whole numbers, whose sums are exact in any order.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    fn naive(a: &[f32], b: &[f32], [rows, inner, columns]: [usize; 3]) -> Vec<f32> {
        let at = |i: usize, j: usize| (0..inner).map(|k| a[i * inner + k] * b[k * columns + j]).sum();
        (0..rows * columns)
            .map(|i| at(i / columns, i % columns))
            .collect()
    }

    /// All that this machine has; the numbers of these tests are the same in each.
    fn forms() -> Vec<Form> {
        let mut all = vec![Form::F32, Form::Rounded, Form::of(Precision::Bf16)];
        all.dedup();
        all
    }

    #[test]
    fn sums_of_products_of_any_shape_are_exact() {
        let shapes = [
            [1, 1, 1, 1],
            [3, 32, 16, 33],
            [200, 40, 7, 64],
            [300, 65, 32, 31],
            [130, 70, 16, 16],
        ];
        for (form, [rows, first, second, columns]) in forms()
            .into_iter()
            .flat_map(|form| shapes.map(|shape| (form, shape)))
        {
            let grid = Grid::new(rows);
            let (x, y) = (numbers(rows * first, 1), numbers(rows * second, 2));
            let (w, v) = (numbers(first * columns, 3), numbers(second * columns, 4));
            let (xp, yp) = (
                Panels::from_rows(&grid, &x, first),
                Panels::from_rows(&grid, &y, second),
            );
            let wp = Packed::new(form, Matrix::new(&w, first, columns, columns), 1.0);
            let vp = Packed::new(form, Matrix::new(&v, second, columns, columns), 1.0);
            let mut out = vec![1.0; rows * columns];
            for (index, out) in grid.split_rows(&mut out, columns).into_iter().enumerate() {
                let factors = [&xp, &yp].map(|panels| panels.block(index).over_columns(form));
                let terms = [(&factors[0], &wp), (&factors[1], &vp)].map(|(factor, weights)| Term {
                    block: factor.block(),
                    weights,
                });
                for panel in 0..wp.panels() {
                    multiply(&terms, panel, |row, tile| {
                        store_rows(out, columns, (row, panel), tile, true);
                    });
                }
            }
            let (a, b) = (
                naive(&x, &w, [rows, first, columns]),
                naive(&y, &v, [rows, second, columns]),
            );
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| 1.0 + a + b).collect();
            assert_eq!(out, expected, "{form:?} {rows} {first} {second} {columns}");
        }
    }

    #[test]
    fn gradients_of_weights_of_any_shape_are_exact() {
        let shapes = [
            [1, 1, 1],
            [5, 33, 40],
            [130, 70, 31],
            [300, 100, 16],
            [40, 20, 32],
            [500, 32, 64],
        ];
        for (form, [rows, m, n]) in forms()
            .into_iter()
            .flat_map(|form| shapes.map(|shape| (form, shape)))
        {
            let grid = Grid::new(rows);
            let (x, dy) = (numbers(rows * m, 1), numbers(rows * n, 2));
            let got = transposed_product(
                form,
                &Panels::from_rows(&grid, &x, m),
                &Panels::from_rows(&grid, &dy, n),
            );
            let at = |i: usize, j: usize| (0..rows).map(|k| x[k * m + i] * dy[k * n + j]).sum::<f32>();
            let expected: Vec<f32> = (0..m * n).map(|i| at(i / n, i % n)).collect();
            assert_eq!(got, expected, "{form:?} {rows} {m} {n}");
            let sums: Vec<f32> = (0..n).map(|j| (0..rows).map(|k| dy[k * n + j]).sum()).collect();
            assert_eq!(column_sums(&Panels::from_rows(&grid, &dy, n)), sums, "{rows} {n}");
        }
    }

    #[test]
    fn blocks_cover_all_rows_in_whole_tiles() {
        for rows in [0, 1, 14, 15, 112, 113, 449, 2048, 100_000] {
            let grid = Grid::new(rows);
            assert_eq!(grid.rows(), rows);
            let mut next = 0;
            for index in 0..grid.blocks() {
                let block = grid.block(index);
                assert_eq!(block.start, next);
                assert!(!block.is_empty() && block.len() <= 8 * TILE, "{rows} {block:?}");
                assert!(
                    index + 1 == grid.blocks() || block.len().is_multiple_of(TILE),
                    "{rows} {block:?}"
                );
                next = block.end;
            }
            assert_eq!(next, rows);
        }
    }
}
