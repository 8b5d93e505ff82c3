//! Where the keys and values of a sequence lie: pages of 32 positions, which come when they are needed.
//!
//! On a page the keys of a head are a panel (a row for each dimension, a column for each position), and so are its values (a row
//! for each position, a column for each dimension): scores and sums of values are products with panels.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::memory::{HalfRow, Row, Shared};
use super::sums::{self, Rows};
use crate::kernels::attention::Heads;
use crate::kernels::panels::WIDTH;

/// Positions of a page.
pub(super) const PAGE: usize = WIDTH;

/// How keys and values are held: `f32` or `f16`, which takes half the memory and is read in half the time.
///
/// ```
/// use aligner_model::KvFormat;
/// assert_eq!("f16".parse(), Ok(KvFormat::F16));
/// assert!("f8".parse::<KvFormat>().unwrap_err().contains("f32, f16"));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to eleven bits; what is beyond 65504 becomes that.
    F16,
}

impl FromStr for KvFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::F32, Self::F16]
            .into_iter()
            .find(|format| format.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no format of keys and values; known are f32, f16"))
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

/// The keys and values that one layer has of one sequence. Copies share pages until one of them writes.
#[derive(Debug, Clone)]
pub struct Pages {
    layout: Layout,
    pages: Held,
}

#[derive(Debug, Clone)]
enum Held {
    F32(Vec<Arc<[Row]>>),
    F16(Vec<Arc<[HalfRow]>>),
}

/// The pages of a sequence while an operation has them.
pub(super) enum Open<'a> {
    F32(Vec<Shared<'a, Row>>),
    F16(Vec<Shared<'a, HalfRow>>),
}

/// What pages are made of: 32 elements, one of each column.
pub(super) trait PageRow: Copy + Send + Sync {
    const ZERO: Self;

    /// Writes a column of as many rows as there are values.
    fn write_column(rows: &mut [Self], column: usize, values: &[f32]);

    /// Writes the first columns of a row.
    fn write_row(&mut self, values: &[f32]);

    /// See [`sums::add`].
    fn add(rows: Rows<'_>, panel: &[Self], next: *const Self, out: &mut [[f32; WIDTH]]);
}

impl PageRow for Row {
    const ZERO: Self = Self([0.0; WIDTH]);

    fn write_column(rows: &mut [Self], column: usize, values: &[f32]) {
        for (row, &value) in rows.iter_mut().zip(values) {
            row.0[column] = value;
        }
    }

    fn write_row(&mut self, values: &[f32]) {
        self.0[..values.len()].copy_from_slice(values);
    }

    fn add(rows: Rows<'_>, panel: &[Self], next: *const Self, out: &mut [[f32; WIDTH]]) {
        sums::add(rows, panel, next, out);
    }
}

impl PageRow for HalfRow {
    const ZERO: Self = Self::ZERO;

    fn write_column(rows: &mut [Self], column: usize, values: &[f32]) {
        let mut halves = Self::ZERO;
        for (rows, values) in rows.chunks_mut(WIDTH).zip(values.chunks(WIDTH)) {
            halves.write(values);
            for (row, half) in rows.iter_mut().zip(halves.0) {
                row.0[column] = half;
            }
        }
    }

    fn write_row(&mut self, values: &[f32]) {
        self.write(values);
    }

    fn add(rows: Rows<'_>, panel: &[Self], next: *const Self, out: &mut [[f32; WIDTH]]) {
        sums::add_halves(rows, panel, next, out);
    }
}

/// Where things are on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Layout {
    fn of(heads: Heads) -> Self {
        Self {
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
        }
    }

    /// Panels of a head's values.
    pub fn value_panels(self) -> usize {
        self.head_dim.div_ceil(WIDTH)
    }

    /// First row of a head's keys, of which there are `head_dim`.
    pub fn keys(self, kv_head: usize) -> usize {
        kv_head * self.head_dim
    }

    /// First row of a panel of a head's values, of which there are [`PAGE`].
    pub fn values(self, kv_head: usize, panel: usize) -> usize {
        self.kv_heads * self.head_dim + (kv_head * self.value_panels() + panel) * PAGE
    }

    fn rows(self) -> usize {
        self.values(self.kv_heads, 0)
    }
}

impl Pages {
    /// No pages yet.
    pub fn new(heads: Heads, format: KvFormat) -> Self {
        Self {
            layout: Layout::of(heads),
            pages: match format {
                KvFormat::F32 => Held::F32(Vec::new()),
                KvFormat::F16 => Held::F16(Vec::new()),
            },
        }
    }

    /// Memory of the pages of so many tokens, in bytes.
    pub fn bytes_of(heads: Heads, format: KvFormat, tokens: usize) -> usize {
        let row = match format {
            KvFormat::F32 => size_of::<Row>(),
            KvFormat::F16 => size_of::<HalfRow>(),
        };
        tokens.div_ceil(PAGE) * Layout::of(heads).rows() * row
    }

    /// Memory of the pages, in bytes; those that copies share are counted with each.
    pub fn bytes(&self) -> usize {
        match &self.pages {
            Held::F32(pages) => pages.iter().map(|page| size_of_val(&**page)).sum(),
            Held::F16(pages) => pages.iter().map(|page| size_of_val(&**page)).sum(),
        }
    }

    /// The first `tokens` positions, on pages that both share until one writes to them.
    #[must_use]
    pub fn of_first(&self, tokens: usize) -> Self {
        fn first<R>(pages: &[Arc<[R]>], tokens: usize) -> Vec<Arc<[R]>> {
            pages[..tokens.div_ceil(PAGE).min(pages.len())].to_vec()
        }
        Self {
            layout: self.layout,
            pages: match &self.pages {
                Held::F32(pages) => Held::F32(first(pages, tokens)),
                Held::F16(pages) => Held::F16(first(pages, tokens)),
            },
        }
    }

    /// All pages up to the end of `start .. end`, of which those of this range are going to be written.
    pub(super) fn open(&mut self, start: usize, end: usize) -> Open<'_> {
        let rows = self.layout.rows();
        match &mut self.pages {
            Held::F32(pages) => Open::F32(open(pages, rows, start, end)),
            Held::F16(pages) => Open::F16(open(pages, rows, start, end)),
        }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }
}

/// See [`Pages::open`]; a page has so many rows.
fn open<R: PageRow>(pages: &mut Vec<Arc<[R]>>, rows: usize, start: usize, end: usize) -> Vec<Shared<'_, R>> {
    let (first, count) = (start / PAGE, end.div_ceil(PAGE));
    while pages.len() < count {
        pages.push(std::iter::repeat_n(R::ZERO, rows).collect());
    }
    let (read, written) = pages[..count].split_at_mut(first);
    let read = read.iter().map(|page| Shared::reading(page));
    let written = written.iter_mut().map(|page| Shared::new(Arc::make_mut(page)));
    read.chain(written).collect()
}
