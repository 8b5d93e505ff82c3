//! A report as sections of plain text, tables and pictures, whichever way they are written.

mod pictures;
mod sections;
mod tables;

use std::collections::BTreeSet;

use aligner_report::kit::Axis;
use aligner_report::kit::number::grouped;

use super::changes::{self, Change};
use super::facts::Fact;
use super::input::{Group, Report};
use crate::row::Outcome;
use crate::stats::Interval;

pub(super) use tables::Grid;

/// A report. All text in it is as users wrote it: who writes it out makes it harmless.
#[derive(Debug)]
pub(super) struct Content<'a> {
    pub title: &'a str,
    /// Counts: name and number.
    pub tiles: Vec<(&'static str, String)>,
    /// What all groups share, as a sentence.
    pub shared: String,
    pub notes: &'a [String],
    pub sections: Vec<Section<'a>>,
}

#[derive(Debug)]
pub(super) struct Section<'a> {
    pub title: &'static str,
    pub about: String,
    pub blocks: Vec<Block<'a>>,
}

#[derive(Debug)]
pub(super) enum Block<'a> {
    Heading(String),
    /// A sentence below what it is about.
    Note(String),
    Grid(Grid),
    Picture(Picture),
    Change(Box<Change<'a>>),
    Facts(Vec<Fact>),
}

/// Something that is drawn.
#[derive(Debug)]
pub(super) struct Picture {
    /// Its file, without the directory.
    pub file: String,
    pub title: String,
    pub about: String,
    pub drawing: Drawing,
}

#[derive(Debug)]
pub(super) enum Drawing {
    /// Wins, ties and losses as bars, with ω below.
    Stacks(Vec<Stack>),
    /// Estimates with their intervals on one axis.
    Spans(Axis, Vec<Span>),
    /// Edit ratios, a picture each.
    Histograms(Vec<(String, Vec<u64>)>),
}

/// Wins, ties and losses of one group.
#[derive(Debug)]
pub(super) struct Stack {
    pub label: String,
    pub counts: [u64; 3],
    pub rate: Option<Interval>,
}

/// One estimate.
#[derive(Debug)]
pub(super) struct Span {
    pub label: String,
    pub interval: Interval,
    pub text: String,
}

/// Which parts of a group's name say something: those in which groups differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub dataset: bool,
    pub aligner: bool,
}

impl Names {
    fn of(report: &Report) -> (Self, String) {
        let mut found = [const { BTreeSet::new() }; 3];
        let mut add = |upstream: &str, dataset: &str, aligner: &str| {
            for (found, text) in found.iter_mut().zip([upstream, dataset, aligner]) {
                found.insert(text.to_string());
            }
        };
        for group in groups(report) {
            add(&group.upstream, &group.dataset, &group.aligner);
        }
        for Outcome { item, aligner, .. } in &report.outcomes {
            add(&item.upstream, &item.dataset, aligner);
        }
        let [_, datasets, aligners] = &found;
        let mut shared = Vec::new();
        for (name, found) in [("Data set", datasets), ("Aligner", aligners)] {
            if let (1, Some(text)) = (found.len(), found.first().filter(|text| !text.is_empty())) {
                shared.push(format!("{name}: {text}"));
            }
        }
        let names = Self {
            dataset: datasets.len() > 1,
            aligner: aligners.len() > 1,
        };
        (names, shared.join(" · "))
    }

    /// A group in a line of text.
    pub fn label(&self, group: &Group) -> String {
        let parts = [
            Some(&group.upstream),
            self.dataset.then_some(&group.dataset),
            self.aligner.then_some(&group.aligner),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        parts.join(" · ")
    }
}

fn groups(report: &Report) -> impl Iterator<Item = &Group> {
    let rows = report.tables.iter().flat_map(|table| &table.rows);
    let verdicts = report.verdicts.iter().map(|each| &each.group);
    let differences = report.differences.iter().map(|each| &each.group);
    let ratios = report.edit_ratios.iter().map(|each| &each.group);
    rows.map(|row| &row.group)
        .chain(verdicts)
        .chain(differences)
        .chain(ratios)
}

/// Classes and names of what a [`Stack`] counts.
pub(super) const VERDICTS: [(&str, &str); 3] = [
    ("win", "correction better"),
    ("tie", "neither"),
    ("loss", "answer better"),
];

/// The axis of ω.
pub(super) fn rate_axis() -> Option<Axis> {
    Axis::exact([-1.0, 1.0].into_iter())
}

impl<'a> Content<'a> {
    /// The report's sections; those with nothing in them are left out.
    pub fn of(report: &'a Report) -> Self {
        let (names, shared) = Names::of(report);
        let changed = changes::Changes::of(&report.outcomes);
        let mut sections = vec![
            sections::verdicts(report, names),
            sections::differences(report, names),
            sections::text_metrics(report, names),
            sections::most_and_least(&changed, names),
            sections::configuration(report),
        ];
        sections.retain(|section| !section.blocks.is_empty());
        Self {
            title: &report.title,
            tiles: tiles(report, &changed),
            shared,
            notes: &report.notes,
            sections,
        }
    }

    /// The pictures, in the order of the report.
    pub fn pictures(&self) -> impl Iterator<Item = &Picture> {
        let blocks = self.sections.iter().flat_map(|section| &section.blocks);
        blocks.filter_map(|block| match block {
            Block::Picture(picture) => Some(picture),
            _ => None,
        })
    }
}

fn tiles(report: &Report, changed: &changes::Changes<'_>) -> Vec<(&'static str, String)> {
    let mut tiles = Vec::new();
    let mut tile = |name, count: u64| {
        if count > 0 {
            tiles.push((name, grouped(count)));
        }
    };
    tile("answers", report.outcomes.len() as u64);
    tile("of them left as they were", changed.copies);
    let all = groups(report).map(|group| group.upstream.as_str());
    let upstreams = all.chain(
        report
            .outcomes
            .iter()
            .map(|outcome| outcome.item.upstream.as_str()),
    );
    tile("upstreams", upstreams.collect::<BTreeSet<_>>().len() as u64);
    tile(
        "verdicts",
        report.verdicts.iter().map(|each| each.tally.count()).sum(),
    );
    tiles
}
