//! Where rows come from: the rounds before, and licences.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::format::BootstrapFormat;
use super::manifest::BootstrapManifest;
use crate::error::Result;

/// A data set, or an Aligner with the data it was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name in the outcomes.
    pub name: String,
    /// The licence of the data, where it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

impl Source {
    /// Sources by name; `licence` knows the licence of some.
    pub(super) fn named(names: BTreeSet<String>, licence: impl Fn(&str) -> Option<String>) -> Vec<Self> {
        let names = names.into_iter();
        names
            .map(|name| Self {
                licence: licence(&name),
                name,
            })
            .collect()
    }
}

/// A round before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Its number.
    pub round: u32,
    /// `sha256:` and the hash of its manifest.
    pub manifest: String,
    /// How its rows looked.
    pub format: BootstrapFormat,
    /// Its rows' upstreams.
    pub upstreams: Vec<String>,
    /// Its rows' Aligners.
    pub aligners: Vec<Source>,
    /// Its rows' data sets.
    pub datasets: Vec<Source>,
    /// Corrections that were trained on.
    pub rows: u64,
}

/// The rounds before this one, the first round first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lineage(pub(super) Vec<Ancestor>);

impl Lineage {
    /// The rounds up to the parent.
    pub(super) fn of(parent: Option<&Path>) -> Result<Self> {
        let Some(parent) = parent else {
            return Ok(Self::default());
        };
        let (manifest, hash) = BootstrapManifest::read_hashed(parent)?;
        let mut rounds = manifest.lineage;
        rounds.push(Ancestor {
            round: manifest.round,
            manifest: hash,
            format: manifest.format,
            upstreams: manifest.upstreams,
            aligners: manifest.aligners,
            datasets: manifest.datasets,
            rows: manifest.counts.train,
        });
        Ok(Self(rounds))
    }

    /// The number of the round behind these.
    pub(super) fn next_round(&self) -> u32 {
        self.0.last().map_or(1, |last| last.round.saturating_add(1))
    }
}

/// A licence along the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LicenceNote {
    /// The licence, as it was given.
    pub licence: String,
    /// What is under it: `data set NAME`, or `data of the Aligner NAME`.
    pub of: String,
    /// The round in which it was used.
    pub round: u32,
    /// Whether it forbids commercial use, as far as its name tells.
    pub is_non_commercial: bool,
}

/// Every licence of this round and those before, each with what is under it once: in the earliest round.
pub(super) fn licences(
    lineage: &Lineage,
    round: u32,
    aligners: &[Source],
    datasets: &[Source],
) -> Vec<LicenceNote> {
    let mut notes: Vec<LicenceNote> = Vec::new();
    let before = lineage.0.iter();
    let before = before.map(|ancestor| (ancestor.round, &*ancestor.aligners, &*ancestor.datasets));
    for (round, aligners, datasets) in before.chain([(round, aligners, datasets)]) {
        let named = |what: &'static str| {
            move |source: &Source| (format!("{what} {}", source.name), source.licence.clone())
        };
        let of_aligners = aligners.iter().map(named("data of the Aligner"));
        for (of, licence) in of_aligners.chain(datasets.iter().map(named("data set"))) {
            let Some(licence) = licence else { continue };
            if !notes.iter().any(|note| note.of == of && note.licence == licence) {
                notes.push(LicenceNote {
                    is_non_commercial: is_non_commercial(&licence),
                    licence,
                    of,
                    round,
                });
            }
        }
    }
    notes
}

/// Whether a licence's name says that it forbids commercial use: `CC-BY-NC-4.0`, `Creative Commons Attribution-NonCommercial`,
/// `research only`.
pub(super) fn is_non_commercial(licence: &str) -> bool {
    let lower = licence.to_lowercase();
    // A version may stand right behind a name: `nc4.0`.
    let words: Vec<&str> = lower
        .split(|letter: char| !letter.is_alphabetic())
        .filter(|word| !word.is_empty())
        .collect();
    let has = |word: &str| words.contains(&word);
    let joined = words.concat();
    (has("nc") && (has("cc") || has("by")))
        || words
            .iter()
            .any(|word| ["ccbync", "bync"].iter().any(|run| word.starts_with(run)))
        || joined.contains("noncommercial")
        || joined.contains("nocommercial")
        || joined.contains("notforcommercial")
        || ["research", "academic"].iter().any(|use_| {
            joined.contains(&format!("{use_}only"))
                || joined.contains(&format!("{use_}useonly"))
                || joined.contains(&format!("only{use_}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_that_forbid_commercial_use_are_known_by_name() {
        for licence in [
            "CC-BY-NC-4.0",
            "cc-by-nc-sa-4.0",
            "CC BY-NC 4.0",
            "CC-BY-NC4.0",
            "cc_by_nc_nd_3.0",
            "CCBYNC 4.0",
            "https://creativecommons.org/licenses/by-nc/4.0/",
            "Creative Commons Attribution-NonCommercial 4.0",
            "PolyForm-Noncommercial-1.0.0",
            "non-commercial use",
            "Research only",
            "for research use only",
        ] {
            assert!(is_non_commercial(licence), "{licence}");
        }
        for licence in [
            "MIT",
            "Apache-2.0",
            "CC-BY-4.0",
            "CC-BY-SA-4.0",
            "generated, MIT OR Apache-2.0",
            "NCSA",
            "made by NCSA",
            "CC-BY4.0",
            "",
        ] {
            assert!(!is_non_commercial(licence), "{licence}");
        }
    }
}
