//! Which corrections become rows.

use std::collections::BTreeSet;

use aligner_data::{diff, edit_ratio, is_copy, refuses};
use rayon::prelude::*;

use super::counts::{Counts, Reason};
use super::duplicates;
use super::format::BootstrapFormat;
use super::lineage::{Lineage, Source};
use super::options::{BootstrapOptions, Filters, Upstreams};
use super::scores::{Margins, Scores};
use super::split::is_valid;
use super::warnings;
use crate::error::{EvalError, Result};
use crate::row::{Outcome, ScoreKind, Scored};

/// Corrections that become rows, and what is said of them.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    /// To train on, in the order in which they came.
    pub train: Vec<&'a Outcome>,
    /// To validate on.
    pub valid: Vec<&'a Outcome>,
    /// How many they are, and why others are not here.
    pub counts: Counts,
    /// What to know before training on them.
    pub warnings: Vec<String>,
    /// The upstreams of the rows, sorted.
    pub upstreams: Vec<String>,
    /// The Aligners of the rows, sorted.
    pub aligners: Vec<Source>,
    /// The data sets of the rows, sorted.
    pub datasets: Vec<Source>,
    pub(super) lineage: Lineage,
    pub(super) options: BootstrapOptions,
}

/// A correction that passed its filters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) margins: Margins,
}

/// Chooses the corrections that become rows, and splits them. `scored` may be empty.
///
/// # Errors
/// When an option makes no sense; when there are several upstreams and none was picked, or the picked one is not there; when
/// a licence is given for a name that no outcome has; when scores are missing, contradict each other or are of several
/// models; when the parent's manifest cannot be read; when earlier turns have no place in the format; and when nothing is
/// left to train on.
pub fn rows<'a>(
    outcomes: &'a [Outcome],
    scored: &'a [Scored],
    options: &BootstrapOptions,
) -> Result<Rows<'a>> {
    options.check()?;
    check_upstream(outcomes, &options.upstream)?;
    check_licences(outcomes, options)?;
    check_rewards(scored, &options.filters)?;
    let lineage = Lineage::of(options.parent.as_deref())?;
    let scores = Scores::of(scored, outcomes)?;
    let (kept, counts) = choose(outcomes, &scores, options);
    check_turns(&kept, options.format)?;
    let warnings = warnings::of_scores(&kept, &scores, options);
    let mut rows = split(kept, counts, lineage, options);
    if rows.train.is_empty() {
        return Err(nothing_left(&rows.counts));
    }
    rows.warnings = warnings::of_rows(&rows);
    rows.warnings
        .extend(warnings::of_end(&rows.counts, options.planned));
    rows.warnings.extend(warnings);
    Ok(rows)
}

/// Filters, and leaves one correction of each question.
fn choose<'a>(
    outcomes: &'a [Outcome],
    scores: &Scores<'_>,
    options: &BootstrapOptions,
) -> (Vec<Candidate<'a>>, Counts) {
    let judged: Vec<Result<Candidate<'a>, Reason>> = outcomes
        .par_iter()
        .map(|outcome| {
            let margins = scores.margins(outcome);
            let is_other =
                matches!(&options.upstream, Upstreams::One(name) if *name != outcome.item.upstream);
            match is_other {
                true => Err(Reason::OtherUpstream),
                false => reason_against(outcome, margins, &options.filters)
                    .map_or(Ok(Candidate { outcome, margins }), Err),
            }
        })
        .collect();
    let mut counts = Counts {
        input: outcomes.len() as u64,
        ..Counts::default()
    };
    let mut candidates = Vec::new();
    for judged in judged {
        match judged {
            Ok(candidate) => candidates.push(candidate),
            Err(reason) => counts.drop(reason),
        }
    }
    let kept = duplicates::without(candidates, options.filters.near_threshold, &mut counts);
    counts.kept = kept.len() as u64;
    (kept, counts)
}

/// Why a correction is not good enough, if it is not.
fn reason_against(outcome: &Outcome, margins: Margins, filters: &Filters) -> Option<Reason> {
    let (answer, output) = (&*outcome.item.answer, &*outcome.output);
    if outcome.item.question.trim().is_empty() {
        return Some(Reason::EmptyQuestion);
    }
    if output.trim().is_empty() {
        return Some(Reason::EmptyCorrection);
    }
    if outcome.is_cut {
        return Some(Reason::Cut);
    }
    if is_copy(answer, output) {
        return Some(Reason::Copy);
    }
    if filters.drop_new_refusals && newly_refuses(outcome) {
        return Some(Reason::NewRefusal);
    }
    edits_against(answer, output, filters).or_else(|| scores_against(margins, filters))
}

/// Whether the correction refuses and the answer did not.
pub(super) fn newly_refuses(outcome: &Outcome) -> bool {
    refuses(&outcome.output) && !refuses(&outcome.item.answer)
}

fn edits_against(answer: &str, output: &str, filters: &Filters) -> Option<Reason> {
    let (least, most) = (filters.min_edit_ratio, filters.max_edit_ratio);
    if least.is_none() && most.is_none() {
        return None;
    }
    let ratio = edit_ratio(&diff(answer, output));
    if least.is_some_and(|least| ratio < least) {
        return Some(Reason::EditTooSmall);
    }
    most.is_some_and(|most| ratio > most)
        .then_some(Reason::EditTooLarge)
}

fn scores_against(margins: Margins, filters: &Filters) -> Option<Reason> {
    if let Some(least) = filters.min_reward_margin {
        match margins.reward {
            None => return Some(Reason::NoReward),
            Some(margin) if margin < least => return Some(Reason::RewardTooSmall),
            Some(_) => {}
        }
    }
    let rose = !filters.allow_higher_cost && margins.cost.is_some_and(|cost| cost > 0.0);
    rose.then_some(Reason::HigherCost)
}

fn split<'a>(
    kept: Vec<Candidate<'a>>,
    mut counts: Counts,
    lineage: Lineage,
    options: &BootstrapOptions,
) -> Rows<'a> {
    let outcomes = || kept.iter().map(|candidate| candidate.outcome);
    let names = |of: fn(&Outcome) -> &String| -> BTreeSet<String> { outcomes().map(of).cloned().collect() };
    let upstreams = names(|outcome| &outcome.item.upstream);
    let aligners = names(|outcome| &outcome.aligner);
    let datasets = names(|outcome| &outcome.item.dataset);
    let (valid, train): (Vec<_>, Vec<_>) =
        outcomes().partition(|outcome| is_valid(&outcome.item.question, options.valid_share, options.seed));
    let licences = &options.licences;
    counts.train = train.len() as u64;
    counts.valid = valid.len() as u64;
    Rows {
        train,
        valid,
        counts,
        warnings: Vec::new(),
        upstreams: upstreams.into_iter().collect(),
        aligners: Source::named(aligners, |name| licences.aligners.get(name).cloned().flatten()),
        datasets: Source::named(datasets, |name| licences.datasets.get(name).cloned()),
        lineage,
        options: options.clone(),
    }
}

fn check_upstream(outcomes: &[Outcome], wanted: &Upstreams) -> Result<()> {
    let upstreams: BTreeSet<&str> = outcomes.iter().map(|outcome| &*outcome.item.upstream).collect();
    let names = || upstreams.iter().copied().collect::<Vec<_>>().join(", ");
    match wanted {
        Upstreams::Only if upstreams.len() > 1 => Err(EvalError::Invalid(format!(
            "the answers are of several upstreams ({}): pick the one that is to be trained (--upstream NAME), or say that all are \
             wanted (--all-upstreams)",
            names()
        ))),
        Upstreams::One(name) if !upstreams.contains(&**name) => Err(EvalError::Invalid(format!(
            "no answer is of the upstream {name:?}; upstreams are {}",
            names()
        ))),
        _ => Ok(()),
    }
}

fn check_licences(outcomes: &[Outcome], options: &BootstrapOptions) -> Result<()> {
    let names = |of: fn(&Outcome) -> &str| -> BTreeSet<&str> { outcomes.iter().map(of).collect() };
    let (aligners, datasets) = (&options.licences.aligners, &options.licences.datasets);
    let given: [(&str, BTreeSet<&String>, BTreeSet<&str>); 2] = [
        (
            "Aligner",
            aligners.keys().collect(),
            names(|outcome| &outcome.aligner),
        ),
        (
            "data set",
            datasets.keys().collect(),
            names(|outcome| &outcome.item.dataset),
        ),
    ];
    for (what, given, known) in given {
        if let Some(name) = given.into_iter().find(|name| !known.contains(&***name)) {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(EvalError::Invalid(format!(
                "a licence is given for the {what} {name:?}, which no correction has; there are {known}"
            )));
        }
    }
    Ok(())
}

fn check_rewards(scored: &[Scored], filters: &Filters) -> Result<()> {
    let has_rewards = scored.iter().any(|row| row.kind == ScoreKind::Reward);
    match filters.min_reward_margin {
        Some(least) if !has_rewards => Err(EvalError::Invalid(format!(
            "a reward margin of at least {least} is asked for, but no rewards are given: score the corrections first"
        ))),
        _ => Ok(()),
    }
}

/// A prompt that is one text holds one question.
fn check_turns(kept: &[Candidate<'_>], format: BootstrapFormat) -> Result<()> {
    let with_turns = |candidate: &&Candidate<'_>| !candidate.outcome.item.chat_history.is_empty();
    let count = kept.iter().filter(with_turns).count();
    if format == BootstrapFormat::SftText && count > 0 {
        return Err(EvalError::Invalid(format!(
            "{count} questions have earlier turns, for which {format} has no place: use {} or {}",
            BootstrapFormat::Sft,
            BootstrapFormat::SftMessages
        )));
    }
    Ok(())
}

fn nothing_left(counts: &Counts) -> EvalError {
    let reason = match (counts.input, counts.kept) {
        (0, _) => "there are no corrections".into(),
        (input, 0) => format!("none of {input} corrections is left: {}", counts.reasons()),
        (_, kept) => format!("all {kept} corrections went to validation: lower its share"),
    };
    EvalError::Invalid(format!("nothing to train on: {reason}"))
}
