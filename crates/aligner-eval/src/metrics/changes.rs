//! How much an Aligner changes, and what it makes of its own outputs.

use aligner_data::{diff, edit_ratio, is_copy};
use serde::{Deserialize, Serialize};

use super::{rate, share};
use crate::row::Outcome;
use crate::stats::{Interval, bootstrap_mean};

/// Bins of the histogram.
const BINS: usize = 10;

/// How much longer outputs are than original answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthChange {
    /// Mean over rows of words of the output by words of the answer; answers without a word do not count.
    pub ratio: Option<Interval>,
    /// Mean characters of an answer.
    pub original_chars: f64,
    /// Mean characters of an output.
    pub output_chars: f64,
}

/// What an Aligner makes of its own outputs: a good one leaves them as they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SecondPass {
    /// Rows that were corrected twice.
    pub rows: u64,
    /// Second outputs that copy the first.
    pub copy_rate: Interval,
    /// Mean share of changed words from the first output to the second.
    pub edit_ratio: Interval,
}

/// One outcome's changes.
pub(super) struct Change {
    pub is_copy: bool,
    pub edit_ratio: f64,
    /// Words of the output by words of the answer.
    length_ratio: Option<f64>,
    /// Of answer and output.
    chars: [usize; 2],
    /// Whether the second output copies the first, and its edit ratio.
    second: Option<(bool, f64)>,
}

impl Change {
    pub(super) fn of(outcome: &Outcome) -> Self {
        let (answer, output) = (&outcome.item.answer, &outcome.output);
        let words = |text: &str| text.split_whitespace().count();
        let second = outcome.second_output.as_deref();
        Self {
            is_copy: is_copy(answer, output),
            edit_ratio: edit_ratio(&diff(answer, output)),
            length_ratio: (words(answer) > 0).then(|| words(output) as f64 / words(answer) as f64),
            chars: [answer, output].map(|text| text.chars().count()),
            second: second.map(|second| (is_copy(output, second), edit_ratio(&diff(output, second)))),
        }
    }
}

/// Rows by edit ratio.
pub(super) fn histogram(changes: &[&Change]) -> [u64; BINS] {
    let mut bins = [0; BINS];
    for change in changes {
        bins[((change.edit_ratio * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    bins
}

impl LengthChange {
    pub(super) fn of(changes: &[&Change], seed: u64) -> Self {
        let ratios: Vec<f64> = changes.iter().filter_map(|change| change.length_ratio).collect();
        let chars = |side: usize| {
            let sum: usize = changes.iter().map(|change| change.chars[side]).sum();
            sum as f64 / changes.len().max(1) as f64
        };
        Self {
            ratio: bootstrap_mean(&ratios, seed),
            original_chars: chars(0),
            output_chars: chars(1),
        }
    }
}

impl SecondPass {
    pub(super) fn of(changes: &[&Change], seed: u64) -> Option<Self> {
        let second: Vec<(bool, f64)> = changes.iter().filter_map(|change| change.second).collect();
        let values = |value: fn(&(bool, f64)) -> f64| second.iter().map(value).collect::<Vec<f64>>();
        (!second.is_empty()).then(|| Self {
            rows: second.len() as u64,
            copy_rate: rate(&values(|(is_copy, _)| share(*is_copy)), seed),
            edit_ratio: rate(&values(|(_, edit_ratio)| *edit_ratio), seed),
        })
    }
}
