//! One correction of each question.

use std::collections::HashMap;

use aligner_data::{Turn, near_questions};

use super::counts::{Counts, Reason};
use super::select::Candidate;

/// Leaves the best of each question, in the order in which they came.
pub(super) fn without<'a>(
    candidates: Vec<Candidate<'a>>,
    near_threshold: Option<f64>,
    counts: &mut Counts,
) -> Vec<Candidate<'a>> {
    let mut first: HashMap<Vec<&str>, usize> = HashMap::with_capacity(candidates.len());
    let firsts: Vec<usize> = candidates
        .iter()
        .enumerate()
        .map(|(at, candidate)| *first.entry(asked(candidate)).or_insert(at))
        .collect();
    let kept = best(candidates, &firsts, Reason::Duplicate, counts);
    let Some(threshold) = near_threshold else {
        return kept;
    };
    let questions: Vec<(&[Turn], &str)> = kept
        .iter()
        .map(|candidate| &candidate.outcome.item)
        .map(|item| (&*item.chat_history, &*item.question))
        .collect();
    let firsts = near_questions(&questions, threshold);
    best(kept, &firsts, Reason::NearDuplicate, counts)
}

/// The question and the texts before it.
fn asked<'a>(candidate: &Candidate<'a>) -> Vec<&'a str> {
    let item = &candidate.outcome.item;
    let turns = item.chat_history.iter();
    let texts = turns.flat_map(|turn| [&*turn.question, &*turn.answer]);
    std::iter::once(&*item.question).chain(texts).collect()
}

/// Leaves of each group the one with the largest reward margin, else the first. A group goes by the place of its first.
fn best<'a>(
    candidates: Vec<Candidate<'a>>,
    firsts: &[usize],
    reason: Reason,
    counts: &mut Counts,
) -> Vec<Candidate<'a>> {
    let margin = |at: usize| candidates[at].margins.reward.unwrap_or(f64::NEG_INFINITY);
    let mut bests: Vec<usize> = firsts.to_vec();
    for (at, &first) in firsts.iter().enumerate() {
        if margin(at) > margin(bests[first]) {
            bests[first] = at;
        }
    }
    let is_best: Vec<bool> = (0..firsts.len()).map(|at| bests[firsts[at]] == at).collect();
    candidates
        .into_iter()
        .zip(is_best)
        .filter(|(_, is_best)| {
            if !is_best {
                counts.drop(reason);
            }
            *is_best
        })
        .map(|(candidate, _)| candidate)
        .collect()
}
