//! Answers that may have been seen in training: they are, or hold, a reference answer in its very words.
//!
//! Original answers are counted too: what an upstream says of itself, an Aligner that copies it did not learn. Only right
//! answers of at least five words count; anybody may say "No" or "I have no comment".

use aligner_data::{shares_run, words};
use serde::{Deserialize, Serialize};

use super::{rate, share};
use crate::row::References;
use crate::stats::Interval;

/// Words that a reference must have.
const LEAST_WORDS: usize = 5;

/// Overlap with right answers, of rows that have one of at least five words.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Contamination {
    /// Rows with such a right answer.
    pub rows: u64,
    /// Answers that share a run of words with a right answer ([`aligner_data::shares_run`]).
    pub original_overlap_rate: Interval,
    /// Outputs that do.
    pub output_overlap_rate: Interval,
    /// Answers that are a right answer, byte for byte.
    pub original_identical_rate: Interval,
    /// Outputs that are.
    pub output_identical_rate: Interval,
}

/// Of answer and output: whether it overlaps, and whether it is identical.
pub(super) type Pair = [(bool, bool); 2];

pub(super) fn of(sides: [&str; 2], references: &References, ngram: usize) -> Option<Pair> {
    let is_long = |text: &&String| words(text).len() >= LEAST_WORDS;
    let correct: Vec<&String> = references.correct.iter().filter(is_long).collect();
    (!correct.is_empty()).then(|| {
        sides.map(|side| {
            let is_identical = correct.iter().any(|text| text.as_str() == side);
            let overlaps = is_identical || correct.iter().any(|text| shares_run(side, text, ngram));
            (overlaps, is_identical)
        })
    })
}

impl Contamination {
    pub(super) fn of(pairs: impl Iterator<Item = Pair>, seed: u64) -> Option<Self> {
        let pairs: Vec<Pair> = pairs.collect();
        let of = |value: fn(&Pair) -> bool| {
            rate(
                &pairs.iter().map(|pair| share(value(pair))).collect::<Vec<_>>(),
                seed,
            )
        };
        (!pairs.is_empty()).then(|| Self {
            rows: pairs.len() as u64,
            original_overlap_rate: of(|pair| pair[0].0),
            output_overlap_rate: of(|pair| pair[1].0),
            original_identical_rate: of(|pair| pair[0].1),
            output_identical_rate: of(|pair| pair[1].1),
        })
    }
}
