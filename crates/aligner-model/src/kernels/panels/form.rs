//! What a product reads: numbers as they are, or what is left of them in bf16.
//!
//! A processor that multiplies numbers of bf16 takes two at a time, which are neighbours along the sum, and adds both products.
//! Such a pair is as large as an f32. So a matrix of pairs lies in the same panels as one of numbers, with half as many steps, and
//! the same loops read it with another instruction.

use super::super::math::vectorized;
use super::super::precision::Precision;
use super::layout::{Block, OwnBlock, Panels, panels_mut};
use super::tile::Isa;
#[cfg(target_arch = "x86_64")]
use super::{WIDTH, pairs};

/// What a product's words are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Form {
    F32,
    /// f32 that have been rounded to bf16, for processors that multiply nothing shorter.
    Rounded,
    /// Two numbers of bf16 each, the earlier in the lower half. An odd one at the end is followed by 0.
    #[cfg(target_arch = "x86_64")]
    Pairs,
}

impl Form {
    pub fn of(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 if Isa::pairs_are_here() => Self::Pairs,
            Precision::Bf16 => Self::Rounded,
        }
    }

    /// What multiplies it.
    pub fn isa(self) -> Isa {
        match self {
            Self::F32 | Self::Rounded => Isa::here(),
            #[cfg(target_arch = "x86_64")]
            Self::Pairs => Isa::Avx512Bf16,
        }
    }

    /// Words of so many numbers along a sum.
    pub fn words(self, numbers: usize) -> usize {
        match self {
            Self::F32 | Self::Rounded => numbers,
            #[cfg(target_arch = "x86_64")]
            Self::Pairs => numbers.div_ceil(2),
        }
    }

    /// One of the [`words`](Self::words) of so many panels whose columns are summed over.
    ///
    /// # Shapes
    /// - `panel`: gives `[rows][WIDTH]` for each number below `panels`
    /// - `out`: `[rows][WIDTH]`
    pub fn write_columns<'a>(
        self,
        index: usize,
        panels: usize,
        panel: impl Fn(usize) -> &'a [f32],
        out: &mut [f32],
    ) {
        debug_assert!(index < self.words(panels), "a panel that is not there");
        match self {
            Self::F32 | Self::Rounded => self.write_rows(panel(index), out),
            #[cfg(target_arch = "x86_64")]
            Self::Pairs => {
                let right = (2 * index + 1 < panels).then(|| panel(2 * index + 1));
                pairs::of_columns(panel(2 * index), right, out);
            }
        }
    }

    /// Rows of a panel, which are summed over.
    ///
    /// # Shapes
    /// - `panel`: `[rows][WIDTH]`
    /// - `out`: `[words(rows)][WIDTH]`
    pub fn write_rows(self, panel: &[f32], out: &mut [f32]) {
        match self {
            Self::F32 => out.copy_from_slice(panel),
            Self::Rounded => round(panel, out),
            #[cfg(target_arch = "x86_64")]
            Self::Pairs => pairs::of_rows(panel, out),
        }
    }
}

/// A block as a product reads it.
pub(in super::super) enum Factor<'a> {
    AsItIs(Block<'a>),
    Made(OwnBlock),
}

impl Factor<'_> {
    pub fn block(&self) -> Block<'_> {
        match self {
            Self::AsItIs(block) => *block,
            Self::Made(block) => block.block(),
        }
    }
}

impl<'a> Block<'a> {
    /// For a sum over its columns, as the left side.
    pub fn over_columns(self, form: Form) -> Factor<'a> {
        let mut made = match form {
            Form::F32 => return Factor::AsItIs(self),
            form => OwnBlock::new(self.rows(), form.words(self.columns())),
        };
        let panels = panels_mut(made.memory(), self.rows(), form.words(self.columns()));
        for (index, out) in panels.enumerate() {
            form.write_columns(index, self.panels(), |panel| self.panel(panel), out);
            #[cfg(target_arch = "x86_64")]
            if form == Form::Pairs && self.columns() % 2 == 1 && self.columns() / 2 / WIDTH == index {
                // What fills up the panel may be anything, and times 0 is not always 0.
                pairs::without_later(out, self.columns() / 2 % WIDTH);
            }
        }
        Factor::Made(made)
    }

    /// For a sum over its rows, as either side.
    pub fn over_rows(self, form: Form) -> Factor<'a> {
        let rows = match form {
            Form::F32 => return Factor::AsItIs(self),
            form => form.words(self.rows()),
        };
        let mut made = OwnBlock::new(rows, self.columns());
        for (index, out) in panels_mut(made.memory(), rows, self.columns()).enumerate() {
            form.write_rows(self.panel(index), out);
        }
        Factor::Made(made)
    }
}

impl OwnBlock {
    /// [`Block::over_columns`]
    pub fn over_columns(self, form: Form) -> Self {
        match self.block().over_columns(form) {
            Factor::Made(made) => made,
            Factor::AsItIs(_) => self,
        }
    }
}

impl Panels {
    /// For a sum over all rows; `None` where it is the matrix as it is.
    pub fn over_rows(&self, form: Form) -> Option<Self> {
        if form == Form::F32 {
            return None;
        }
        let mut made = Self::new(&self.grid().in_words(form), self.columns());
        let grid = made.grid().clone();
        made.fill(|index, out| {
            let rows = grid.block(index).len();
            for (panel, out) in panels_mut(out, rows, self.columns()).enumerate() {
                form.write_rows(self.block(index).panel(panel), out);
            }
        });
        Some(made)
    }
}

/// The nearest number of bf16, of two the even one; NaN stays NaN.
fn round(values: &[f32], out: &mut [f32]) {
    vectorized!((values: &'a [f32], out: &'a mut [f32]) -> () {
        for (out, &value) in out.iter_mut().zip(values) {
            let bits = value.to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
            *out = if value.is_nan() { value } else { f32::from_bits(rounded) };
        }
    });
}

#[cfg(test)]
mod tests {
    use half::bf16;

    #[cfg(target_arch = "x86_64")]
    use super::super::layout::Grid;
    use super::*;

    fn numbers(len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 37 + 11) % 1009) as f32 * 0.37 - 150.0)
            .collect()
    }

    #[test]
    fn rounding_is_to_the_nearest_even() {
        let mut values = numbers(999);
        values.extend([
            0.0,
            -0.0,
            1.003_906_2,
            1.011_718_8,
            f32::INFINITY,
            f32::MAX,
            -f32::MAX,
            1e-30,
        ]);
        let mut out = vec![0.0; values.len()];
        round(&values, &mut out);
        for (value, out) in values.iter().zip(&out) {
            assert_eq!(
                out.to_bits(),
                bf16::from_f32(*value).to_f32().to_bits(),
                "{value}"
            );
        }
        round(&[f32::NAN], &mut out[..1]);
        assert!(out[0].is_nan());
    }

    /// The two numbers of a word.
    #[cfg(target_arch = "x86_64")]
    fn halves(word: f32) -> [f32; 2] {
        let bits = word.to_bits();
        [bits & 0xffff, bits >> 16].map(|half| bf16::from_bits(half as u16).to_f32())
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn pairs_are_neighbours_along_the_sum() {
        if !Isa::pairs_are_here() {
            return;
        }
        let form = Form::Pairs;
        let rounded = |value: f32| bf16::from_f32(value).to_f32();
        for (rows, columns) in [
            (1, 1),
            (3, 31),
            (14, 32),
            (17, 33),
            (28, 63),
            (5, 64),
            (130, 65),
            (7, 130),
        ] {
            let values = numbers(rows * columns);
            let at = |row: usize, column: usize| match row < rows && column < columns {
                true => rounded(values[row * columns + column]),
                false => 0.0,
            };
            let grid = Grid::new(rows);
            let panels = Panels::from_rows(&grid, &values, columns);
            for index in 0..grid.blocks() {
                let range = grid.block(index);
                let factor = panels.block(index).over_columns(form);
                let block = factor.block();
                assert_eq!(
                    (block.rows(), block.columns()),
                    (range.len(), columns.div_ceil(2))
                );
                for (row, column) in range
                    .clone()
                    .flat_map(|row| (0..columns.div_ceil(2)).map(move |c| (row, c)))
                {
                    let word = block.panel(column / WIDTH)[(row - range.start) * WIDTH + column % WIDTH];
                    let expected = [at(row, 2 * column), at(row, 2 * column + 1)];
                    assert_eq!(halves(word), expected, "{rows} {columns}: {row} {column}");
                }
            }
            let by_rows = panels.over_rows(form).unwrap();
            for index in 0..grid.blocks() {
                let range = grid.block(index);
                let own = panels.block(index).over_rows(form);
                let words = range.len().div_ceil(2);
                assert_eq!((own.block().rows(), by_rows.block(index).rows()), (words, words));
                for (pair, column) in
                    (0..words).flat_map(|pair| (0..columns).map(move |column| (pair, column)))
                {
                    let of = |block: Block<'_>| block.panel(column / WIDTH)[pair * WIDTH + column % WIDTH];
                    let row = range.start + 2 * pair;
                    let second = if row + 1 < range.end {
                        at(row + 1, column)
                    } else {
                        0.0
                    };
                    let expected = [at(row, column), second];
                    assert_eq!(
                        halves(of(own.block())),
                        expected,
                        "{rows} {columns}: {row} {column}"
                    );
                    assert_eq!(of(own.block()).to_bits(), of(by_rows.block(index)).to_bits());
                }
            }
        }
    }
}
