//! What is read before training: tokenizer, template, rows, and which base they are for.

use std::path::Path;
use std::sync::Arc;

use aligner_data::{
    Columns, DataSource, Dataset, Encoder, Fields, LoadOptions, OnBadRow, Order, Progress, PromptTemplate,
    ReadOptions, StageSource, TokenCache, Tokenizer,
};
use aligner_model::ModelConfig;
use sha2::{Digest, Sha256};

use crate::checkpoint::RunState;
use crate::config::{RowPolicy, TrainConfig};
use crate::error::{Result, TrainError};
use crate::session::{Event, Observer};
use crate::trainee::Start;

/// Everything of a run that does not change while it goes on, but the weights.
pub(crate) struct Materials {
    pub tokenizer: Tokenizer,
    pub template: PromptTemplate,
    pub train: Arc<Dataset>,
    pub valid: Option<Arc<Dataset>>,
    /// Of the training rows, and of how they are mixed where they are.
    pub fingerprint: String,
    /// How the training files are weighted, when they are.
    weights: Option<Vec<f64>>,
    base_fingerprint: String,
}

impl Materials {
    pub fn load(
        config: &TrainConfig,
        start: &Start,
        observer: &mut Option<Box<dyn Observer>>,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::from_dir(&start.tokenizer)?;
        let template = config.template.resolve()?;
        let encoder = Encoder::new(tokenizer.clone(), template.clone(), config.max_length);
        let options = load_options(config)?;
        let (files, weights) = DataSource::parse_all(&config.data)?;
        let (valid_files, valid_weights) = DataSource::parse_all(&config.valid)?;
        if valid_weights.is_some() {
            let reason = "validation passes once over all rows: its files have no weights";
            return Err(TrainError::config("valid", reason));
        }
        let mut tell = |progress: Progress| {
            if let Some(observer) = observer {
                let Progress {
                    rows,
                    tokens,
                    seconds,
                } = progress;
                observer.on_event(&Event::Tokenising {
                    rows,
                    tokens,
                    seconds,
                });
            }
        };
        let mut load = |files: &[_]| Dataset::load_with(files, &encoder, &options, &mut tell).map(Arc::new);
        let train = load(&files)?;
        let valid = if valid_files.is_empty() {
            None
        } else {
            Some(load(&valid_files)?)
        };
        // Refuses what cannot be mixed before anything is written.
        train.order(config.seed, config.shuffle, weights.as_deref())?;
        Ok(Self {
            tokenizer,
            template,
            fingerprint: fingerprint(&train, weights.as_deref()),
            train,
            valid,
            weights,
            base_fingerprint: start.base_fingerprint(config)?,
        })
    }

    /// The order in which the training rows are drawn.
    pub fn order(&self, config: &TrainConfig) -> Result<Order> {
        Ok(self
            .train
            .order(config.seed, config.shuffle, self.weights.as_deref())?)
    }

    /// The training files with their rows and weights.
    pub fn sources(&self) -> Vec<StageSource> {
        let weight = |index: usize| self.weights.as_ref()?.get(index).copied();
        let describe = |(index, (path, rows)): (usize, (&Path, u64))| StageSource {
            // Where it lay is nobody else's business.
            file: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            rows,
            weight: weight(index),
        };
        self.train.sources().enumerate().map(describe).collect()
    }

    /// Tells the files that rows are drawn from by weight.
    pub fn tell_sources(&self, observer: &mut dyn Observer) {
        let Some(weights) = &self.weights else {
            return;
        };
        let total: f64 = weights.iter().sum();
        for ((path, rows), weight) in self.train.sources().zip(weights) {
            let share = weight / total;
            observer.on_event(&Event::Source { path, rows, share });
        }
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

fn load_options(config: &TrainConfig) -> Result<LoadOptions> {
    let policy = |policy| match policy {
        RowPolicy::Stop => OnBadRow::Stop,
        RowPolicy::Skip => OnBadRow::Skip,
    };
    Ok(LoadOptions {
        read: ReadOptions {
            columns: config.columns.parse::<Columns>()?,
            fields: Fields::Triple,
            on_bad_row: policy(config.on_bad_row),
        },
        on_long_row: policy(config.on_long_row),
        cache: TokenCache::from_env(),
    })
}

/// The fingerprint of the rows; of a mixture also of the weights, and of where one source ends and the next begins.
fn fingerprint(rows: &Dataset, weights: Option<&[f64]>) -> String {
    let of_rows = rows.fingerprint();
    let Some(weights) = weights else {
        return of_rows;
    };
    let mut hash = Sha256::new();
    hash.update(&of_rows);
    for ((_, rows), weight) in rows.sources().zip(weights) {
        hash.update(rows.to_le_bytes());
        hash.update(weight.to_le_bytes());
    }
    hash.finalize()
        .iter()
        .fold("sha256:".into(), |text, byte| text + &format!("{byte:02x}"))
}
