//! What is trained: all weights of a model, or an adapter over weights that stay.

use std::path::{Path, PathBuf};

use aligner_model::{
    CausalDecoder, Loaded, LoraAdapter, LoraConfig, ModelConfig, WeightFormat, load_dir, load_dir_as,
    save_dir,
};
use burn::tensor::Device;
use sha2::{Digest, Sha256};

use crate::config::{LoraChoice, TrainConfig};
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

    /// Tells one base from another: its configuration, and names and sizes of its weight files. Empty for a run that trains
    /// all weights: those are in its checkpoints.
    pub fn base_fingerprint(&self, config: &TrainConfig) -> Result<String> {
        if self.adapter.is_none() && config.lora.is_none() {
            return Ok(String::new());
        }
        let read = |error| TrainError::io("read", &self.base)(error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.base).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".safetensors") || name.ends_with(".bin") {
                // Through a link, as the Hub's cache has them.
                let bytes = std::fs::metadata(entry.path()).map_err(read)?.len();
                files.push(format!("{name} {bytes}\n"));
            }
        }
        files.sort_unstable();
        let path = self.base.join("config.json");
        let mut hash = Sha256::new();
        hash.update(std::fs::read(&path).map_err(TrainError::io("read", &path))?);
        files.iter().for_each(|file| hash.update(file));
        let digest = hash.finalize();
        Ok(digest
            .iter()
            .fold("sha256:".into(), |text, byte| text + &format!("{byte:02x}")))
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
