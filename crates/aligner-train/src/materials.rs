//! What is read before training: tokenizer, template, rows, and which base they are for.

use std::sync::Arc;

use aligner_data::{
    ChatFormat, Columns, Dataset, Encoder, Fields, LoadOptions, OnBadRow, Prefer, Progress, PromptTemplate,
    ReadOptions, TokenCache, Tokenizer,
};
use aligner_model::{ModelConfig, WeightFormat};

use crate::checkpoint::RunState;
use crate::config::{ObjectiveKind, RowPolicy, TrainConfig};
use crate::error::{Result, TrainError};
use crate::evaluation::{SampleRow, sample};
use crate::plan::Plan;
use crate::session::{Event, Observer};
use crate::stages::{RowLoader, Sources, Stages};
use crate::trainee::Start;

/// Everything of a run that does not change while it goes on, but the weights.
pub(crate) struct Materials {
    pub tokenizer: Tokenizer,
    pub template: PromptTemplate,
    /// The corrections, before anything is mixed in.
    pub train: Arc<Dataset>,
    pub stages: Stages,
    pub valid: Option<Arc<Dataset>>,
    /// How the training files are weighted, when they are.
    weights: Option<Vec<f64>>,
    fingerprint: String,
    encoder: Encoder,
    read: ReadOptions,
    base_fingerprint: String,
    base_weights: WeightFormat,
}

impl Materials {
    pub fn load(
        config: &TrainConfig,
        start: &Start,
        observer: &mut Option<Box<dyn Observer>>,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::from_dir(&start.tokenizer)?;
        let template = config.template.resolve()?;
        let mut encoder = Encoder::new(tokenizer.clone(), template.clone(), config.max_length);
        if let Some(target) = config.objective.chat_target() {
            let named = Some(config.chat_format.as_str()).filter(|name| !name.is_empty());
            encoder = encoder.with_chat(target, ChatFormat::chosen(named, &tokenizer)?);
        }
        let options = load_options(config)?;
        let read = options.read.clone();
        let sources = Sources::of(&config.data)?;
        let valid_files = Sources::without_weights("valid", &config.valid)?;
        let mut tell = |progress: Progress| tell_progress(observer, progress);
        let mut loader = RowLoader {
            encoder: encoder.clone(),
            options,
            tell: &mut tell,
        };
        let train = loader.load(&sources.files)?;
        let valid = if valid_files.is_empty() {
            None
        } else {
            Some(loader.load(&valid_files)?)
        };
        let stages = Stages::load(config, &sources, &train, &mut loader)?;
        Ok(Self {
            tokenizer,
            template,
            train,
            valid,
            weights: sources.weights,
            fingerprint: stages.fingerprint(),
            stages,
            encoder,
            read,
            base_fingerprint: start.base_fingerprint(config)?,
            base_weights: config.base_weights,
        })
    }

    /// How chats are written, where rows are chats.
    pub fn chat(&self) -> Option<&ChatFormat> {
        self.encoder.chat()
    }

    /// The validation rows that are corrected at each validation; each fits into `context` tokens.
    pub fn sample(&self, config: &TrainConfig, context: usize) -> Result<Vec<SampleRow>> {
        let room = self.encoder.max_length().min(context);
        let encoder = Encoder::new(self.tokenizer.clone(), self.template.clone(), room);
        sample(
            &config.valid,
            &encoder,
            &self.read,
            config.eval_sample,
            config.seed,
        )
    }

    /// Tells the files that corrections are drawn from by weight.
    pub fn tell_sources(&self, config: &TrainConfig, observer: &mut dyn Observer) {
        let Some(weights) = &self.weights else {
            return;
        };
        let total: f64 = weights.iter().sum();
        // Rows to copy have their share before the files have theirs.
        let corrections = match self.stages.last.identity_rows {
            0 => 1.0,
            _ => 1.0 - config.identity_share,
        };
        for ((path, rows), weight) in self.train.sources().zip(weights) {
            let share = corrections * weight / total;
            observer.on_event(&Event::Source { path, rows, share });
        }
    }

    /// The state of a run that has not taken a step.
    pub fn fresh_state(&self, config: &TrainConfig, plan: &Plan) -> RunState {
        RunState {
            total_steps: plan.total_steps(),
            stage: plan.at(0).stage.kind,
            stage_steps: plan.steps(),
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
            base_weights: self.base_weights,
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
        changed(
            "format of the base's weights",
            &state.base_weights.to_string(),
            &now.base_weights.to_string(),
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
        let valid = self.valid.iter().map(|rows| rows.largest_id());
        let trained = self.stages.iter().map(|stage| stage.rows.largest_id());
        let largest = valid.chain(trained).max().unwrap_or(0) as usize;
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

fn tell_progress(observer: &mut Option<Box<dyn Observer>>, progress: Progress) {
    let Progress {
        rows,
        tokens,
        seconds,
    } = progress;
    if let Some(observer) = observer {
        observer.on_event(&Event::Tokenising {
            rows,
            tokens,
            seconds,
        });
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
            fields: match config.objective {
                // A chat has one answer, which is the target.
                ObjectiveKind::Sft => Fields::Completion,
                _ => Fields::Triple,
            },
            prefer: match config.objective {
                ObjectiveKind::Reward | ObjectiveKind::Dpo => Prefer::Better,
                _ => Prefer::default(),
            },
            on_bad_row: policy(config.on_bad_row),
            format: match config.format.as_str() {
                "" => None,
                name => Some(name.parse()?),
            },
        },
        on_long_row: policy(config.on_long_row),
        cache: TokenCache::from_env(),
    })
}
