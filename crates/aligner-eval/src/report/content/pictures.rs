//! What is drawn.

use std::collections::BTreeMap;

use aligner_report::kit::Axis;
use aligner_report::kit::number::grouped;

use super::super::format;
use super::super::input::{Group, Report, Unit, Verdicts};
use super::{Drawing, Names, Picture, Span, Stack};
use crate::row::{Dimension, ScoreKind};
use crate::stats::Interval;

/// Verdicts of one dimension; nothing where none counts.
pub(super) fn verdicts(dimension: Dimension, rows: &[&Verdicts], names: Names) -> Option<Picture> {
    let counted: Vec<_> = rows.iter().filter(|row| row.tally.count() > 0).collect();
    let first = counted.first()?;
    let has_judges = counted.iter().any(|row| row.judge != first.judge);
    let stacks = counted.iter().map(|row| {
        let label = names.label(&row.group);
        let tally = row.tally;
        Stack {
            label: if has_judges {
                format!("{label} · {}", row.judge)
            } else {
                label
            },
            counts: [tally.wins, tally.ties, tally.losses],
            rate: row.win_rate.filter(is_finite),
        }
    });
    let about = if has_judges || first.judge.is_empty() {
        String::new()
    } else {
        format!("Judge: {}", first.judge)
    };
    let (file, title) = match dimension {
        Dimension::Helpful => ("win-rate-helpful.svg", "Is the correction more helpful?"),
        Dimension::Harmless => ("win-rate-harmless.svg", "Is the correction less harmful?"),
        Dimension::Honest => ("win-rate-honest.svg", "Is the correction more honest?"),
    };
    Some(Picture {
        file: file.into(),
        title: title.into(),
        about,
        drawing: Drawing::Stacks(stacks.collect()),
    })
}

/// A group's gain in the score of one model.
#[derive(Debug)]
pub(super) struct ScoreRow<'a> {
    pub group: &'a Group,
    /// Above 0 the correction is better, whatever the score means.
    pub gain: Interval,
    pub count: u64,
}

/// The differences of each scorer, with a heading and the title of their picture: rewards first.
pub(super) fn scores(report: &Report) -> Vec<(String, &'static str, Vec<ScoreRow<'_>>)> {
    let mut scores = BTreeMap::<_, Vec<ScoreRow<'_>>>::new();
    for row in &report.differences {
        let gain = row.gain();
        if is_finite(&gain) {
            scores.entry((row.kind, &row.scorer)).or_default().push(ScoreRow {
                group: &row.group,
                gain,
                count: row.count,
            });
        }
    }
    let scores = scores.into_iter().map(|((kind, scorer), mut rows)| {
        rows.sort_by_key(|row| row.group);
        let (heading, title) = match kind {
            ScoreKind::Reward => ("Helpfulness", "Reward of the correction less that of the answer"),
            ScoreKind::Cost => ("Harmlessness", "Cost of the answer less that of the correction"),
        };
        (format!("{heading}, scored by {scorer}"), title, rows)
    });
    scores.collect()
}

/// Gains on one axis. `number` counts the pictures of scores from 1.
pub(super) fn differences(
    number: usize,
    title: &str,
    rows: &[ScoreRow<'_>],
    names: Names,
) -> Option<Picture> {
    let ends = rows
        .iter()
        .flat_map(|row| [row.gain.low, row.gain.value, row.gain.high]);
    let axis = Axis::fitting(ends.chain([0.0]).collect())?;
    let size = format::largest(rows.iter().map(|row| row.gain.into()));
    let spans = rows.iter().filter_map(|row| {
        Some(Span {
            label: names.label(row.group),
            interval: row.gain,
            text: format::signed(row.gain, Unit::Plain, size)?,
        })
    });
    Some(Picture {
        file: format!("score-difference-{number}.svg"),
        title: title.into(),
        about: String::new(),
        drawing: Drawing::Spans(axis, spans.collect()),
    })
}

/// Edit ratios of each upstream and Aligner, over all data sets.
pub(super) fn edit_ratios(report: &Report) -> Option<Picture> {
    let mut sums = BTreeMap::<_, Vec<u64>>::new();
    for each in &report.edit_ratios {
        let group = &each.group;
        // Histograms with different bins cannot be added up.
        let sum = sums
            .entry((&group.upstream, &group.aligner, each.counts.len()))
            .or_default();
        sum.resize(each.counts.len(), 0);
        sum.iter_mut()
            .zip(&each.counts)
            .for_each(|(sum, count)| *sum += count);
    }
    sums.retain(|_, counts| counts.iter().any(|count| *count > 0));
    let has_aligners = sums
        .keys()
        .any(|(_, aligner, _)| sums.keys().any(|(_, other, _)| aligner != other));
    let total: u64 = sums.values().flatten().sum();
    let histograms = sums.into_iter().map(|((upstream, aligner, _), counts)| {
        let label = if has_aligners {
            format!("{upstream} · {aligner}")
        } else {
            upstream.clone()
        };
        (label, counts)
    });
    let histograms: Vec<_> = histograms.collect();
    (!histograms.is_empty()).then(|| Picture {
        file: "edit-ratio.svg".into(),
        title: "Edit ratio".into(),
        about: format!(
            "How many of the {} corrections changed which share of the words: 0 % is a copy of the answer, at 100 % no word \
             was kept.",
            grouped(total)
        ),
        drawing: Drawing::Histograms(histograms),
    })
}

fn is_finite(interval: &Interval) -> bool {
    [interval.value, interval.low, interval.high]
        .iter()
        .all(|value| value.is_finite())
}
