//! The order of rows: shuffled anew each epoch, in constant memory, with a position that can be saved.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::mixture::{Interleave, Share};

/// An order over `len` rows for every epoch.
///
/// A shuffled order is a keyed permutation, a Feistel network over the next even number of bits with cycle walking (Black
/// and Rogaway 2002, *Ciphers with Arbitrary Finite Domains*): any position is computed without a table, so ten million
/// rows cost no more memory than ten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    len: u64,
    shuffle: bool,
    mixture: Option<Interleave>,
}

/// A position in the sequence of epochs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes begun before this one.
    pub epoch: u64,
    /// Rows taken of this one.
    pub position: u64,
}

const ROUNDS: u64 = 6;

impl Order {
    /// An order; without `shuffle` every epoch goes through the rows as they are.
    pub fn new(seed: u64, len: usize, shuffle: bool) -> Self {
        Self {
            seed,
            len: len as u64,
            shuffle,
            mixture: None,
        }
    }

    /// An order that draws from several sources by weight; their rows are counted one source after the other.
    ///
    /// A source is passed through in an order of its own, all its rows before any comes again; a small one with a large
    /// weight begins anew sooner. An epoch is as many draws as all sources have rows. What is drawn is a function of seed,
    /// epoch and position, as without weights.
    ///
    /// # Errors
    /// When there is no source, one has no rows, or a weight is not a positive number.
    pub fn mixture(seed: u64, sources: &[Share], shuffle: bool) -> Result<Self> {
        let interleave = Interleave::new(seed, sources, shuffle)?;
        Ok(Self {
            seed,
            len: interleave.rows(),
            shuffle,
            mixture: Some(interleave),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The row at `position` (taken modulo the number of rows) of `epoch`; 0 when there is none.
    pub fn at(&self, epoch: u64, position: u64) -> usize {
        if self.len == 0 {
            return 0;
        }
        let position = position % self.len;
        if let Some(mixture) = &self.mixture {
            return mixture.row(epoch.saturating_mul(self.len).saturating_add(position));
        }
        if !self.shuffle || self.len == 1 {
            return position as usize;
        }
        let half_bits = (64 - (self.len - 1).leading_zeros()).div_ceil(2).max(1);
        let key = mix(self.seed ^ mix(epoch));
        let mut value = position;
        // At most four times as many values as rows: a few steps at most lead back among them.
        loop {
            value = feistel(value, half_bits, key);
            if value < self.len {
                return value as usize;
            }
        }
    }
}

impl Cursor {
    /// Takes the next row.
    pub fn next(&mut self, order: &Order) -> usize {
        if self.position >= order.len {
            self.epoch += 1;
            self.position = 0;
        }
        let row = order.at(self.epoch, self.position);
        self.position += 1;
        row
    }
}

fn feistel(value: u64, half_bits: u32, key: u64) -> u64 {
    let mask = (1u64 << half_bits) - 1;
    let (mut left, mut right) = (value >> half_bits, value & mask);
    for round in 0..ROUNDS {
        let scrambled = mix(right ^ key.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15))) & mask;
        (left, right) = (right, left ^ scrambled);
    }
    (left << half_bits) | right
}

/// SplitMix64's finaliser.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_epoch_takes_every_row_once(seed: u64, epoch: u64, len in 1usize..2000) {
            let order = Order::new(seed, len, true);
            let mut seen = vec![false; len];
            for position in 0..len as u64 {
                let row = order.at(epoch, position);
                prop_assert!(!std::mem::replace(&mut seen[row], true));
            }
        }
    }

    #[test]
    fn the_order_is_the_same_everywhere() {
        let order = Order::new(42, 10, true);
        let rows: Vec<usize> = (0..10).map(|position| order.at(0, position)).collect();
        assert_eq!(rows, GOLDEN);
    }

    /// Printed by this code on the day it was written: a change would reorder every resumed run.
    const GOLDEN: [usize; 10] = [3, 1, 9, 6, 8, 4, 5, 7, 2, 0];

    #[test]
    fn epochs_and_seeds_differ_and_file_order_does_not() {
        let rows = |seed, epoch, shuffle| {
            let order = Order::new(seed, 100, shuffle);
            (0..100)
                .map(|position| order.at(epoch, position))
                .collect::<Vec<_>>()
        };
        assert_ne!(rows(1, 0, true), rows(1, 1, true));
        assert_ne!(rows(1, 0, true), rows(2, 0, true));
        assert_eq!(rows(1, 7, false), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn rows_land_anywhere() {
        // Where row 0 lands over many epochs: each tenth of the positions about equally often.
        let mut tenths = [0u32; 10];
        for epoch in 0..10_000 {
            tenths[Order::new(3, 1000, true).at(epoch, 0) / 100] += 1;
        }
        assert!(
            tenths.iter().all(|&count| (900..1100).contains(&count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn a_saved_cursor_continues() {
        let order = Order::new(9, 7, true);
        let mut cursor = Cursor::default();
        let all: Vec<usize> = (0..20).map(|_| cursor.next(&order)).collect();
        let mut cursor = Cursor::default();
        let first: Vec<usize> = (0..9).map(|_| cursor.next(&order)).collect();
        let mut cursor: Cursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
        let rest: Vec<usize> = (0..11).map(|_| cursor.next(&order)).collect();
        assert_eq!([first, rest].concat(), all);
    }
}
