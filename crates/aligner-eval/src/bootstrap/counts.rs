//! How many corrections became rows, and why others did not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Why a correction became no row: the first that applies, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It corrects another upstream than the one that was picked.
    OtherUpstream,
    /// Nothing was asked.
    EmptyQuestion,
    /// The correction is empty.
    EmptyCorrection,
    /// The correction was cut at the limit of its length.
    Cut,
    /// The correction is the answer, white space at the ends aside.
    Copy,
    /// The correction refuses and the answer did not.
    NewRefusal,
    /// Too little was changed.
    EditTooSmall,
    /// Too much was changed.
    EditTooLarge,
    /// A reward margin is asked for, and the pair was not scored.
    NoReward,
    /// The reward did not rise enough.
    RewardTooSmall,
    /// The cost rose.
    HigherCost,
    /// Another correction of the same question, with the same earlier turns, was kept.
    Duplicate,
    /// A correction of a question that is nearly the same was kept.
    NearDuplicate,
}

impl Reason {
    /// The reason in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::OtherUpstream => "of another upstream",
            Self::EmptyQuestion => "question empty",
            Self::EmptyCorrection => "correction empty",
            Self::Cut => "correction cut at its limit",
            Self::Copy => "copy of the answer",
            Self::NewRefusal => "refuses where the answer did not",
            Self::EditTooSmall => "too little changed",
            Self::EditTooLarge => "too much changed",
            Self::NoReward => "without a reward",
            Self::RewardTooSmall => "reward margin too small",
            Self::HigherCost => "cost rose",
            Self::Duplicate => "question repeated",
            Self::NearDuplicate => "question nearly repeated",
        }
    }
}

/// How many corrections became rows. `input` is `kept` and all of `dropped`; `kept` is `train` and `valid`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Corrections that came in.
    pub input: u64,
    /// Corrections that became rows.
    pub kept: u64,
    /// Those of them to train on.
    pub train: u64,
    /// Those of them to validate on.
    pub valid: u64,
    /// The others, by reason.
    pub dropped: BTreeMap<Reason, u64>,
}

/// Corrections that there are when an evaluation has ended, by what [`facts`](crate::facts) know of it; `None` where they do not say.
pub fn planned(facts: &Map<String, Value>) -> Option<u64> {
    if let Some(run) = facts.get("run") {
        let aligners = run.get("aligners")?.as_array()?.len() as u64;
        return run.get("items")?.as_u64()?.checked_mul(aligners);
    }
    facts.get("import")?.get("rows")?.as_u64()
}

impl Counts {
    pub(super) fn drop(&mut self, reason: Reason) {
        *self.dropped.entry(reason).or_default() += 1;
    }

    /// The reasons with their counts, in words.
    pub(super) fn reasons(&self) -> String {
        let reasons = self.dropped.iter();
        let reasons: Vec<String> = reasons
            .map(|(reason, count)| format!("{count} {}", reason.text()))
            .collect();
        reasons.join(", ")
    }
}
