//! What is told in which order.

use aligner_report::kit::number::grouped;

use super::super::changes::{Change, Changes};
use super::super::facts;
use super::super::input::Report;
use super::{Block, Names, Section, pictures, tables};
use crate::row::Dimension;

/// All dimensions, in the order of a report.
const DIMENSIONS: [Dimension; 3] = [Dimension::Helpful, Dimension::Harmless, Dimension::Honest];

/// What a dimension is called in a report.
fn dimension_name(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::Helpful => "Helpfulness",
        Dimension::Harmless => "Harmlessness",
        Dimension::Honest => "Honesty",
    }
}

pub(super) fn verdicts<'a>(report: &Report, names: Names) -> Section<'a> {
    let mut blocks = Vec::new();
    for dimension in DIMENSIONS {
        let all = report.verdicts.iter().filter(|each| each.dimension == dimension);
        let mut all: Vec<_> = all.filter(|each| each.tally != Default::default()).collect();
        all.sort_by(|a, b| (&a.group, &a.judge).cmp(&(&b.group, &b.judge)));
        if all.is_empty() {
            continue;
        }
        blocks.push(Block::Heading(dimension_name(dimension).into()));
        blocks.extend(pictures::verdicts(dimension, &all, names).map(Block::Picture));
        blocks.extend(tables::verdicts(&all, names).into_iter().map(Block::Grid));
    }
    Section {
        title: "What judges say",
        about: "ω = (wins − losses) / (wins + ties + losses): above 0 the correction is preferred to the answer. In parentheses \
                the interval that holds it in 95 of 100 cases; p is the two-sided sign test of wins against losses. \
                Contradictions: pairs that were judged differently with the texts in the other order. What could not be read \
                counts nowhere."
            .into(),
        blocks,
    }
}

pub(super) fn differences<'a>(report: &Report, names: Names) -> Section<'a> {
    let mut blocks = Vec::new();
    for (number, (heading, title, rows)) in pictures::scores(report).into_iter().enumerate() {
        blocks.push(Block::Heading(heading));
        blocks.extend(pictures::differences(number + 1, title, &rows, names).map(Block::Picture));
        blocks.extend(tables::differences(&rows, names).into_iter().map(Block::Grid));
    }
    Section {
        title: "What reward and cost models say",
        about: "By how much the corrections' scores differ from those of the answers, on average. Helpfulness is the \
                difference of rewards, harmlessness that of costs with its sign turned: above 0 the correction is better. \
                The scales are arbitrary."
            .into(),
        blocks,
    }
}

pub(super) fn text_metrics<'a>(report: &Report, names: Names) -> Section<'a> {
    let mut blocks = Vec::new();
    for table in &report.tables {
        let grids = tables::figures(table, names);
        if grids.is_empty() {
            continue;
        }
        blocks.push(Block::Heading(table.title.clone()));
        blocks.extend(grids.into_iter().map(Block::Grid));
        if !table.about.is_empty() {
            blocks.push(Block::Note(table.about.clone()));
        }
    }
    blocks.extend(pictures::edit_ratios(report).map(Block::Picture));
    Section {
        title: "What the texts say",
        about: "Without a judge. In parentheses the interval that holds a figure in 95 of 100 cases.".into(),
        blocks,
    }
}

pub(super) fn most_and_least<'a>(changed: &Changes<'a>, names: Names) -> Section<'a> {
    let mut blocks = Vec::new();
    for (title, rows) in [("Changed most", &changed.most), ("Changed least", &changed.least)] {
        if !rows.is_empty() {
            blocks.push(Block::Heading(title.into()));
        }
        let shown = rows
            .iter()
            .map(|row| Block::Change(Box::new(Change::of(row, names))));
        blocks.extend(shown);
    }
    let mut about = String::from(
        "Left the answer with what was taken out, right the correction with what was put in; on a narrow screen one above the \
         other. Long texts are shortened: what is left out stands in brackets.",
    );
    if changed.copies + changed.spaces > 0 {
        about += &format!(
            " Not among them: copies ({}) and corrections that changed white space alone ({}).",
            grouped(changed.copies),
            grouped(changed.spaces)
        );
    }
    Section {
        title: "The most and the least changed answers",
        about,
        blocks,
    }
}

pub(super) fn configuration<'a>(report: &Report) -> Section<'a> {
    let (facts, left_out) = facts::facts(&report.facts);
    let mut blocks = Vec::new();
    if !facts.is_empty() {
        blocks.push(Block::Facts(facts));
    }
    if left_out > 0 {
        blocks.push(Block::Note(format!(
            "{} more entries are left out.",
            grouped(left_out)
        )));
    }
    Section {
        title: "Configuration and hashes",
        about: String::new(),
        blocks,
    }
}
