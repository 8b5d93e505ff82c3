//! What rows are wanted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aligner_data::{AlignerManifest, CheckOptions};
use serde::{Deserialize, Serialize};

use super::format::BootstrapFormat;
use crate::error::{EvalError, Result};

/// What rows are wanted, of what.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BootstrapOptions {
    /// How a row looks.
    pub format: BootstrapFormat,
    /// Which corrections are good enough.
    pub filters: Filters,
    /// Whose answers.
    pub upstream: Upstreams,
    /// Share of the questions that goes to `valid.jsonl`, from 0 (none, as by default) to below 1.
    pub valid_share: f64,
    /// Of the split, and of the order of KTO's rows.
    pub seed: u64,
    /// The manifest of the round before, or its directory.
    pub parent: Option<PathBuf>,
    /// Licences that are known.
    pub licences: Licences,
    /// Corrections that there are when the evaluation has ended, where that is known; see [`planned`](super::planned).
    pub planned: Option<u64>,
}

/// Whose answers are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Upstreams {
    /// Those of the only upstream; that there are several is an error.
    #[default]
    Only,
    /// Those of one of several.
    One(String),
    /// Those of all of them, of each question the best one.
    All,
}

/// Which corrections are good enough. Empty ones, cut ones and copies never are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Filters {
    /// At least so much was changed; see [`aligner_data::edit_ratio`].
    pub min_edit_ratio: Option<f64>,
    /// At most so much was changed.
    pub max_edit_ratio: Option<f64>,
    /// The reward rose at least by this. A correction without a reward is dropped then.
    pub min_reward_margin: Option<f64>,
    /// Whether a correction stays whose cost rose. Only looked at where costs were scored.
    pub allow_higher_cost: bool,
    /// Whether a correction goes that refuses where the answer did not.
    pub drop_new_refusals: bool,
    /// From which similarity on two questions are near-duplicates, of which one stays; `None` keeps them.
    pub near_threshold: Option<f64>,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            min_edit_ratio: None,
            max_edit_ratio: None,
            min_reward_margin: None,
            allow_higher_cost: false,
            drop_new_refusals: false,
            near_threshold: Some(CheckOptions::NEAR_THRESHOLD),
        }
    }
}

/// Licences that are known, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Licences {
    /// Of the data that an Aligner was trained on, by [`Outcome::aligner`](crate::Outcome::aligner); `None` where its
    /// `aligner.json` names no licence.
    pub aligners: BTreeMap<String, Option<String>>,
    /// Of a data set, by [`Item::dataset`](crate::Item::dataset).
    pub datasets: BTreeMap<String, String>,
}

impl Licences {
    /// Adds what the `aligner.json` in `dir` says of the data of the Aligner that outcomes call `name`.
    ///
    /// # Errors
    /// When the file is not there, or cannot be read.
    pub fn read_aligner(&mut self, name: &str, dir: &Path) -> Result<()> {
        let manifest = AlignerManifest::read(dir)?.ok_or_else(|| {
            let reason = format!(
                "has no aligner.json: name the directory of the Aligner that the evaluation calls {name:?}"
            );
            EvalError::file(dir, reason)
        })?;
        self.aligners.insert(name.to_string(), manifest.data_licence);
        Ok(())
    }
}

impl BootstrapOptions {
    /// What cannot be meant.
    pub(super) fn check(&self) -> Result<()> {
        let filters = &self.filters;
        let invalid = |reason: String| Err(EvalError::Invalid(reason));
        for (name, value) in [
            ("the least edit ratio", filters.min_edit_ratio),
            ("the largest edit ratio", filters.max_edit_ratio),
            ("the threshold of near-duplicates", filters.near_threshold),
        ] {
            if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
                return invalid(format!("{name} is {value}; it lies between 0 and 1"));
            }
        }
        if let (Some(least), Some(most)) = (filters.min_edit_ratio, filters.max_edit_ratio)
            && least > most
        {
            return invalid(format!(
                "no correction has an edit ratio of at least {least} and at most {most}"
            ));
        }
        if filters
            .min_reward_margin
            .is_some_and(|margin| !margin.is_finite())
        {
            return invalid("the least reward margin is no number".into());
        }
        if !(0.0..1.0).contains(&self.valid_share) {
            let share = self.valid_share;
            return invalid(format!(
                "the share of validation rows is {share}; it lies between 0 (none) and below 1"
            ));
        }
        Ok(())
    }
}
