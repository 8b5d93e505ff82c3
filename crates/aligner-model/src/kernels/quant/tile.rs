//! The innermost loops: some rows of activations times a panel of weights.
//!
//! Sums of integers are exact; those of f32 run over the blocks in order, each multiplication and addition rounded by itself.
//! So `q8` and `q4` give the same bits on every machine and for every number of rows. `bf16` gives the same bits for every number
//! of rows; how its products are rounded depends on whether the machine multiplies and adds at once.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;

use super::QuantFormat;
use super::layout::{BLOCK, PANEL, Q4_BLOCK, Q8_BLOCK};

/// The most rows of a tile: their sums fit into the registers of AVX2.
pub(super) const MOST_ROWS: usize = 6;

/// What is computed at once; the rows behind those asked for keep what was there.
pub(super) type Tile = [[f32; PANEL]; MOST_ROWS];

/// Vector instructions that a tile is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON, and SDOT for integers.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// What the program was compiled for. Nothing but the tests needs it on aarch64, where NEON is never missing.
    Compiled,
}

impl Isa {
    /// The widest of this machine that there is a loop for.
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Self::Avx2;
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            return Self::NeonDot;
        } else if std::arch::is_aarch64_feature_detected!("neon") {
            return Self::Neon;
        }
        Self::Compiled
    }

    /// The most rows of a tile whose sums and operands fit into the registers.
    pub fn rows(self, format: QuantFormat) -> usize {
        match (self, format) {
            // Products of 16 bits lie between those of eight and their sums.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, QuantFormat::Q8) => 4,
            // Each output has four sums of 16 bits.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, QuantFormat::Q4) => 2,
            #[cfg(target_arch = "aarch64")]
            (Self::Neon | Self::NeonDot, _) => 5,
            // Words take registers that a sixth row would need.
            (_, QuantFormat::Bf16) => 5,
            (_, QuantFormat::Q8 | QuantFormat::Q4) => MOST_ROWS,
        }
    }
}

/// Rows of integers with a scale for each block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks<'a, T> {
    /// `[rows, blocks · 32]`
    pub values: &'a [T],
    /// `[rows, blocks]`
    pub scales: &'a [f32],
    pub blocks: usize,
}

impl<T> Blocks<'_, T> {
    fn check(&self, rows: usize, panel: &[u8], block_bytes: usize) {
        assert!(
            (1..=MOST_ROWS).contains(&rows)
                && self.values.len() >= rows * self.blocks * BLOCK
                && self.scales.len() >= rows * self.blocks
                && panel.len() >= self.blocks * block_bytes,
            "a tile beyond its matrix"
        );
    }
}

/// Calls a function that is generic over the number of rows.
macro_rules! with_rows {
    ($rows:expr, $call:path, $($argument:expr),+) => {{
        use $call as call;
        match $rows {
            1 => call::<1>($($argument),+),
            2 => call::<2>($($argument),+),
            3 => call::<3>($($argument),+),
            4 => call::<4>($($argument),+),
            5 => call::<5>($($argument),+),
            _ => call::<6>($($argument),+),
        }
    }};
}

/// `out[r][o] = Σ over blocks (Σ x · w) · (scale of w · scale of x)` of a panel in `q8`.
///
/// # Panics
/// When rows or panel are shorter than they should be.
pub(super) fn q8(isa: Isa, rows: usize, x: Blocks<'_, i16>, panel: &[u8], out: &mut Tile) {
    x.check(rows, panel, Q8_BLOCK);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has AVX2, and every element that is read lies inside its slice, as was just checked.
        Isa::Avx2 => unsafe { with_rows!(rows, avx2::q8, x, panel, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above, of NEON.
        Isa::Neon => unsafe { with_rows!(rows, neon::long::q8, x, panel, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above, of SDOT.
        Isa::NeonDot => unsafe { with_rows!(rows, neon::dot::q8, x, panel, out) },
        Isa::Compiled => with_rows!(rows, plain::q8, x, panel, out),
    }
}

/// [`q8`] of a panel in `q4`; `offsets` are −8 times the sums of the blocks of `x`, `[rows, blocks]`.
///
/// # Panics
/// As [`q8`].
pub(super) fn q4(isa: Isa, rows: usize, x: Blocks<'_, i8>, offsets: &[i32], panel: &[u8], out: &mut Tile) {
    x.check(rows, panel, Q4_BLOCK);
    assert!(offsets.len() >= rows * x.blocks, "a tile beyond its offsets");
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx2 => unsafe { with_rows!(rows, avx2::q4, x, offsets, panel, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above, of NEON.
        Isa::Neon => unsafe { with_rows!(rows, neon::long::q4, x, offsets, panel, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above, of SDOT.
        Isa::NeonDot => unsafe { with_rows!(rows, neon::dot::q4, x, offsets, panel, out) },
        Isa::Compiled => with_rows!(rows, plain::q4, x, offsets, panel, out),
    }
}

/// `out[r][o] = Σ x[r][i] · w[i][o]` of a panel in `bf16`; `x` is `[rows, width]` with an even width.
///
/// # Panics
/// As [`q8`].
pub(super) fn bf16(isa: Isa, rows: usize, x: &[f32], panel: &[u8], out: &mut Tile) {
    let width = panel.len() / (2 * PANEL);
    assert!(
        (1..=MOST_ROWS).contains(&rows) && width.is_multiple_of(2) && x.len() >= rows * width,
        "a tile beyond its matrix"
    );
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx2 => unsafe { with_rows!(rows, avx2::bf16, x, panel, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above, of NEON.
        Isa::Neon | Isa::NeonDot => unsafe { with_rows!(rows, neon::bf16, x, panel, out) },
        Isa::Compiled => with_rows!(rows, plain::bf16, x, panel, out),
    }
}

#[cfg(test)]
mod tests;
