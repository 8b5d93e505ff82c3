//! What a run does, stage after stage.
//!
//! ```text
//!            warm-up                      correction
//!  rows      question, answer → answer    question, answer → correction  (and question, correction → correction)
//!  steps     0 ………………… w                  w ………………………………… total       one count for the whole run
//!  rate      rises and decays             rises and decays anew
//! ```
//!
//! A stage is training from the model that the stage before it left: its learning rate, its order of rows and AdamW's
//! moments start anew, so that a run of two stages is two runs one after the other, in one directory.

use aligner_data::StageSource;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::schedule::Schedule;

/// What a stage teaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageKind {
    /// To copy: the target is the answer itself.
    Warmup,
    /// To correct the answer.
    #[default]
    Correction,
    /// To answer.
    Sft,
    /// To score the better of two answers higher.
    Reward,
    /// To tell harmful answers from harmless ones.
    Cost,
    /// To write the better of two answers rather than the worse.
    Dpo,
}

impl std::fmt::Display for StageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Warmup => "warmup",
            Self::Correction => "correction",
            Self::Sft => "sft",
            Self::Reward => "reward",
            Self::Cost => "cost",
            Self::Dpo => "dpo",
        })
    }
}

/// How long a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Passes over its rows: the last step takes the rows that are left.
    Epochs(u64),
    /// Optimizer steps, each of them full.
    Steps(u64),
}

/// One stage of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct StagePlan {
    /// What it teaches.
    pub kind: StageKind,
    /// Its rows.
    pub rows: u64,
    /// Those of them whose target is a text of their own prompt.
    pub identity_rows: u64,
    /// Fingerprint of its rows.
    pub data_fingerprint: String,
    /// The files of its rows.
    pub sources: Vec<StageSource>,
    /// Optimizer steps.
    pub steps: u64,
    /// Rows of a step.
    pub rows_per_step: u64,
    /// Rows of all steps; the last one takes what is left.
    pub total_rows: u64,
    /// Learning rate of every step, counted from the stage's first.
    pub schedule: Schedule,
}

impl StagePlan {
    /// A stage of `rows` rows with the batches and the schedule of `config`, at another highest rate where one is given.
    pub fn new(kind: StageKind, rows: u64, length: Length, config: &TrainConfig, lr: Option<f64>) -> Self {
        let rows_per_step = (config.micro_batch * config.accumulate) as u64;
        let (steps, total_rows) = match length {
            Length::Steps(steps) => (steps, steps * rows_per_step),
            Length::Epochs(epochs) => ((epochs * rows).div_ceil(rows_per_step).max(1), epochs * rows),
        };
        Self {
            kind,
            rows,
            identity_rows: 0,
            data_fingerprint: String::new(),
            sources: Vec::new(),
            steps,
            rows_per_step,
            total_rows,
            schedule: Schedule {
                kind: config.schedule,
                peak: lr.unwrap_or(config.lr),
                warmup_steps: warmup_steps(config, steps),
                total_steps: steps,
            },
        }
    }

    /// This stage with the number of steps that a checkpoint records: a run is resumed with the steps it was started with.
    fn lasting(mut self, steps: u64, config: &TrainConfig) -> Self {
        if steps != self.steps {
            self.steps = steps;
            self.total_rows = steps * self.rows_per_step;
            self.schedule.total_steps = steps;
            self.schedule.warmup_steps = warmup_steps(config, steps);
        }
        self
    }
}

/// Steps over which the learning rate of a stage of `steps` steps rises.
fn warmup_steps(config: &TrainConfig, steps: u64) -> u64 {
    (config.warmup_ratio * steps as f64) as u64
}

/// The stages of a run in their order; there is always a last one, the correction.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    before: Vec<StagePlan>,
    last: StagePlan,
}

/// Where a run stands in its plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place<'a> {
    /// The stage, counted from 0.
    pub index: usize,
    /// The stage.
    pub stage: &'a StagePlan,
    /// Its steps that are done.
    pub done: u64,
}

impl Plan {
    /// The stages `before` one after the other, then `last`.
    pub fn new(before: Vec<StagePlan>, last: StagePlan) -> Self {
        Self { before, last }
    }

    /// The stages in their order.
    pub fn stages(&self) -> impl Iterator<Item = &StagePlan> {
        self.before.iter().chain(std::iter::once(&self.last))
    }

    /// Steps of each stage.
    pub fn steps(&self) -> Vec<u64> {
        self.stages().map(|stage| stage.steps).collect()
    }

    /// Steps of all stages.
    pub fn total_steps(&self) -> u64 {
        self.stages().map(|stage| stage.steps).sum()
    }

    /// Where a run stands that has done `step` steps: between two stages at the beginning of the second.
    pub fn at(&self, step: u64) -> Place<'_> {
        let mut done = step;
        for (index, stage) in self.before.iter().enumerate() {
            if done < stage.steps {
                return Place { index, stage, done };
            }
            done -= stage.steps;
        }
        Place {
            index: self.before.len(),
            stage: &self.last,
            done,
        }
    }

    /// The stage whose step was the last of `step` done ones; the first one before the first step.
    pub fn stage_of(&self, step: u64) -> &StagePlan {
        self.at(step.saturating_sub(1)).stage
    }

    /// Whether the step that made it `step` done ones was the last of a stage.
    pub fn ends_stage(&self, step: u64) -> bool {
        let mut end = 0;
        self.stages().any(|stage| {
            end += stage.steps;
            end == step
        })
    }

    /// Whether a run that has done `step` steps is in its last stage, or about to begin it.
    pub fn in_last_stage(&self, step: u64) -> bool {
        self.at(step).index == self.before.len()
    }

    /// This plan with the steps that a checkpoint records for each stage; `None` when it records other stages.
    pub fn lasting(self, steps: &[u64], config: &TrainConfig) -> Option<Self> {
        let (last, before) = steps.split_last()?;
        if before.len() != self.before.len() {
            return None;
        }
        let stages = self.before.into_iter().zip(before);
        Some(Self {
            before: stages
                .map(|(stage, &steps)| stage.lasting(steps, config))
                .collect(),
            last: self.last.lasting(*last, config),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        TrainConfig {
            micro_batch: 4,
            accumulate: 2,
            warmup_ratio: 0.25,
            lr: 1.0,
            ..TrainConfig::default()
        }
    }

    fn plan(warmup: Length, correction: Length) -> Plan {
        let config = config();
        Plan::new(
            vec![StagePlan::new(StageKind::Warmup, 20, warmup, &config, Some(0.5))],
            StagePlan::new(StageKind::Correction, 100, correction, &config, None),
        )
    }

    #[test]
    fn a_stage_by_epochs_ends_with_its_last_row_and_one_by_steps_fills_each() {
        let plan = plan(Length::Epochs(1), Length::Steps(8));
        let rows: Vec<_> = plan.stages().map(|s| (s.steps, s.total_rows)).collect();
        assert_eq!(rows, [(3, 20), (8, 64)]);
        assert_eq!((plan.total_steps(), plan.steps()), (11, vec![3, 8]));
    }

    #[test]
    fn a_step_belongs_to_one_stage_and_its_boundary_to_the_next() {
        let plan = plan(Length::Steps(3), Length::Steps(8));
        let at = |step| {
            let place = plan.at(step);
            (place.index, place.done)
        };
        assert_eq!(
            [at(0), at(2), at(3), at(10), at(11)],
            [(0, 0), (0, 2), (1, 0), (1, 7), (1, 8)]
        );
        let kinds: Vec<_> = [0, 1, 3, 4, 11].map(|step| plan.stage_of(step).kind).into();
        use StageKind::{Correction, Warmup};
        assert_eq!(kinds, [Warmup, Warmup, Warmup, Correction, Correction]);
        let ends: Vec<u64> = (0..=11).filter(|&step| plan.ends_stage(step)).collect();
        assert_eq!(ends, [3, 11]);
        assert!(!plan.in_last_stage(2) && plan.in_last_stage(3));
    }

    #[test]
    fn each_stage_rises_to_its_own_rate_and_decays() {
        let plan = plan(Length::Steps(8), Length::Steps(4));
        let rate = |step| {
            let place = plan.at(step);
            place.stage.schedule.rate(place.done)
        };
        assert_eq!([rate(0), rate(2)], [0.0, 0.5]);
        assert!(rate(7) < 0.05);
        assert_eq!([rate(8), rate(9)], [0.0, 1.0]);
        assert!(rate(11) < rate(10) && rate(10) < 1.0);
    }

    #[test]
    fn a_checkpoint_decides_the_steps_and_must_know_the_same_stages() {
        let plan = plan(Length::Epochs(1), Length::Epochs(1));
        assert_eq!(plan.clone().lasting(&[3, 13], &config()), Some(plan.clone()));
        let longer = plan.clone().lasting(&[4, 13], &config()).unwrap();
        let first = longer.stages().next().unwrap().clone();
        assert_eq!(
            (
                first.steps,
                first.total_rows,
                first.schedule.total_steps,
                first.schedule.warmup_steps
            ),
            (4, 32, 4, 1)
        );
        assert_eq!(plan.clone().lasting(&[16], &config()), None);
        assert_eq!(plan.lasting(&[], &config()), None);
    }
}
