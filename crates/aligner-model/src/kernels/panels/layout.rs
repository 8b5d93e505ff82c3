//! How a matrix of tokens lies in memory.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::super::buffers::Buffer;
use super::super::matrix::Matrix;
use super::{Form, TILE, WIDTH, pack_panel};

/// Tiles of a block at most: its rows and what they become stay in a cache of one to two megabytes.
const TILES: usize = 8;

/// Rows cut into blocks of whole tiles; the last tile may be short.
#[derive(Debug, Clone)]
pub(in super::super) struct Grid {
    /// First row of each block, and the number of rows.
    starts: Arc<[usize]>,
}

impl Grid {
    pub fn new(rows: usize) -> Self {
        let tiles = rows.div_ceil(TILE);
        // A multiple of four, so that two or four threads have equal shares.
        let blocks = tiles.div_ceil(TILES).next_multiple_of(4).min(tiles);
        let start = |block: usize| (tiles * block / blocks.max(1) * TILE).min(rows);
        Self {
            starts: (0..=blocks).map(start).collect(),
        }
    }

    pub fn rows(&self) -> usize {
        self.starts[self.blocks()]
    }

    pub fn blocks(&self) -> usize {
        self.starts.len() - 1
    }

    /// The rows of a block.
    pub fn block(&self, index: usize) -> Range<usize> {
        self.starts[index]..self.starts[index + 1]
    }

    /// The same blocks, whose rows are words of a form.
    pub fn in_words(&self, form: Form) -> Self {
        let mut next = 0;
        let lengths = (0..self.blocks()).map(|index| form.words(self.block(index).len()));
        let ends = lengths.map(|words| {
            next += words;
            next
        });
        Self {
            starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// The blocks of a matrix whose rows lie one behind the other.
    pub fn split_rows<'a>(&self, mut rows: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        (0..self.blocks())
            .map(|index| {
                let (block, rest) = std::mem::take(&mut rows).split_at_mut(self.block(index).len() * width);
                rows = rest;
                block
            })
            .collect()
    }
}

/// A matrix of `[rows, columns]`, as `[blocks][panels][rows of the block][WIDTH]`; columns are filled up with zeros.
#[derive(Debug, Clone)]
pub(in super::super) struct Panels {
    memory: Buffer,
    grid: Grid,
    columns: usize,
}

fn padded(columns: usize) -> usize {
    columns.next_multiple_of(WIDTH)
}

/// Elements of a matrix. A tile may read up to this much behind its last row; what it reads there is not used.
fn len(rows: usize, columns: usize) -> usize {
    rows * padded(columns) + (TILE - 1) * WIDTH
}

impl Panels {
    /// Memory for a matrix; the contents are unspecified at first.
    pub fn new(grid: &Grid, columns: usize) -> Self {
        Self {
            memory: Buffer::take(len(grid.rows(), columns)),
            grid: grid.clone(),
            columns,
        }
    }

    /// A matrix that lies in rows.
    pub fn from_rows(grid: &Grid, rows: &[f32], columns: usize) -> Self {
        let mut panels = Self::new(grid, columns);
        panels.fill(|index, block| {
            let range = grid.block(index);
            copy_rows(&rows[range.start * columns..range.end * columns], columns, block);
        });
        panels
    }

    /// Lets `write` fill each block, on all threads; it is given the block's number and its memory.
    pub fn fill(&mut self, write: impl Fn(usize, &mut [f32]) + Sync) {
        let blocks: Vec<_> = self.blocks_mut().into_iter().enumerate().collect();
        blocks
            .into_par_iter()
            .for_each(|(index, block)| write(index, block));
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    pub fn block(&self, index: usize) -> Block<'_> {
        let rows = self.grid.block(index);
        Block {
            // Up to the end of the memory: a tile of the last rows reads a little further.
            data: &self.memory[rows.start * padded(self.columns)..],
            rows: rows.len(),
            columns: self.columns,
        }
    }

    /// The memory of each block; that of the last is a little longer.
    pub fn blocks_mut(&mut self) -> Vec<&mut [f32]> {
        let width = padded(self.columns);
        let mut rest: &mut [f32] = &mut self.memory;
        let blocks = self.grid.blocks();
        let mut all = Vec::with_capacity(blocks);
        for index in 0..blocks {
            let len = match index + 1 == blocks {
                true => rest.len(),
                false => self.grid.block(index).len() * width,
            };
            let (block, behind) = std::mem::take(&mut rest).split_at_mut(len);
            all.push(block);
            rest = behind;
        }
        all
    }
}

/// A block in memory of its own.
#[derive(Debug)]
pub(in super::super) struct OwnBlock {
    memory: Buffer,
    rows: usize,
    columns: usize,
}

impl OwnBlock {
    /// The contents are unspecified at first.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            memory: Buffer::take(len(rows, columns)),
            rows,
            columns,
        }
    }

    /// The block that holds a matrix.
    pub fn of(matrix: Matrix<'_>) -> Self {
        let mut block = Self::new(matrix.rows, matrix.columns);
        for (panel, out) in panels_mut(&mut block.memory, matrix.rows, matrix.columns).enumerate() {
            pack_panel(matrix, panel * WIDTH, out);
        }
        block
    }

    pub fn memory(&mut self) -> &mut [f32] {
        &mut self.memory
    }

    pub fn into_memory(self) -> Buffer {
        self.memory
    }

    pub fn block(&self) -> Block<'_> {
        Block {
            data: &self.memory,
            rows: self.rows,
            columns: self.columns,
        }
    }
}

/// One block: `[panels][rows][WIDTH]`, and memory behind it that may be read.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Block<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
}

impl<'a> Block<'a> {
    /// A block whose memory is borrowed for writing elsewhere in between, as [`Panels::blocks_mut`] gave it.
    ///
    /// # Panics
    /// When the memory is shorter than the rows.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert!(
            rows * padded(columns) <= data.len(),
            "a block shorter than its rows"
        );
        Self { data, rows, columns }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    pub fn panels(&self) -> usize {
        self.columns.div_ceil(WIDTH)
    }

    /// Elements from one panel to the next.
    pub fn stride(&self) -> usize {
        self.rows * WIDTH
    }

    /// From a row of the first panel to the end of the memory.
    pub fn starting_at_row(&self, row: usize) -> &'a [f32] {
        &self.data[row * WIDTH..]
    }

    /// The rows of one panel.
    pub fn panel(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride()..][..self.stride()]
    }
}

/// Writes rows into a block.
///
/// # Shapes
/// - `rows`: `[rows, columns]`
/// - `block`: as [`Block`]
pub(in super::super) fn copy_rows(rows: &[f32], columns: usize, block: &mut [f32]) {
    let count = rows.len() / columns.max(1);
    for (index, row) in rows.chunks_exact(columns.max(1)).enumerate() {
        for (panel, part) in row.chunks(WIDTH).enumerate() {
            let out = &mut block[(panel * count + index) * WIDTH..][..WIDTH];
            match <&[f32; WIDTH]>::try_from(part) {
                Ok(part) => out.copy_from_slice(part),
                Err(_) => {
                    out[..part.len()].copy_from_slice(part);
                    out[part.len()..].fill(0.0);
                }
            }
        }
    }
}

/// The panels of a block for writing.
pub(in super::super) fn panels_mut(
    block: &mut [f32],
    rows: usize,
    columns: usize,
) -> impl Iterator<Item = &mut [f32]> {
    block
        .chunks_exact_mut((rows * WIDTH).max(1))
        .take(columns.div_ceil(WIDTH))
}

/// The blocks of a matrix that may not be there.
pub(in super::super) fn blocks_or_none<'a>(
    panels: Option<&'a mut Panels>,
    grid: &Grid,
) -> Vec<Option<&'a mut [f32]>> {
    match panels {
        Some(panels) => panels.blocks_mut().into_iter().map(Some).collect(),
        None => (0..grid.blocks()).map(|_| None).collect(),
    }
}

/// Lets the processor fetch rows of a panel that will soon be read, while it computes.
pub(in super::super) fn fetch_rows(panel: &[f32], first: usize, rows: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in panel[first * WIDTH..][..rows * WIDTH].chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (panel, first, rows);
}
