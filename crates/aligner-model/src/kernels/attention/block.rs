//! A block of queries: which keys each sees, and its products with keys and values.
//!
//! Scores lie in panels of 32 keys, tiles of queries one behind the other in each: `[panels][rows][WIDTH]`. The same memory is the left
//! side of `P V` and, transposed, that of `Pᵀ dY` (see [`panels`](super::super::panels)). Tiles that see no key of a panel are neither
//! computed nor read.

use std::ops::Range;

use super::super::buffers::Buffer;
use super::super::panels::{Form, Run, Start, TILE, Tile, WIDTH, column_tile, row_tile};
use super::head::{Columns, Rows};

/// Queries whose scores are held at once: whole tiles.
pub(super) const BLOCK: usize = 8 * TILE;

/// Queries of one head, and how far they see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    /// First query of the sequence, a multiple of [`TILE`].
    first: usize,
    rows: usize,
    /// Keys that a query sees, its own included.
    window: usize,
}

impl Block {
    /// All queries of a sequence.
    pub fn all(tokens: usize, window: usize) -> impl Iterator<Item = Self> {
        (0..tokens).step_by(BLOCK).map(move |first| Self {
            first,
            rows: BLOCK.min(tokens - first),
            window,
        })
    }

    /// Elements that the scores of any block of a sequence take.
    pub fn scores_len(tokens: usize) -> usize {
        tokens.next_multiple_of(WIDTH) * BLOCK.min(tokens.next_multiple_of(TILE))
    }

    /// First query of the sequence.
    pub fn first(self) -> usize {
        self.first
    }

    pub fn rows(self) -> usize {
        self.rows
    }

    /// Rows of a panel: whole tiles.
    pub fn stride(self) -> usize {
        self.rows.next_multiple_of(TILE)
    }

    /// Where the scores of a row and a panel lie.
    pub fn at(self, row: usize, panel: usize) -> usize {
        (panel * self.stride() + row) * WIDTH
    }

    /// Keys that a row sees.
    #[inline(always)]
    pub fn seen(self, row: usize) -> Range<usize> {
        let end = self.first + row + 1;
        end.saturating_sub(self.window)..end
    }

    /// Panels of which a tile's rows see some keys.
    #[inline(always)]
    pub fn panels_of(self, tile: usize) -> Range<usize> {
        let last = ((tile + 1) * TILE).min(self.rows) - 1;
        self.seen(tile * TILE).start / WIDTH..self.seen(last).end.div_ceil(WIDTH)
    }

    /// Panels of which any row sees some keys.
    fn panels(self) -> Range<usize> {
        self.panels_of(0).start..self.panels_of(self.tiles() - 1).end
    }

    fn tiles(self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// The tiles that see some keys of a panel: both ends of what a tile sees grow from one to the next.
    fn tiles_of(self, panel: usize) -> Range<usize> {
        let mut tiles = (0..self.tiles()).filter(|&tile| self.panels_of(tile).contains(&panel));
        let first = tiles.next();
        first.map_or(0..0, |first| first..tiles.next_back().unwrap_or(first) + 1)
    }

    /// `left · right` for this block's rows of `left`: the scores, of queries and keys. Both are as products of the form read them.
    pub fn scores(self, form: Form, left: &Rows, right: &Columns, out: &mut [f32]) {
        let isa = form.isa();
        for panel in self.panels() {
            for tile in self.tiles_of(panel) {
                let run = Run {
                    b: right.panel(panel),
                    ..left.run(self.first + tile * TILE)
                };
                let (tiles, _) = out[self.at(tile * TILE, panel)..].as_chunks_mut::<WIDTH>();
                if let Some(out) = tiles.first_chunk_mut::<TILE>() {
                    row_tile(isa, &[run], out, WIDTH);
                }
            }
        }
    }

    /// `weights · right`, over the keys that are seen; `right` is as products of the form read it. `write` is given the first row of each
    /// tile, the panel of columns, and the rows.
    pub fn weighted(
        self,
        form: Form,
        weights: &[f32],
        right: &Rows,
        mut write: impl FnMut(usize, usize, &[[f32; WIDTH]]),
    ) {
        let isa = form.isa();
        let mut sums: Tile = [[0.0; WIDTH]; TILE];
        let mut words = match form {
            Form::F32 => None,
            form => Some(Buffer::take(form.words(self.panels().len()) * TILE * WIDTH)),
        };
        for row in (0..self.rows).step_by(TILE) {
            let keys = self.panels_of(row / TILE);
            let (a, stride) = match &mut words {
                None => (&weights[self.at(row, keys.start)..], self.stride() * WIDTH),
                Some(words) => {
                    let tile = |panel: usize| &weights[self.at(row, keys.start + panel)..][..TILE * WIDTH];
                    let panels = words.chunks_exact_mut(TILE * WIDTH).take(form.words(keys.len()));
                    for (index, out) in panels.enumerate() {
                        form.write_columns(index, keys.len(), tile, out);
                    }
                    (&**words, TILE * WIDTH)
                }
            };
            let steps = form.words(keys.len() * WIDTH);
            for panel in 0..right.panels() {
                let run = Run {
                    a,
                    stride,
                    b: &right.panel(panel)[form.words(keys.start * WIDTH) * WIDTH..],
                    chunks: steps.div_ceil(WIDTH),
                    last: steps - (steps.div_ceil(WIDTH) - 1) * WIDTH,
                };
                row_tile(isa, &[run], &mut sums, WIDTH);
                write(row, panel, &sums[..TILE.min(self.rows - row)]);
            }
        }
    }

    /// `out += weightsᵀ · right`, of this block's rows of `right`, which is as products of the form read it: a row of `out` for each key.
    pub fn add_transposed(self, form: Form, weights: &[f32], right: &Rows, out: &mut Rows) {
        let isa = form.isa();
        let mut words = match form {
            Form::F32 => None,
            form => Some(Buffer::take(form.words(self.rows) * WIDTH)),
        };
        for keys in self.panels() {
            let tiles = self.tiles_of(keys);
            let (row, end) = (tiles.start * TILE, (tiles.end * TILE).min(self.rows));
            let steps = form.words(end - row);
            let a = match &mut words {
                None => &weights[self.at(row, keys)..],
                Some(words) => {
                    let rows = &weights[self.at(row, keys)..][..(end - row) * WIDTH];
                    form.write_rows(rows, &mut words[..steps * WIDTH]);
                    &**words
                }
            };
            for panel in 0..right.panels() {
                let b = &right.panel(panel)[form.words(self.first + row) * WIDTH..];
                let (rows, _) = out.panel_mut(panel)[keys * WIDTH * WIDTH..].as_chunks_mut::<WIDTH>();
                if let Some(out) = rows.first_chunk_mut::<WIDTH>() {
                    column_tile(isa, &[Run::single(a, b, steps)], Start::Held, out, WIDTH);
                }
            }
        }
    }
}

/// The lanes of a panel that are seen.
#[inline(always)]
pub(super) fn lanes(seen: &Range<usize>, panel: usize) -> Range<usize> {
    let lane = |key: usize| key.saturating_sub(panel * WIDTH).min(WIDTH);
    lane(seen.start)..lane(seen.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_what_rows_see() {
        for (tokens, window) in [
            (1, 9),
            (13, 1),
            (130, usize::MAX),
            (300, 40),
            (300, 1),
            (257, 100),
        ] {
            let mut rows = 0;
            for block in Block::all(tokens, window) {
                assert_eq!(block.first(), rows);
                rows += block.rows();
                for row in 0..block.rows() {
                    for key in block.seen(row) {
                        let (tile, panel) = (row / TILE, key / WIDTH);
                        assert!(block.panels_of(tile).contains(&panel));
                        assert!(block.tiles_of(panel).contains(&tile));
                        assert!(lanes(&block.seen(row), panel).contains(&(key % WIDTH)));
                    }
                }
                for panel in block.panels() {
                    for tile in block.tiles_of(panel) {
                        assert!(block.panels_of(tile).contains(&panel), "{tokens} {window}");
                    }
                }
                assert!(block.at(0, block.panels().end) <= Block::scores_len(tokens));
            }
            assert_eq!(rows, tokens);
        }
    }
}
