//! One head's queries, keys, values or gradients of one sequence, in panels.

use super::super::buffers::Buffer;
use super::super::matrix::Matrix;
use super::super::panels::{Block, Factor, Form, Run, TILE, WIDTH, pack_panel};

/// A row for each token, `[panels][rows][WIDTH]`; columns and rows are filled up with zeros, rows to whole tiles and whole panels of keys.
#[derive(Debug)]
pub(super) struct Rows {
    memory: Buffer,
    tokens: usize,
    rows: usize,
    columns: usize,
}

impl Rows {
    /// Unspecified contents but for the zeros.
    fn new(tokens: usize, columns: usize) -> Self {
        let rows = tokens.next_multiple_of(TILE).max(tokens.next_multiple_of(WIDTH));
        let mut all = Self {
            memory: Buffer::take(rows * columns.next_multiple_of(WIDTH)),
            tokens,
            rows,
            columns,
        };
        for panel in 0..all.panels() {
            all.panel_mut(panel)[tokens * WIDTH..].fill(0.0);
        }
        all
    }

    /// All zeros.
    pub fn zeros(tokens: usize, columns: usize) -> Self {
        let mut rows = Self::new(tokens, columns);
        rows.memory.fill(0.0);
        rows
    }

    /// Rows `stride` elements apart, each as `write` makes it of the row's number, the input and memory that is copied afterwards.
    pub fn of(
        x: &[f32],
        stride: usize,
        (tokens, columns): (usize, usize),
        write: impl Fn(usize, &[f32], &mut [f32]),
    ) -> Self {
        let mut rows = Self::new(tokens, columns);
        // Whole panels, so that what fills up the last one is written with the rest.
        let mut made = vec![0.0; columns.next_multiple_of(WIDTH)];
        for (index, x) in x.chunks(stride).take(tokens).enumerate() {
            write(index, &x[..columns], &mut made[..columns]);
            for (panel, made) in made.chunks_exact(WIDTH).enumerate() {
                rows.panel_mut(panel)[index * WIDTH..][..WIDTH].copy_from_slice(made);
            }
        }
        rows
    }

    /// Rows as they are.
    pub fn copied(x: &[f32], stride: usize, (tokens, columns): (usize, usize)) -> Self {
        Self::of(x, stride, (tokens, columns), |_, x, row| row.copy_from_slice(x))
    }

    fn block(&self) -> Block<'_> {
        Block::new(&self.memory, self.rows, self.columns)
    }

    /// The left side of scores, as products read it; `None` where it is the rows as they are.
    pub fn over_columns(&self, form: Form) -> Option<Self> {
        self.made(self.block().over_columns(form))
    }

    /// The side of a sum over tokens, as products read it; `None` where it is the rows as they are.
    pub fn over_tokens(&self, form: Form) -> Option<Self> {
        self.made(self.block().over_rows(form))
    }

    fn made(&self, factor: Factor<'_>) -> Option<Self> {
        let Factor::Made(made) = factor else {
            return None;
        };
        let (rows, columns) = (made.block().rows(), made.block().columns());
        Some(Self {
            memory: made.into_memory(),
            tokens: self.tokens,
            rows,
            columns,
        })
    }

    pub fn panels(&self) -> usize {
        self.columns.div_ceil(WIDTH)
    }

    /// `[rows][WIDTH]`
    pub fn panel(&self, index: usize) -> &[f32] {
        &self.memory[index * self.rows * WIDTH..][..self.rows * WIDTH]
    }

    pub fn panel_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.memory[index * self.rows * WIDTH..][..self.rows * WIDTH]
    }

    /// Copies a row out of the panels.
    pub fn read(&self, row: usize, out: &mut [f32]) {
        for (panel, out) in out.chunks_mut(WIDTH).enumerate() {
            out.copy_from_slice(&self.panel(panel)[row * WIDTH..][..out.len()]);
        }
    }

    /// The tile of rows from `row` on as the left side of a product, without a right one.
    pub fn run(&self, row: usize) -> Run<'_> {
        Run {
            a: &self.memory[row * WIDTH..],
            stride: self.rows * WIDTH,
            b: &[],
            chunks: self.panels(),
            last: self.columns - (self.panels() - 1) * WIDTH,
        }
    }
}

/// A column for each token, `[panels of tokens][columns][WIDTH]`; tokens are filled up with zeros.
#[derive(Debug)]
pub(super) struct Columns {
    memory: Buffer,
    columns: usize,
}

impl Columns {
    /// The transpose of rows.
    pub fn of(rows: &Rows) -> Self {
        let columns = rows.columns;
        let mut memory = Buffer::take(rows.tokens.next_multiple_of(WIDTH) * columns);
        for (tokens, out) in memory.chunks_exact_mut(columns * WIDTH).enumerate() {
            for (panel, out) in out.chunks_mut(WIDTH * WIDTH).enumerate() {
                let square = &rows.panel(panel)[tokens * WIDTH * WIDTH..];
                let part = Matrix::new(square, WIDTH, out.len() / WIDTH, WIDTH);
                pack_panel(part.transposed(), 0, out);
            }
        }
        Self { memory, columns }
    }

    /// The right side of scores, as products read it.
    pub fn over_columns(self, form: Form) -> Self {
        let tokens = self.memory.len() / self.columns.max(1);
        match Block::new(&self.memory, self.columns, tokens).over_rows(form) {
            Factor::AsItIs(_) => self,
            Factor::Made(made) => Self {
                columns: made.block().rows(),
                memory: made.into_memory(),
            },
        }
    }

    /// `[columns][WIDTH]`
    pub fn panel(&self, index: usize) -> &[f32] {
        &self.memory[index * self.columns * WIDTH..][..self.columns * WIDTH]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_are_those_of_the_input() {
        for (tokens, columns) in [(1, 2), (33, 64), (100, 40), (57, 32)] {
            let stride = columns + 5;
            let x: Vec<f32> = (0..tokens * stride).map(|value| value as f32).collect();
            let rows = Rows::copied(&x, stride, (tokens, columns));
            let turned = Columns::of(&rows);
            let mut row = vec![0.0; columns];
            for token in 0..tokens {
                rows.read(token, &mut row);
                assert_eq!(row, x[token * stride..][..columns], "{tokens} {columns}");
                for (column, value) in row.iter().enumerate() {
                    let panel = turned.panel(token / WIDTH);
                    assert_eq!(panel[column * WIDTH + token % WIDTH], *value);
                }
            }
            for token in tokens..tokens.next_multiple_of(WIDTH) {
                assert!((0..columns).all(|c| turned.panel(token / WIDTH)[c * WIDTH + token % WIDTH] == 0.0));
            }
        }
    }
}
