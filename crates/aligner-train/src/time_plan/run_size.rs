//! How much a run has to do.

use crate::config::TrainConfig;
use crate::error::Result;
use crate::materials::Materials;
use crate::run::resolved;
use crate::trainee::Start;

/// What all stages of a run come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunSize {
    /// Rows of the data, before anything is mixed in.
    pub rows: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Micro-batches of all steps.
    pub micro_batches: u64,
    /// Tokens that go through the model, a row counted as often as it is drawn.
    pub tokens: u64,
    /// Those of them that carry loss.
    pub target_tokens: u64,
}

impl RunSize {
    /// Reads the rows of a run, as the run would: tokenised rows come from the cache, or go there.
    ///
    /// Of rows that are chosen from more, or drawn by weight, the number is exact and their length the mean of all.
    ///
    /// # Errors
    /// What would be an error of the run: rows that are too long or cannot be read, a model without tokenizer.
    pub fn of(run: &TrainConfig) -> Result<Self> {
        let run = &resolved(run)?;
        let materials = Materials::load(run, &Start::of(run)?, &mut None)?;
        let mut size = Self {
            rows: materials.train.len() as u64,
            ..Self::default()
        };
        let plan = materials.stages.plan(run);
        for (stage, plan) in materials.stages.iter().zip(plan.stages()) {
            let (tokens, targets) = stage.rows.mean_tokens();
            let drawn = plan.total_rows as f64;
            size.steps += plan.steps;
            size.micro_batches += plan.total_rows.div_ceil(run.micro_batch as u64);
            size.tokens += (drawn * tokens).round() as u64;
            size.target_tokens += (drawn * targets).round() as u64;
        }
        Ok(size)
    }
}
