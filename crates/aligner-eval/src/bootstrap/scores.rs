//! What scores say of each correction.

use std::collections::{BTreeSet, HashMap};

use crate::error::{EvalError, Result};
use crate::row::{Outcome, ScoreKind, Scored};

/// Names a pair: id, data set, upstream, Aligner.
type Key<'a> = [&'a str; 4];

/// By how much each pair's reward and cost rose.
#[derive(Debug, Default)]
pub(super) struct Scores<'a> {
    pairs: HashMap<Key<'a>, Margins>,
    /// Scores that belong to no pair.
    pub(super) unmatched: u64,
    pub(super) has_costs: bool,
}

/// By how much reward and cost of a pair rose, where they were scored.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Margins {
    pub(super) reward: Option<f64>,
    pub(super) cost: Option<f64>,
}

impl<'a> Scores<'a> {
    /// # Errors
    /// When scores are of several models, contradict each other, are no numbers, or cannot be told which pair they are of.
    pub(super) fn of(scored: &'a [Scored], outcomes: &'a [Outcome]) -> Result<Self> {
        let mut scores = Self::default();
        if scored.is_empty() {
            return Ok(scores);
        }
        let known = pairs(outcomes)?;
        one_scorer(scored)?;
        for row in scored {
            let key = [&*row.id, &*row.dataset, &*row.upstream, &*row.aligner];
            // A score of an earlier correction says nothing of this one.
            if known
                .get(&key)
                .is_none_or(|outcome| outcome.fingerprint() != row.fingerprint)
            {
                scores.unmatched += 1;
                continue;
            }
            scores.has_costs |= row.kind == ScoreKind::Cost;
            let margins = scores.pairs.entry(key).or_default();
            let place = match row.kind {
                ScoreKind::Reward => &mut margins.reward,
                ScoreKind::Cost => &mut margins.cost,
            };
            let margin = row.output - row.original;
            let name = || format!("{} {:?} of {}", kind(row.kind), row.id, row.dataset);
            if !margin.is_finite() {
                return Err(EvalError::Invalid(format!(
                    "the {} by {} is no number",
                    name(),
                    row.scorer
                )));
            }
            if place.replace(margin).is_some_and(|before| before != margin) {
                let reason = "is scored twice, differently: give the scores of one run";
                return Err(EvalError::Invalid(format!("the {} {reason}", name())));
            }
        }
        Ok(scores)
    }

    pub(super) fn margins(&self, outcome: &Outcome) -> Margins {
        self.pairs.get(&key(outcome)).copied().unwrap_or_default()
    }
}

fn key(outcome: &Outcome) -> Key<'_> {
    let item = &outcome.item;
    [&item.id, &item.dataset, &item.upstream, &outcome.aligner]
}

fn kind(kind: ScoreKind) -> &'static str {
    match kind {
        ScoreKind::Reward => "reward",
        ScoreKind::Cost => "cost",
    }
}

/// The pairs by their names. Two of one name would share a score that is of one of them.
fn pairs(outcomes: &[Outcome]) -> Result<HashMap<Key<'_>, &Outcome>> {
    let mut pairs: HashMap<Key<'_>, &Outcome> = HashMap::with_capacity(outcomes.len());
    for outcome in outcomes {
        if let Some(before) = pairs.insert(key(outcome), outcome)
            && (&before.item.answer, &before.output) != (&outcome.item.answer, &outcome.output)
        {
            let (id, dataset) = (&outcome.item.id, &outcome.item.dataset);
            return Err(EvalError::Invalid(format!(
                "two different corrections are called {id:?} of {dataset}, by the same Aligner and upstream: scores \
                 cannot tell them apart; give each its own id"
            )));
        }
    }
    Ok(pairs)
}

/// Rewards of different models have different scales.
fn one_scorer(scored: &[Scored]) -> Result<()> {
    for wanted in [ScoreKind::Reward, ScoreKind::Cost] {
        let of_kind = scored.iter().filter(|row| row.kind == wanted);
        let scorers: BTreeSet<&str> = of_kind.map(|row| &*row.scorer).collect();
        if scorers.len() > 1 {
            let (kind, names) = (kind(wanted), scorers.into_iter().collect::<Vec<_>>().join(", "));
            return Err(EvalError::Invalid(format!(
                "the {kind}s are of several models ({names}), whose scales differ: give the scores of one"
            )));
        }
    }
    Ok(())
}
