//! What becomes of the lengths: rows that do not fit, and the padding of other programs.
//!
//! Rows longer than the maximum length stop a run or are left out (they are never cut). Training here puts the others one
//! behind the other and computes no padding. A program that pads makes the rows of a micro-batch as long as its longest: the
//! forecast lays them out in the order in which a first epoch with the default seed takes them. One that packs puts several
//! rows into one of the maximum length (best fit, longest first); what stays free in it is its padding.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::order::Order;

/// The seed that `train` has by default.
const SEED: u64 = 42;

/// What a maximum length leaves out, and what padding and packing would cost a program that does them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// The longest row that is trained on, in tokens.
    pub max_length: usize,
    /// Rows longer than that.
    pub too_long_rows: u64,
    /// Their share, from 0 to 1.
    pub too_long_share: f64,
    /// All their tokens: what is lost when they are left out.
    pub too_long_tokens: u64,
    /// Maximum lengths that keep a share of the rows.
    pub keeps: Vec<Keeps>,
    /// Rows of a micro-batch that is padded.
    pub micro_batch: usize,
    /// Tokens of the rows that fit.
    pub tokens: u64,
    /// Tokens that a program that pads computes in an epoch.
    pub padded_tokens: u64,
    /// Share of those that is padding, from 0 to 1.
    pub padding: f64,
    /// Rows of the maximum length that packing would make.
    pub packed_rows: u64,
    /// Share of their tokens that would be padding.
    pub packed_padding: f64,
}

/// A maximum length and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Keeps {
    /// Percent of the rows.
    pub percent: u8,
    /// The least maximum length, in tokens, that keeps them.
    pub max_length: u32,
}

impl Forecast {
    /// Of the rows' lengths in tokens.
    pub fn of(lengths: &[u32], max_length: usize, micro_batch: usize) -> Self {
        let limit = u32::try_from(max_length).unwrap_or(u32::MAX);
        let fitting: Vec<u32> = lengths
            .iter()
            .copied()
            .filter(|length| *length <= limit)
            .collect();
        let sum = |lengths: &[u32]| lengths.iter().map(|length| u64::from(*length)).sum::<u64>();
        let tokens = sum(&fitting);
        let too_long_rows = (lengths.len() - fitting.len()) as u64;
        let padded_tokens = padded(&fitting, micro_batch.max(1));
        let packed_rows = packed(&fitting, limit);
        let waste = |room: u64| {
            if room == 0 {
                0.0
            } else {
                1.0 - tokens as f64 / room as f64
            }
        };
        Self {
            max_length,
            too_long_rows,
            too_long_share: too_long_rows as f64 / lengths.len().max(1) as f64,
            too_long_tokens: sum(lengths) - tokens,
            keeps: keeps(lengths),
            micro_batch: micro_batch.max(1),
            tokens,
            padded_tokens,
            padding: waste(padded_tokens),
            packed_rows,
            packed_padding: waste(packed_rows * u64::from(limit)),
        }
    }
}

fn keeps(lengths: &[u32]) -> Vec<Keeps> {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let at = |percent: u8| {
        let rank = (sorted.len() * usize::from(percent)).div_ceil(100).max(1);
        sorted
            .get(rank - 1)
            .map(|&max_length| Keeps { percent, max_length })
    };
    [90, 95, 99, 100].into_iter().filter_map(at).collect()
}

/// Tokens of an epoch in micro-batches, each as wide as its longest row.
fn padded(lengths: &[u32], micro_batch: usize) -> u64 {
    let order = Order::new(SEED, lengths.len(), true);
    let shuffled: Vec<u32> = (0..lengths.len() as u64)
        .map(|at| lengths[order.at(0, at)])
        .collect();
    let area = |rows: &[u32]| rows.len() as u64 * u64::from(rows.iter().copied().max().unwrap_or(0));
    shuffled.chunks(micro_batch).map(area).sum()
}

/// Rows of `limit` tokens that hold all: best fit, longest first.
fn packed(lengths: &[u32], limit: u32) -> u64 {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    // How many open rows have how much room.
    let mut open: BTreeMap<u32, u64> = BTreeMap::new();
    let mut rows = 0;
    for length in sorted {
        let room = match open.range(length..).next().map(|(&room, &count)| (room, count)) {
            Some((room, 1)) => {
                open.remove(&room);
                room
            }
            Some((room, count)) => {
                open.insert(room, count - 1);
                room
            }
            None => {
                rows += 1;
                limit
            }
        };
        *open.entry(room - length).or_default() += 1;
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_not_padded() {
        let forecast = Forecast::of(&[10, 10, 30, 101], 100, 4);
        assert_eq!(
            (forecast.too_long_rows, forecast.too_long_tokens, forecast.tokens),
            (1, 101, 50)
        );
        assert_eq!((forecast.too_long_share, forecast.padded_tokens), (0.25, 90));
        assert!((forecast.padding - 4.0 / 9.0).abs() < 1e-12);
        assert_eq!((forecast.packed_rows, forecast.packed_padding), (1, 0.5));
        let keeps: Vec<(u8, u32)> = forecast
            .keeps
            .iter()
            .map(|keeps| (keeps.percent, keeps.max_length))
            .collect();
        assert_eq!(keeps, [(90, 101), (95, 101), (99, 101), (100, 101)]);
        // A row of just the maximum length fits.
        assert_eq!(Forecast::of(&[100, 101], 100, 1).too_long_rows, 1);
    }

    #[test]
    fn padding_is_that_of_the_order_of_training() {
        let lengths: Vec<u32> = (1..=40).collect();
        let order = Order::new(42, 40, true);
        let mut want = 0;
        for batch in 0..10 {
            want += (0..4)
                .map(|row| lengths[order.at(0, batch * 4 + row)])
                .max()
                .unwrap()
                * 4;
        }
        assert_eq!(Forecast::of(&lengths, 64, 4).padded_tokens, u64::from(want));
        assert_eq!(Forecast::of(&lengths, 64, 1).padding, 0.0);
    }

    #[test]
    fn packing_fits_the_best() {
        // 60 + 40, 50 + 50, 70 + 30.
        assert_eq!(packed(&[40, 30, 50, 60, 70, 50], 100), 3);
        assert_eq!(packed(&[], 100), 0);
    }

    proptest! {
        #[test]
        fn padding_and_packing_are_shares(lengths in prop::collection::vec(1_u32..300, 0..80), limit in 0_usize..300, batch in 0_usize..9) {
            let forecast = Forecast::of(&lengths, limit, batch);
            prop_assert!((0.0..1.0).contains(&forecast.padding) && (0.0..1.0).contains(&forecast.packed_padding));
            let least = forecast.tokens.div_ceil(limit.max(1) as u64);
            prop_assert!(forecast.packed_rows >= least && forecast.packed_rows <= lengths.len() as u64);
            // Best fit, longest first needs at most 11/9 of the least number and one more.
            prop_assert!(forecast.packed_rows as f64 <= forecast.tokens as f64 * 2.0 / limit.max(1) as f64 + 1.0);
        }
    }
}
