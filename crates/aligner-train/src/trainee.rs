//! What is trained: all weights of a model, or an adapter over weights that stay.

use std::path::{Path, PathBuf};

use aligner_model::{
    CausalDecoder, Loaded, LoraAdapter, LoraConfig, ModelConfig, ScoreKind, WeightFormat, load_dir,
    load_dir_as, load_score_dir, save_dir, weights_fingerprint,
};
use burn::tensor::Device;

use crate::config::{LoraChoice, ObjectiveKind, TrainConfig};
use crate::error::{Result, TrainError};

/// A decoder that is ready to be trained.
pub(crate) struct Trainee {
    pub decoder: CausalDecoder,
    pub form: Form,
}

/// How the trained weights are written.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub config: ModelConfig,
    /// Of a run that trains an adapter.
    pub adapter: Option<AdapterForm>,
}

#[derive(Debug, Clone)]
pub(crate) struct AdapterForm {
    pub config: LoraConfig,
    /// The directory of the base's weights.
    pub base: PathBuf,
}

/// Where a run starts: a model, or an adapter with its base.
pub(crate) struct Start {
    /// The model that all weights, or the base's, come from.
    pub base: PathBuf,
    /// The adapter that goes on being trained.
    adapter: Option<LoraAdapter>,
    /// The directory of the tokenizer.
    pub tokenizer: PathBuf,
}

impl Start {
    pub fn of(config: &TrainConfig) -> Result<Self> {
        let model = config.model.clone();
        if !LoraAdapter::is_in(&model) {
            if config.base_weights != WeightFormat::F32 && config.lora.is_none() {
                let reason = format!(
                    "{} is for a base that stays, under an adapter: weights that are trained are f32; train an adapter \
                     (--lora-rank), or leave it out",
                    config.base_weights
                );
                return Err(TrainError::config("base_weights", reason));
            }
            return Ok(Self {
                base: model.clone(),
                adapter: None,
                tokenizer: model,
            });
        }
        let adapter = LoraAdapter::read(&model)?;
        let own = LoraChoice::of(&adapter.config);
        if config.lora.as_ref().is_some_and(|asked| *asked != own) {
            let reason = format!(
                "{} is an adapter already, of another shape; leave `lora` out to go on training it, or merge it first \
                 with `aligner export --format hf`",
                model.display()
            );
            return Err(TrainError::config("lora", reason));
        }
        let base = adapter.base_dir(&model)?;
        let has_tokenizer = model.join("tokenizer.json").is_file();
        Ok(Self {
            tokenizer: if has_tokenizer { model } else { base.clone() },
            base,
            adapter: Some(adapter),
        })
    }

    /// The shape of the adapter that goes on being trained.
    pub fn lora(&self) -> Option<LoraConfig> {
        self.adapter.as_ref().map(|adapter| adapter.config.clone())
    }

    /// Tells one base from another: its configuration, and its weight files. Empty for a run that trains all weights: those
    /// are in its checkpoints.
    pub fn base_fingerprint(&self, config: &TrainConfig) -> Result<String> {
        // A run of DPO asks the model that it started from in every step.
        let is_asked = config.objective == ObjectiveKind::Dpo;
        if self.adapter.is_none() && config.lora.is_none() && !is_asked {
            return Ok(String::new());
        }
        let base = weights_fingerprint(&self.base)?;
        if !is_asked || self.adapter.is_none() {
            return Ok(base);
        }
        let adapter = weights_fingerprint(&config.model)?;
        Ok(format!("{base} {adapter}"))
    }
}

impl Trainee {
    /// Reads what is trained, from a checkpoint when there is one, onto a device with gradients.
    pub fn load(
        config: &TrainConfig,
        start: Start,
        checkpoint: Option<&Path>,
        device: &Device,
    ) -> Result<Self> {
        if config.objective.scores() {
            return Self::load_scoring(config, start, checkpoint, device);
        }
        let chosen = config.lora.as_ref().map(LoraChoice::resolve);
        let Some(lora) = start.lora().or(chosen) else {
            let Loaded { config, decoder } = load_dir(checkpoint.unwrap_or(&start.base), device)?;
            let form = Form {
                config,
                adapter: None,
            };
            return Ok(Self { decoder, form });
        };
        let base = load_dir_as(&start.base, config.base_weights, device)?;
        let adapter = match (checkpoint, start.adapter) {
            (Some(dir), _) => LoraAdapter::read(dir)?,
            (None, Some(adapter)) => adapter,
            (None, None) => LoraAdapter::new(&lora, &base.decoder, config.seed)?,
        };
        let form = Form {
            config: base.config,
            adapter: Some(AdapterForm {
                config: lora,
                base: std::path::absolute(&start.base).unwrap_or(start.base),
            }),
        };
        Ok(Self {
            decoder: base.decoder.frozen_with_adapter(&adapter)?,
            form,
        })
    }
}

impl Trainee {
    /// A model that scores: one that does already, or one that writes with a new head in place of its output projection.
    fn load_scoring(
        config: &TrainConfig,
        start: Start,
        checkpoint: Option<&Path>,
        device: &Device,
    ) -> Result<Self> {
        let place = checkpoint.unwrap_or(&start.base);
        let kind = match config.objective {
            ObjectiveKind::Cost => ScoreKind::Cost,
            _ => ScoreKind::Reward,
        };
        if start.adapter.is_some() {
            let reason = "is an adapter, whose directory has no place for the head: merge it first with \
                          `aligner export --format hf`";
            return Err(TrainError::config("model", reason));
        }
        let loaded = if ModelConfig::is_score_dir(place)? {
            load_score_dir(place, device)?
        } else {
            let Loaded {
                config: writes,
                decoder,
            } = load_dir(place, device)?;
            let scores = writes.into_score(kind);
            let decoder = decoder.with_new_score(&scores, config.seed, device);
            Loaded {
                config: scores,
                decoder,
            }
        };
        check_head(&loaded.config, kind)?;
        Ok(Self {
            decoder: loaded.decoder,
            form: Form {
                config: loaded.config,
                adapter: None,
            },
        })
    }

    /// The model that a run starts from, without gradients: what DPO holds the trained one against.
    pub fn reference(config: &TrainConfig, start: &Start, device: &Device) -> Result<CausalDecoder> {
        let base = load_dir_as(&start.base, config.base_weights, device)?.decoder;
        let decoder = match &start.adapter {
            Some(adapter) => base.with_adapter(adapter)?,
            None => base,
        };
        Ok(decoder.with_precision(config.precision))
    }
}

/// What is trained further has one score, of the kind that is trained, as it comes out of the head.
fn check_head(config: &ModelConfig, kind: ScoreKind) -> Result<()> {
    let Some(head) = &config.score else {
        return Ok(());
    };
    let reason = if head.outputs != 1 {
        format!("gives {} scores; a reward or cost is one", head.outputs)
    } else if head.kind != kind {
        format!("is a {} model, and a {kind} is trained", head.kind)
    } else if head.normalization.is_some() {
        "normalises its scores, which is not trained here (do_normalize in its config.json)".to_string()
    } else {
        return Ok(());
    };
    Err(TrainError::config("model", reason))
}

impl Form {
    /// Writes a Hugging Face model directory, or PEFT's of an adapter.
    pub fn save(&self, decoder: &CausalDecoder, dir: &Path) -> Result<()> {
        let Some(form) = &self.adapter else {
            return Ok(save_dir(&self.config, decoder, dir)?);
        };
        let mut adapter = LoraAdapter::of(decoder, &form.config)?;
        adapter.base_model = Some(form.base.to_string_lossy().into_owned());
        Ok(adapter.write(dir)?)
    }
}
