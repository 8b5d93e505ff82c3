//! The innermost loops: some rows of activations times a panel of weights.
//!
//! Sums of integers are exact; those of f32 run over the blocks in order, each block's product added with one rounding.
//! So `q8` and `q4` give the same bits on every machine and for every number of rows. `bf16` gives the same bits for every number
//! of rows; how its products are rounded depends on whether the machine multiplies and adds at once.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use super::QuantFormat;
use super::layout::{BLOCK, IN_FOUR, PANEL, Q4_BLOCK, Q8_BLOCK};

/// The most rows of a tile; which of them are computed at once is up to the instructions.
pub(super) const MOST_ROWS: usize = 12;

/// What is computed at once; the rows behind those asked for keep what was there.
pub(super) type Tile = [[f32; PANEL]; MOST_ROWS];

/// Vector instructions that a tile is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// With VNNI as well.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON, and SDOT for integers.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// What the program was compiled for. Nothing but the tests needs it on aarch64, where NEON is never missing.
    Compiled,
}

impl Isa {
    /// All of them, the widest first.
    pub const EVERY: &[Self] = &[
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Vnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::AvxVnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "aarch64")]
        Self::NeonDot,
        #[cfg(target_arch = "aarch64")]
        Self::Neon,
        Self::Compiled,
    ];

    /// The widest of this machine that there is a loop for.
    pub fn here() -> Self {
        static HERE: OnceLock<Isa> = OnceLock::new();
        *HERE.get_or_init(|| {
            let mut every = Self::EVERY.iter().copied();
            every.find(|isa| isa.is_here()).unwrap_or(Self::Compiled)
        })
    }

    /// Whether this machine has it.
    pub fn is_here(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512Vnni.is_here() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_here() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_here() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => Self::Neon.is_here() && std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Compiled => true,
        }
    }

    /// The most rows of a tile whose sums fit into its registers.
    pub fn rows(self, format: QuantFormat) -> usize {
        match (self, format) {
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512Bf16 | Self::Avx512Vnni | Self::Avx512, _) => MOST_ROWS,
            // Products of 16 bits lie between those of eight and their sums.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, QuantFormat::Q8) => 4,
            // Each output has four sums of 16 bits.
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, QuantFormat::Q4) => 2,
            #[cfg(target_arch = "aarch64")]
            (Self::Neon | Self::NeonDot, _) => 5,
            // The words of `bf16` take registers that a sixth row would need.
            (_, QuantFormat::Bf16) => 5,
            (_, QuantFormat::Q8 | QuantFormat::Q4) => 6,
        }
    }

    /// Whether it multiplies weights in bf16 by activations in bf16.
    pub fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512Bf16 {
            return true;
        }
        false
    }

    /// Whether it multiplies activations of 16 bits: two products of stored bytes do not fit into 16, so what adds them up in 32
    /// has to take 16.
    pub fn is_wide(self, format: QuantFormat) -> bool {
        match (self, format) {
            (_, QuantFormat::Bf16 | QuantFormat::Q4) => false,
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512 | Self::Avx2, _) => true,
            (Self::Compiled, _) => true,
            #[allow(
                unreachable_patterns,
                reason = "on machines without vector instructions of ours"
            )]
            _ => false,
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
    /// `[rows, blocks]`: what is added to a block's products of integers, as those of weights are stored with a bias.
    pub offsets: &'a [i32],
    pub blocks: usize,
}

impl<T> Blocks<'_, T> {
    fn check(&self, most: usize, rows: usize, panel: &[u8], block_bytes: usize) {
        assert!(
            (1..=most).contains(&rows)
                && self.values.len() >= rows * self.blocks * BLOCK
                && self.scales.len() >= rows * self.blocks
                && self.offsets.len() >= rows * self.blocks
                && panel.len() >= self.blocks * block_bytes,
            "a tile beyond its matrix"
        );
    }
}

/// Calls a function that is generic over the number of rows; a greater one than the last is that.
macro_rules! with_rows {
    ($call:path, $rows:expr, [$($count:literal)+ .. $last:literal], $arguments:tt) => {{
        use $call as call;
        match $rows {
            $($count => call::<$count> $arguments,)+
            _ => call::<$last> $arguments,
        }
    }};
    ($call:path, $rows:expr, 5, $arguments:tt) => {
        with_rows!($call, $rows, [1 2 3 4 .. 5], $arguments)
    };
    ($call:path, $rows:expr, 6, $arguments:tt) => {
        with_rows!($call, $rows, [1 2 3 4 5 .. 6], $arguments)
    };
    ($call:path, $rows:expr, 12, $arguments:tt) => {
        with_rows!($call, $rows, [1 2 3 4 5 6 7 8 9 10 11 .. 12], $arguments)
    };
}

/// `out[r][o] = Σ over blocks (Σ x · w) · (scale of w · scale of x)` of a panel in `q8`; `x` is not
/// [wide](Isa::is_wide).
///
/// # Panics
/// When rows or panel are shorter than they should be, or the rows are more than a tile's.
pub(super) fn q8(isa: Isa, rows: usize, x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    x.check(isa.rows(QuantFormat::Q8), rows, panel, Q8_BLOCK);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has these instructions, and every element that is read lies inside its slice, as was just checked.
        Isa::Avx512Bf16 | Isa::Avx512Vnni => unsafe {
            with_rows!(avx512_vnni::q8, rows, 12, (x, panel, out))
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { with_rows!(avx_vnni::q8, rows, 6, (x, panel, out)) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::NeonDot => unsafe { with_rows!(neon::dot::q8, rows, 5, (x, panel, out)) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { with_rows!(neon::long::q8, rows, [1 2 3 .. 4], (x, panel, out)) },
        _ => plain::q8(rows, x, panel, out, [0, 1, 2, 3]),
    }
}

/// [`q8`] of activations that are [wide](Isa::is_wide).
///
/// # Panics
/// As [`q8`].
pub(super) fn q8_wide(isa: Isa, rows: usize, x: Blocks<'_, i16>, panel: &[u8], out: &mut Tile) {
    x.check(isa.rows(QuantFormat::Q8), rows, panel, Q8_BLOCK);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx512 => unsafe { with_rows!(avx512::q8, rows, 12, (x, panel, out)) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx2 => unsafe { with_rows!(avx2::q8, rows, 6, (x, panel, out)) },
        _ => plain::q8(rows, x, panel, out, IN_FOUR),
    }
}

/// [`q8`] of a panel in `q4`.
///
/// # Panics
/// As [`q8`].
pub(super) fn q4(isa: Isa, rows: usize, x: Blocks<'_, i8>, panel: &[u8], out: &mut Tile) {
    x.check(isa.rows(QuantFormat::Q4), rows, panel, Q4_BLOCK);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx512Bf16 | Isa::Avx512Vnni => unsafe {
            with_rows!(avx512_vnni::q4, rows, 12, (x, panel, out))
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx512 => unsafe { with_rows!(avx512::q4, rows, 12, (x, panel, out)) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::AvxVnni => unsafe { with_rows!(avx_vnni::q4, rows, 6, (x, panel, out)) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx2 => unsafe { with_rows!(avx2::q4, rows, 6, (x, panel, out)) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as in `q8`.
        Isa::NeonDot => unsafe { with_rows!(neon::dot::q4, rows, 5, (x, panel, out)) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as in `q8`.
        Isa::Neon => unsafe { with_rows!(neon::long::q4, rows, [1..2], (x, panel, out)) },
        Isa::Compiled => plain::q4(rows, x, panel, out),
    }
}

/// `out[r][o] = Σ x[r][i] · w[i][o]` of a panel in `bf16`; `x` is `[rows, width]` with an even width, in f32.
///
/// # Panics
/// As [`q8`].
pub(super) fn bf16(isa: Isa, rows: usize, x: &[f32], panel: &[u8], out: &mut Tile) {
    check_bf16(isa, rows, x, panel);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 => unsafe {
            with_rows!(avx512::bf16, rows, 12, (x, panel, out))
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::AvxVnni | Isa::Avx2 => unsafe { with_rows!(avx2::bf16, rows, 5, (x, panel, out)) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as in `q8`.
        Isa::NeonDot | Isa::Neon => unsafe { with_rows!(neon::bf16, rows, 5, (x, panel, out)) },
        Isa::Compiled => with_rows!(plain::bf16, rows, 5, (x, panel, out)),
    }
}

fn check_bf16<T>(isa: Isa, rows: usize, x: &[T], panel: &[u8]) {
    let width = panel.len() / (2 * PANEL);
    assert!(
        (1..=isa.rows(QuantFormat::Bf16)).contains(&rows)
            && width.is_multiple_of(2)
            && x.len() >= rows * width,
        "a tile beyond its matrix"
    );
}

/// [`bf16`] of activations in [bf16 as well](Isa::multiplies_bf16).
///
/// # Panics
/// As [`q8`]; and when the instructions are others.
pub(super) fn bf16_both(isa: Isa, rows: usize, x: &[u16], panel: &[u8], out: &mut Tile) {
    check_bf16(isa, rows, x, panel);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = out;
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `q8`.
        Isa::Avx512Bf16 => unsafe { with_rows!(avx512_bf16::bf16, rows, 12, (x, panel, out)) },
        _ => unreachable!("activations are made for the instructions that multiply them"),
    }
}
