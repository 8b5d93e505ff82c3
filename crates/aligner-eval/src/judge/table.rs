//! Win rates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::combine::{PairVerdict, combine, sign};
use crate::error::Result;
use crate::row::{Dimension, Judgement, Verdict};
use crate::stats::{Interval, Tally, bootstrap_mean};

/// What a judge says of an Aligner behind an upstream, on one data set and in one dimension.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The data set.
    pub dataset: String,
    /// The upstream.
    pub upstream: String,
    /// The Aligner.
    pub aligner: String,
    /// What was asked about.
    pub dimension: Dimension,
    /// The judge.
    pub judge: String,
    /// Pairs by their verdicts, both orders taken together.
    pub tally: Tally,
    /// Of the ties, pairs of the same text.
    pub identical: u64,
    /// The win rate ω over pairs, from −1 to 1; `None` where no pair counts.
    pub win_rate: Option<Interval>,
    /// The two-sided sign test of wins against losses.
    pub sign_test_p: f64,
    /// Pairs whose two orders contradict; they are ties.
    pub contradictions: u64,
    /// Their share among the pairs that were read in both orders, those of the same text left out: how much the judge
    /// goes by the place. `None` where there are none.
    pub contradiction_share: Option<f64>,
    /// How often the answer that stood first was preferred, among the single verdicts that prefer one; 0.5 without bias.
    pub first_share: Option<f64>,
    /// Replies that could not be read, of each order singly.
    pub unread_replies: u64,
}

/// A row for each data set, upstream, Aligner, dimension and judge, sorted by them. Intervals are drawn from `seed`.
///
/// # Errors
/// When a pair was judged twice in one order, with different verdicts.
pub fn table(judgements: &[Judgement], seed: u64) -> Result<Vec<Row>> {
    let pairs = combine(judgements)?;
    let mut groups: BTreeMap<_, Vec<&PairVerdict>> = BTreeMap::new();
    for pair in &pairs {
        let key = (
            &pair.dataset,
            &pair.upstream,
            &pair.aligner,
            pair.dimension,
            &pair.judge,
        );
        groups.entry(key).or_default().push(pair);
    }
    Ok(groups.values().filter_map(|pairs| row(pairs, seed)).collect())
}

fn row(pairs: &[&PairVerdict], seed: u64) -> Option<Row> {
    let first = pairs.first()?;
    let tally = Tally::of(pairs.iter().map(|pair| pair.verdict));
    let consistent: Vec<bool> = pairs.iter().filter_map(|pair| pair.is_contradiction()).collect();
    let contradictions = consistent.iter().filter(|contradicts| **contradicts).count() as u64;
    // The correction stood first and won, or second and lost.
    let (mut for_first, mut for_second) = (0, 0);
    for pair in pairs {
        for sign in [
            sign(pair.correction_first),
            sign(pair.original_first).map(|sign| -sign),
        ] {
            for_first += u64::from(sign == Some(1));
            for_second += u64::from(sign == Some(-1));
        }
    }
    let is_unread = |verdict: &Option<Verdict>| *verdict == Some(Verdict::Unread);
    let orders = pairs
        .iter()
        .flat_map(|pair| [pair.original_first, pair.correction_first]);
    Some(Row {
        dataset: first.dataset.clone(),
        upstream: first.upstream.clone(),
        aligner: first.aligner.clone(),
        dimension: first.dimension,
        judge: first.judge.clone(),
        tally,
        identical: pairs.iter().filter(|pair| pair.is_identical).count() as u64,
        win_rate: bootstrap_mean(&tally.values(), seed),
        sign_test_p: tally.sign_test(),
        contradictions,
        contradiction_share: share(contradictions, consistent.len() as u64),
        first_share: share(for_first, for_first + for_second),
        unread_replies: orders.filter(is_unread).count() as u64,
    })
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
