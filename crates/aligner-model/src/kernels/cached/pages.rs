//! Where the keys and values of a sequence lie: pages of 32 positions, which come when they are needed.
//!
//! On a page the keys of a head are a panel (a row for each dimension, a column for each position), and so are its values (a row
//! for each position, a column for each dimension): scores and sums of values are products with panels.

use std::sync::Arc;

use super::memory::{Row, Shared};
use crate::kernels::attention::Heads;
use crate::kernels::panels::WIDTH;

/// Positions of a page.
pub(super) const PAGE: usize = WIDTH;

/// The keys and values that one layer has of one sequence. Copies share pages until one of them writes.
#[derive(Debug, Clone)]
pub struct Pages {
    layout: Layout,
    pages: Vec<Arc<[Row]>>,
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
    pub fn new(heads: Heads) -> Self {
        Self {
            layout: Layout::of(heads),
            pages: Vec::new(),
        }
    }

    /// Memory of the pages of so many tokens, in bytes.
    pub fn bytes_of(heads: Heads, tokens: usize) -> usize {
        tokens.div_ceil(PAGE) * Layout::of(heads).rows() * size_of::<Row>()
    }

    /// Memory of the pages, in bytes; those that copies share are counted with each.
    pub fn bytes(&self) -> usize {
        self.pages.iter().map(|page| size_of_val(&**page)).sum()
    }

    /// The first `tokens` positions, on pages that both share until one writes to them.
    #[must_use]
    pub fn of_first(&self, tokens: usize) -> Self {
        Self {
            layout: self.layout,
            pages: self.pages[..tokens.div_ceil(PAGE).min(self.pages.len())].to_vec(),
        }
    }

    /// All pages up to the end of `start .. end`, of which those of this range are going to be written.
    pub(super) fn open(&mut self, start: usize, end: usize) -> Vec<Shared<'_, Row>> {
        let (first, pages) = (start / PAGE, end.div_ceil(PAGE));
        while self.pages.len() < pages {
            let rows = std::iter::repeat_n(Row([0.0; WIDTH]), self.layout.rows());
            self.pages.push(rows.collect());
        }
        let (read, written) = self.pages[..pages].split_at_mut(first);
        let read = read.iter().map(|page| Shared::reading(page));
        let written = written.iter_mut().map(|page| Shared::new(Arc::make_mut(page)));
        read.chain(written).collect()
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }
}
