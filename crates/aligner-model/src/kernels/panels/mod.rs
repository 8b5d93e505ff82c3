//! Matrix products of whole layers, over matrices that lie as the product reads them.
//!
//! A matrix of tokens lies in *panels*: 32 columns side by side, row after row, and panel after panel for each block of
//! about a hundred tokens. In that order the same memory serves as the left side of a product (rows of a panel), as its left
//! side transposed (columns of a panel) and as its right side (a panel), each read from front to back: nothing is packed for
//! a product, a block stays in the processor's cache from one operation to the next, and weights alone are rearranged, once
//! an operation. A block of a weight is nothing else, so one that is read by a product or two is rearranged right before them.
//!
//! Blocks depend on the number of tokens alone and every sum runs over its terms in order, so results do not depend on
//! threads.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
mod form;
mod layout;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
mod packed;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod product;
mod tile;

pub(super) use self::form::{Factor, Form};
pub(super) use self::layout::{
    Block, Grid, OwnBlock, Panels, blocks_or_none, copy_rows, fetch_rows, panels_mut,
};
pub(super) use self::packed::{Packed, pack_panel};
pub(super) use self::product::{
    Term, add_columns, column_sums, multiply, multiply_into, store_panel, store_rows, transposed_product,
};

pub(super) use self::tile::{Run, Start, column_tile, row_tile};

/// Columns of a panel: two vectors of AVX-512, four of AVX2, eight of NEON.
pub(super) const WIDTH: usize = 32;

/// Rows that are computed at once: with their 28 vectors of sums, a panel's two and a factor, 31 of AVX-512's 32 registers are
/// in use.
pub(super) const TILE: usize = 14;

/// Sums of up to [`TILE`] rows and one panel's columns.
pub(super) type Tile = [[f32; WIDTH]; TILE];
