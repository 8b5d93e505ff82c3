//! What is read before training: tokenizer, template, rows, and which base they are for.

use std::sync::Arc;

use aligner_data::{Columns, Dataset, Encoder, Fields, OnBadRow, PromptTemplate, ReadOptions, Tokenizer};
use aligner_model::ModelConfig;

use crate::checkpoint::RunState;
use crate::config::{RowPolicy, TrainConfig};
use crate::error::{Result, TrainError};
use crate::trainee::Start;

/// Everything of a run that does not change while it goes on, but the weights.
pub(crate) struct Materials {
    pub tokenizer: Tokenizer,
    pub template: PromptTemplate,
    pub train: Arc<Dataset>,
    pub valid: Option<Arc<Dataset>>,
    pub fingerprint: String,
    base_fingerprint: String,
}

impl Materials {
    pub fn load(config: &TrainConfig, start: &Start) -> Result<Self> {
        let tokenizer = Tokenizer::from_dir(&start.tokenizer)?;
        let template = config.template.resolve()?;
        let encoder = Encoder::new(tokenizer.clone(), template.clone(), config.max_length);
        let policy = |policy| match policy {
            RowPolicy::Stop => OnBadRow::Stop,
            RowPolicy::Skip => OnBadRow::Skip,
        };
        let options = ReadOptions {
            columns: config.columns.parse::<Columns>()?,
            fields: Fields::Triple,
            on_bad_row: policy(config.on_bad_row),
            format: match config.format.as_str() {
                "" => None,
                name => Some(name.parse()?),
            },
            ..ReadOptions::default()
        };
        let load = |files| Dataset::load(files, &encoder, &options, policy(config.on_long_row)).map(Arc::new);
        let train = load(&config.data)?;
        let valid = if config.valid.is_empty() {
            None
        } else {
            Some(load(&config.valid)?)
        };
        let fingerprint = train.fingerprint();
        Ok(Self {
            tokenizer,
            template,
            train,
            valid,
            fingerprint,
            base_fingerprint: start.base_fingerprint(config)?,
        })
    }

    /// The state of a run that has not taken a step.
    pub fn fresh_state(&self, config: &TrainConfig) -> RunState {
        RunState {
            total_steps: config.total_steps(self.train.len() as u64),
            seed: config.seed,
            ..self.signed(RunState::default())
        }
    }

    /// A state with the fingerprints of these materials.
    pub fn signed(&self, state: RunState) -> RunState {
        RunState {
            data_fingerprint: self.fingerprint.clone(),
            template_fingerprint: self.template.fingerprint(),
            tokenizer_hash: self.tokenizer.hash().to_string(),
            base_fingerprint: self.base_fingerprint.clone(),
            ..state
        }
    }

    /// Holds the materials of a resumed run against those it was started with. With `new_template` the template, and with
    /// it the encoded rows, may be others: the change is only told.
    pub fn check_against(&self, state: &RunState, new_template: bool) -> Result<()> {
        let now = self.signed(RunState::default());
        let changed = |what, recorded: &str, found: &str, allowed: bool| {
            if recorded == found || recorded.is_empty() {
                return Ok(());
            }
            let error = TrainError::Changed {
                what,
                recorded: recorded.to_string(),
                found: found.to_string(),
            };
            if !allowed {
                return Err(error);
            }
            tracing::warn!("{error}");
            Ok(())
        };
        changed("tokenizer", &state.tokenizer_hash, &now.tokenizer_hash, false)?;
        changed(
            "prompt template",
            &state.template_fingerprint,
            &now.template_fingerprint,
            new_template,
        )?;
        changed(
            "base model",
            &state.base_fingerprint,
            &now.base_fingerprint,
            false,
        )?;
        if new_template {
            return Ok(());
        }
        changed(
            "training rows",
            &state.data_fingerprint,
            &now.data_fingerprint,
            false,
        )
    }

    /// Rows must fit the model: ids its embedding has, positions its context has.
    pub fn check_fit(&self, config: &TrainConfig, model: &ModelConfig) -> Result<()> {
        let largest = [Some(&self.train), self.valid.as_ref()]
            .into_iter()
            .flatten()
            .map(|rows| rows.largest_id());
        let largest = largest.max().unwrap_or(0) as usize;
        if largest >= model.vocab_size {
            let reason = format!(
                "the tokenizer gives id {largest}, but the model's embedding has {} rows: they do not belong together",
                model.vocab_size
            );
            return Err(TrainError::config("model", reason));
        }
        if config.max_length > model.max_positions {
            tracing::warn!(
                max_length = config.max_length,
                context = model.max_positions,
                "rows may be longer than the context the model was made for"
            );
        }
        Ok(())
    }
}
