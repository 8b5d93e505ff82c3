//! The recipe: what is copied first, what is mixed in, and which model is the best.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};

/// The warm-up: a stage before the correction in which the model learns to copy.
///
/// Aligner (Ji et al. 2024, arXiv 2402.02416, section 2 and its ablation): training starts on question, answer → answer
/// with a share of the rows, of which a fifth was best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmupChoice {
    /// Share of the training rows; 0: no warm-up. Left out: 0.2 for a model that is no Aligner yet, 0 for one that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Rows of these files, all of them, instead of a share of the training rows.
    pub data: Vec<PathBuf>,
    /// Which text of a row stands in the prompt and is the target too.
    pub from: CopyFrom,
    /// Passes over the warm-up's rows; not used when `steps` is given.
    pub epochs: u64,
    /// Optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Highest learning rate; left out: that of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
}

impl WarmupChoice {
    /// The share for a model that is no Aligner yet.
    pub const DEFAULT_SHARE: f64 = 0.2;

    /// No warm-up.
    pub fn off() -> Self {
        Self {
            share: Some(0.0),
            ..Self::default()
        }
    }

    /// Checks what no single field can say.
    ///
    /// # Errors
    /// The first value that cannot be used, with the values that can.
    pub fn validate(&self) -> Result<()> {
        let share = self.share.unwrap_or(0.0);
        let is_rate = |lr: f64| lr > 0.0 && lr.is_finite();
        for (key, ok, rule) in [
            ("warmup.share", (0.0..=1.0).contains(&share), "in 0..=1"),
            (
                "warmup.data",
                self.data.is_empty() || share == 0.0,
                "empty when a share of the training rows is copied: give one of warmup.share and warmup.data",
            ),
            (
                "warmup.epochs",
                self.steps.is_some() || self.epochs > 0,
                "at least 1",
            ),
            ("warmup.steps", self.steps != Some(0), "at least 1"),
            ("warmup.lr", self.lr.is_none_or(is_rate), "a positive number"),
        ] {
            if !ok {
                return Err(TrainError::config(key, format!("must be {rule}")));
            }
        }
        Ok(())
    }

    /// Whether more is said of it than whether there is one.
    pub(crate) fn is_described(&self) -> bool {
        let plain = Self {
            share: self.share,
            data: self.data.clone(),
            ..Self::default()
        };
        *self != plain
    }

    /// Whether there is a warm-up.
    pub fn is_on(&self) -> bool {
        !self.data.is_empty() || self.share.is_some_and(|share| share > 0.0)
    }
}

impl Default for WarmupChoice {
    fn default() -> Self {
        Self {
            share: None,
            data: Vec::new(),
            from: CopyFrom::Answer,
            epochs: 1,
            steps: None,
            lr: None,
        }
    }
}

/// Which text of a row is copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyFrom {
    /// Question, answer → answer.
    #[default]
    Answer,
    /// Question, correction → correction.
    Correction,
}

impl std::str::FromStr for CopyFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "answer" => Ok(Self::Answer),
            "correction" => Ok(Self::Correction),
            _ => Err(format!("{text:?} is not copied; known are answer, correction")),
        }
    }
}

/// What makes one validation better than another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BestBy {
    /// A lower loss.
    #[default]
    Loss,
    /// More corrections of the sample that equal the reference; among equals a lower loss.
    ExactMatch,
}

impl std::str::FromStr for BestBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "loss" => Ok(Self::Loss),
            "exact_match" => Ok(Self::ExactMatch),
            _ => Err(format!("{text:?} is not a measure; known are loss, exact_match")),
        }
    }
}
