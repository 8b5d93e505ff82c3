//! The innermost loops: some rows of activations times a panel of weights.
//!
//! Sums of integers are exact; those of f32 run over the blocks in order, each multiplication and addition rounded by itself.
//! So `q8` and `q4` give the same bits on every machine and for every number of rows. `bf16` gives the same bits for every number
//! of rows; how its products are rounded depends on whether the machine multiplies and adds at once.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod plain;

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
    /// What the program was compiled for: on aarch64 that is NEON.
    Compiled,
}

impl Isa {
    /// The widest of this machine that there is a loop for.
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Self::Avx2;
        }
        Self::Compiled
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
        Isa::Compiled => with_rows!(rows, plain::bf16, x, panel, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a panel that look like one: any integers, scales that are ordinary numbers.
    fn panel(blocks: usize, block_bytes: usize) -> Vec<u8> {
        let values = block_bytes - 2 * PANEL;
        let byte = |at: usize| match at % block_bytes {
            // −128 is no value of `q8`.
            value if value < values => ((at * 7919 + at / 7) % 255 + 129) as u8,
            scale if scale % 2 == 1 => 0x3c,
            _ => (at * 31) as u8,
        };
        (0..blocks * block_bytes).map(byte).collect()
    }

    fn every() -> Vec<Isa> {
        let mut all = vec![Isa::Compiled];
        if Isa::here() != Isa::Compiled {
            all.push(Isa::here());
        }
        all
    }

    #[test]
    fn integers_give_the_same_bits_with_all_instructions_and_numbers_of_rows() {
        let blocks = 5;
        let values: Vec<i16> = (0..MOST_ROWS * blocks * BLOCK)
            .map(|at| ((at * 6151) % 255) as i16 - 127)
            .collect();
        let bytes: Vec<i8> = values.iter().map(|&value| value as i8).collect();
        let scales: Vec<f32> = (0..MOST_ROWS * blocks)
            .map(|at| 0.01 + at as f32 * 1e-3)
            .collect();
        let offsets: Vec<i32> = values
            .chunks(BLOCK)
            .map(|block| -8 * block.iter().map(|&v| i32::from(v)).sum::<i32>())
            .collect();
        let (wide, narrow) = (panel(blocks, Q8_BLOCK), panel(blocks, Q4_BLOCK));
        let mut want: Option<[Tile; 2]> = None;
        for isa in every() {
            for rows in (1..=MOST_ROWS).rev() {
                let mut got = [[[f32::NAN; PANEL]; MOST_ROWS]; 2];
                let x = Blocks {
                    values: &values,
                    scales: &scales,
                    blocks,
                };
                q8(isa, rows, x, &wide, &mut got[0]);
                let x = Blocks {
                    values: &bytes,
                    scales: &scales,
                    blocks,
                };
                q4(isa, rows, x, &offsets, &narrow, &mut got[1]);
                let want = want.get_or_insert(got);
                for (got, want) in got.iter().zip(&*want) {
                    assert_eq!(got[..rows], want[..rows], "{isa:?} {rows}");
                    assert!(got[rows..].iter().flatten().all(|value| value.is_nan()));
                }
            }
        }
    }

    #[test]
    fn largest_integers_do_not_overflow() {
        let blocks = 2;
        let wide = vec![0x81u8; blocks * Q8_BLOCK]; // −127
        let narrow = vec![0u8; blocks * Q4_BLOCK]; // −8
        let (x, offsets) = (
            vec![-127i16; blocks * BLOCK],
            vec![8 * 127 * BLOCK as i32; blocks],
        );
        let scales = vec![1.0; blocks];
        let mut wide = wide;
        let mut narrow = narrow;
        for (bytes, size) in [(&mut wide, Q8_BLOCK), (&mut narrow, Q4_BLOCK)] {
            for block in bytes.chunks_mut(size) {
                for scale in block[size - 2 * PANEL..].chunks_mut(2) {
                    scale.copy_from_slice(&[0x80, 0x3f]); // 1
                }
            }
        }
        for isa in every() {
            let mut out = [[0.0; PANEL]; MOST_ROWS];
            let rows = Blocks {
                values: &x,
                scales: &scales,
                blocks,
            };
            q8(isa, 1, rows, &wide, &mut out);
            assert_eq!(out[0], [(blocks * BLOCK * 127 * 127) as f32; PANEL], "{isa:?}");
            let bytes: Vec<i8> = x.iter().map(|&value| value as i8).collect();
            let rows = Blocks {
                values: &bytes,
                scales: &scales,
                blocks,
            };
            q4(isa, 1, rows, &offsets, &narrow, &mut out);
            assert_eq!(out[0], [(blocks * BLOCK * 127 * 8) as f32; PANEL], "{isa:?}");
            // 15 stands for 7.
            for block in narrow.chunks_mut(Q4_BLOCK) {
                block[..Q4_BLOCK - 2 * PANEL].fill(0xff);
            }
            q4(isa, 1, rows, &offsets, &narrow, &mut out);
            assert_eq!(out[0], [-((blocks * BLOCK * 127 * 7) as f32); PANEL], "{isa:?}");
            for block in narrow.chunks_mut(Q4_BLOCK) {
                block[..Q4_BLOCK - 2 * PANEL].fill(0);
            }
        }
    }

    #[test]
    fn rows_of_bf16_do_not_depend_on_each_other() {
        let width = 34;
        let x: Vec<f32> = (0..MOST_ROWS * width)
            .map(|at| (at as f32 * 0.37).sin())
            .collect();
        let panel: Vec<u8> = (0..width * 2 * PANEL)
            .map(|at| if at % 2 == 1 { 0x3e } else { (at * 31) as u8 })
            .collect();
        for isa in every() {
            let mut whole = [[0.0; PANEL]; MOST_ROWS];
            bf16(isa, MOST_ROWS, &x, &panel, &mut whole);
            for rows in 1..MOST_ROWS {
                let mut some = [[0.0; PANEL]; MOST_ROWS];
                bf16(isa, rows, &x[width..], &panel, &mut some);
                assert_eq!(some[..rows], whole[1..=rows], "{isa:?} {rows}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond its matrix")]
    fn a_tile_outside_its_panel_is_caught() {
        let x = Blocks {
            values: &[0i16; BLOCK][..],
            scales: &[0.0],
            blocks: 1,
        };
        q8(
            Isa::here(),
            1,
            x,
            &[0; Q8_BLOCK - 1],
            &mut [[0.0; PANEL]; MOST_ROWS],
        );
    }
}
