//! From directories to a [`Corrector`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aligner_data::{AlignerManifest, PromptTemplate, Tokenizer};
use aligner_model::{DeviceSpec, KvFormat, LoraAdapter, RuntimeWeights, WeightsCache, load_dir_quantized};

use crate::corrector::{Corrector, Voice};
use crate::decoder::DecoderLm;
use crate::error::{InferError, Result};
use crate::steer::{check_strength, steering_of};

/// Opens a [`Corrector`] that differs from the default.
///
/// Several adapters over one base, of which each request chooses one:
///
/// ```no_run
/// use aligner_infer::{CorrectOptions, Corrector};
///
/// let corrector = Corrector::builder("models/base")
///     .adapter("safety", "runs/safety/final")
///     .adapter("empathy", "runs/empathy/final")
///     .build()?;
/// let options = CorrectOptions::default();
/// let correction = corrector.adapter("safety")?.correct("Is the earth flat?", "Yes, it is.", &options)?;
/// # Ok::<(), aligner_infer::InferError>(())
/// ```
#[derive(Debug, Clone)]
pub struct CorrectorBuilder {
    dir: PathBuf,
    base: Option<PathBuf>,
    adapters: Vec<(String, PathBuf)>,
    device: DeviceSpec,
    weights: RuntimeWeights,
    kv_format: Option<KvFormat>,
    cache: WeightsCache,
    template: Option<PromptTemplate>,
    allow_mismatch: bool,
    strength: f64,
}

impl CorrectorBuilder {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            base: None,
            adapters: Vec::new(),
            device: DeviceSpec::Cpu,
            weights: RuntimeWeights::F32,
            kv_format: None,
            cache: WeightsCache::BesideModel,
            template: None,
            allow_mismatch: false,
            strength: 1.0,
        }
    }

    /// Corrects less or more than the model was trained to, from 0 (copies more) over 1 (as it was trained) to 1.5 (changes
    /// more): by the control vector in `steering.safetensors` beside the model, or beside each adapter.
    #[must_use]
    pub fn strength(mut self, strength: f64) -> Self {
        self.strength = strength;
        self
    }

    /// Runs on this device instead of the CPU.
    #[must_use]
    pub fn device(mut self, device: DeviceSpec) -> Self {
        self.device = device;
        self
    }

    /// Holds the weights in fewer bits than f32, which is smaller and faster on the CPU; adapters stay f32.
    #[must_use]
    pub fn weights(mut self, weights: RuntimeWeights) -> Self {
        self.weights = weights;
        self
    }

    /// Holds keys and values in this format, instead of f32 beside f32 weights and f16 beside others. Half the memory of each
    /// token is twice as many requests at once, and long contexts are read faster.
    #[must_use]
    pub fn kv_format(mut self, format: KvFormat) -> Self {
        self.kv_format = Some(format);
        self
    }

    /// Where such weights are kept for the next start, instead of beside the model.
    #[must_use]
    pub fn weights_cache(mut self, cache: WeightsCache) -> Self {
        self.cache = cache;
        self
    }

    /// Uses this template: needed for a directory without `aligner.json`, an error where another one is recorded.
    #[must_use]
    pub fn template(mut self, template: PromptTemplate) -> Self {
        self.template = Some(template);
        self
    }

    /// Turns a template or tokenizer other than the recorded one from an error into a warning.
    #[must_use]
    pub fn allow_mismatch(mut self) -> Self {
        self.allow_mismatch = true;
        self
    }

    /// Where the base of an adapter's directory lies, instead of where its `adapter_config.json` says.
    #[must_use]
    pub fn base(mut self, dir: impl AsRef<Path>) -> Self {
        self.base = Some(dir.as_ref().to_path_buf());
        self
    }

    /// Loads an adapter (PEFT's directory) over the same base, for [`Corrector::adapter`].
    ///
    /// Without further ado the corrector is the model of its own directory; where that is no Aligner and no template was
    /// given, it is the first adapter.
    #[must_use]
    pub fn adapter(mut self, name: &str, dir: impl AsRef<Path>) -> Self {
        self.adapters.push((name.to_string(), dir.as_ref().to_path_buf()));
        self
    }

    /// Reads the model.
    ///
    /// # Errors
    /// When a file is missing or damaged, the template is not known or not the model's, an adapter does not fit, the device is
    /// not there or does not take such weights, or a strength is asked for without a control vector that was fitted to the model.
    pub fn build(self) -> Result<Corrector> {
        check_strength(self.strength)?;
        self.check_formats()?;
        let own = if LoraAdapter::is_in(&self.dir) {
            Some(LoraAdapter::read(&self.dir)?)
        } else {
            None
        };
        let base_dir = match (&own, &self.base) {
            (None, _) => self.dir.clone(),
            (Some(_), Some(base)) => base.clone(),
            (Some(adapter), None) => adapter.base_dir(&self.dir)?,
        };
        let has_tokenizer = self.dir.join("tokenizer.json").is_file();
        let tokenizer = Tokenizer::from_dir(if has_tokenizer { &self.dir } else { &base_dir })?;
        // Before the weights are read, which takes a while.
        let template = match self.resolve_template(&self.dir, &tokenizer) {
            Err(InferError::NoTemplate(_)) if !self.adapters.is_empty() => None,
            resolved => Some(resolved?),
        };
        let device = self.device.open()?;
        let loaded = load_dir_quantized(&base_dir, self.weights, &self.cache, &device)?;
        let base = DecoderLm::new(loaded, device).with_kv_format(self.keys_and_values());
        let mut adapters = BTreeMap::new();
        let mut first = None;
        for (name, dir) in &self.adapters {
            let template = self.resolve_template(dir, &tokenizer)?;
            let model = base.with_adapter(&LoraAdapter::read(dir)?)?;
            let model = self.steered(model, dir, Some(&base_dir), &template)?;
            let voice = Arc::new(Voice::new(model, tokenizer.clone(), template)?);
            first.get_or_insert_with(|| Arc::clone(&voice));
            adapters.insert(name.clone(), voice);
        }
        let model = match &own {
            Some(adapter) => base.with_adapter(adapter)?,
            None => base,
        };
        let voice = match (template, first) {
            (Some(template), _) => {
                let model = self.steered(model, &self.dir, own.as_ref().map(|_| &*base_dir), &template)?;
                Arc::new(Voice::new(model, tokenizer, template)?)
            }
            (None, Some(first)) => first,
            (None, None) => return Err(InferError::NoTemplate(self.dir.display().to_string())),
        };
        Ok(Corrector::of_voices(voice, adapters))
    }

    /// The model of `dir`, or an adapter of `dir` over `base`, at the strength asked for.
    fn steered(
        &self,
        model: DecoderLm,
        dir: &Path,
        base: Option<&Path>,
        template: &PromptTemplate,
    ) -> Result<DecoderLm> {
        if self.strength == 1.0 {
            return Ok(model);
        }
        model.with_steering(&steering_of(dir, base, template)?, self.strength)
    }

    /// The format that was chosen, or the one that suits the weights: who rounds these does not miss what f16 leaves out.
    fn keys_and_values(&self) -> KvFormat {
        self.kv_format.unwrap_or(match self.weights {
            RuntimeWeights::F32 => KvFormat::F32,
            RuntimeWeights::Bf16 | RuntimeWeights::Q8 | RuntimeWeights::Q4 => KvFormat::F16,
        })
    }

    /// Another device would bring weights into f32 for every product, and has keys and values in f32.
    fn check_formats(&self) -> Result<()> {
        if self.device == DeviceSpec::Cpu {
            return Ok(());
        }
        if self.weights != RuntimeWeights::F32 {
            return Err(InferError::WeightsOfDevice {
                weights: self.weights,
                device: self.device,
            });
        }
        match self.kv_format {
            None | Some(KvFormat::F32) => Ok(()),
            Some(format) => Err(InferError::KvOfDevice {
                format,
                device: self.device,
            }),
        }
    }

    /// The template of a directory, once its tokenizer is known to be the recorded one.
    fn resolve_template(&self, dir: &Path, tokenizer: &Tokenizer) -> Result<PromptTemplate> {
        let manifest = AlignerManifest::read(dir)?;
        let model = || dir.display().to_string();
        if let Some(manifest) = &manifest
            && manifest.tokenizer_hash != tokenizer.hash()
        {
            self.tolerate(InferError::WrongTokenizer {
                model: model(),
                found: tokenizer.hash().to_string(),
                recorded: manifest.tokenizer_hash.clone(),
            })?;
        }
        match (&self.template, manifest) {
            (Some(asked), Some(manifest)) if asked.fingerprint() != manifest.template_fingerprint => {
                self.tolerate(InferError::WrongTemplate {
                    model: model(),
                    trained: manifest.template.id().to_string(),
                    trained_fingerprint: manifest.template_fingerprint.clone(),
                    asked: asked.id().to_string(),
                    asked_fingerprint: asked.fingerprint(),
                })?;
                Ok(asked.clone())
            }
            (Some(asked), _) => Ok(asked.clone()),
            (None, Some(manifest)) => Ok(manifest.template),
            (None, None) => Err(InferError::NoTemplate(model())),
        }
    }

    fn tolerate(&self, error: InferError) -> Result<()> {
        if !self.allow_mismatch {
            return Err(error);
        }
        tracing::warn!("{error}");
        Ok(())
    }
}
