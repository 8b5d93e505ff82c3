//! One verdict of two orders.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::plan::IDENTICAL;
use crate::error::{EvalError, Result};
use crate::row::{Dimension, Judgement, Verdict};

/// What a judge says of a pair, both orders taken together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairVerdict {
    /// [`Judgement::id`].
    pub id: String,
    /// [`Judgement::dataset`].
    pub dataset: String,
    /// [`Judgement::upstream`].
    pub upstream: String,
    /// [`Judgement::aligner`].
    pub aligner: String,
    /// What was asked about.
    pub dimension: Dimension,
    /// The judge.
    pub judge: String,
    /// The verdict with the original first; `None` where there is none.
    pub original_first: Option<Verdict>,
    /// The verdict with the correction first.
    pub correction_first: Option<Verdict>,
    /// What they come to.
    pub verdict: Verdict,
    /// Whether the texts were the same and nobody was asked.
    pub is_identical: bool,
}

impl PairVerdict {
    /// Whether the two orders contradict: one says win, the other loss. `None` where they do not both say something, or
    /// nobody was asked.
    pub fn is_contradiction(&self) -> Option<bool> {
        let [one, other] = [sign(self.original_first)?, sign(self.correction_first)?];
        (!self.is_identical).then_some(one * other < 0)
    }
}

/// Combines the two orders of each pair, in the order in which the pairs come.
///
/// # Errors
/// When a pair was judged twice in one order, with different verdicts.
pub fn combine(judgements: &[Judgement]) -> Result<Vec<PairVerdict>> {
    let mut pairs: Vec<PairVerdict> = Vec::new();
    let mut places = HashMap::new();
    for (judgement, row) in judgements.iter().zip(1_u64..) {
        let key = (
            [
                &judgement.dataset,
                &judgement.upstream,
                &judgement.aligner,
                &judgement.id,
                &judgement.judge,
            ],
            judgement.dimension,
        );
        let at = *places.entry(key).or_insert_with(|| {
            pairs.push(without_verdict(judgement));
            pairs.len() - 1
        });
        let pair = &mut pairs[at];
        let order = match judgement.correction_first {
            true => &mut pair.correction_first,
            false => &mut pair.original_first,
        };
        if order.is_some_and(|earlier| earlier != judgement.verdict) {
            return Err(repeated(judgement, row));
        }
        *order = Some(judgement.verdict);
        pair.is_identical &= judgement.verdict == Verdict::Tie && judgement.said == IDENTICAL;
    }
    for pair in &mut pairs {
        pair.verdict = both(pair.original_first, pair.correction_first);
    }
    Ok(pairs)
}

fn without_verdict(judgement: &Judgement) -> PairVerdict {
    PairVerdict {
        id: judgement.id.clone(),
        dataset: judgement.dataset.clone(),
        upstream: judgement.upstream.clone(),
        aligner: judgement.aligner.clone(),
        dimension: judgement.dimension,
        judge: judgement.judge.clone(),
        original_first: None,
        correction_first: None,
        verdict: Verdict::Unread,
        is_identical: true,
    }
}

fn repeated(judgement: &Judgement, row: u64) -> EvalError {
    EvalError::Invalid(format!(
        "judgement {row} (data set {:?}, upstream {:?}, Aligner {:?}, id {:?}, {}) gives another verdict than an earlier one \
         of the same order and judge: keep one of them",
        judgement.dataset, judgement.upstream, judgement.aligner, judgement.id, judgement.dimension,
    ))
}

/// The sign of the sum.
fn both(one: Option<Verdict>, other: Option<Verdict>) -> Verdict {
    let signs: Vec<i32> = [one, other].into_iter().filter_map(sign).collect();
    match signs.iter().sum::<i32>().signum() {
        _ if signs.is_empty() => Verdict::Unread,
        1 => Verdict::Win,
        -1 => Verdict::Loss,
        _ => Verdict::Tie,
    }
}

/// A verdict as a number; `None` where none was read.
pub(super) fn sign(verdict: Option<Verdict>) -> Option<i32> {
    match verdict? {
        Verdict::Win => Some(1),
        Verdict::Tie => Some(0),
        Verdict::Loss => Some(-1),
        Verdict::Unread => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Loss, Tie, Unread, Win};
    use super::*;

    fn judgement(correction_first: bool, verdict: Verdict) -> Judgement {
        Judgement {
            fingerprint: String::new(),
            id: "1".into(),
            dataset: "d".into(),
            upstream: "u".into(),
            aligner: "a".into(),
            dimension: Dimension::Helpful,
            correction_first,
            verdict,
            judge: "m".into(),
            said: "…".into(),
        }
    }

    #[test]
    fn two_orders_make_one_verdict() {
        for (one, other, expected, contradicts) in [
            (Win, Win, Win, Some(false)),
            (Win, Tie, Win, Some(false)),
            (Win, Loss, Tie, Some(true)),
            (Win, Unread, Win, None),
            (Tie, Tie, Tie, Some(false)),
            (Tie, Loss, Loss, Some(false)),
            (Tie, Unread, Tie, None),
            (Loss, Loss, Loss, Some(false)),
            (Loss, Unread, Loss, None),
            (Unread, Unread, Unread, None),
        ] {
            for (one, other) in [(one, other), (other, one)] {
                let pairs = combine(&[judgement(false, one), judgement(true, other)]).unwrap();
                assert_eq!(pairs.len(), 1);
                assert_eq!(pairs[0].verdict, expected, "{one:?} {other:?}");
                assert_eq!(pairs[0].is_contradiction(), contradicts, "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_single_order_counts_and_a_repeated_one_must_agree() {
        assert_eq!(combine(&[judgement(true, Loss)]).unwrap()[0].verdict, Loss);
        assert_eq!(
            combine(&[judgement(true, Win), judgement(true, Win)]).unwrap()[0].verdict,
            Win
        );
        let error = combine(&[judgement(true, Win), judgement(true, Tie)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("judgement 2") && error.contains("id \"1\""),
            "{error}"
        );
    }

    #[test]
    fn judges_and_dimensions_are_kept_apart() {
        let mut rows = vec![
            judgement(false, Win),
            judgement(false, Loss),
            judgement(false, Tie),
        ];
        rows[1].judge = "other".into();
        rows[2].dimension = Dimension::Honest;
        let verdicts: Vec<Verdict> = combine(&rows).unwrap().iter().map(|pair| pair.verdict).collect();
        assert_eq!(verdicts, [Win, Loss, Tie]);
    }
}
