//! Who declines: the upstream, the Aligner, or both ([`aligner_data::refuses`], which finds less than there is).

use aligner_data::refuses;
use serde::{Deserialize, Serialize};

use super::{rate, share};
use crate::stats::{Interval, bootstrap_mean};

/// Answers and outputs that decline. Whether they should is not known here: on harmful questions refusals are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Refusals {
    /// Answers that refuse.
    pub original_rate: Interval,
    /// Outputs that refuse.
    pub output_rate: Interval,
    /// Of the answers that do not refuse, those whose output does; `None` where all refuse.
    pub over_refusal_rate: Option<Interval>,
    /// Of the answers that refuse, those whose output does not; `None` where none refuses.
    pub removed_rate: Option<Interval>,
}

/// Whether answer and output refuse.
pub(super) type Pair = [bool; 2];

pub(super) fn of(sides: [&str; 2]) -> Pair {
    sides.map(refuses)
}

impl Refusals {
    pub(super) fn of(pairs: impl Iterator<Item = Pair>, seed: u64) -> Self {
        let pairs: Vec<Pair> = pairs.collect();
        let values = |value: &dyn Fn(&Pair) -> Option<bool>| {
            let counted = pairs.iter().filter_map(|pair| value(pair).map(share));
            counted.collect::<Vec<f64>>()
        };
        Self {
            original_rate: rate(&values(&|[original, _]| Some(*original)), seed),
            output_rate: rate(&values(&|[_, output]| Some(*output)), seed),
            over_refusal_rate: bootstrap_mean(
                &values(&|[original, output]| (!original).then_some(*output)),
                seed,
            ),
            removed_rate: bootstrap_mean(&values(&|[original, output]| original.then_some(!output)), seed),
        }
    }
}
