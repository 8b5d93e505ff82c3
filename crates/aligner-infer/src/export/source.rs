//! Where the parts of what is exported lie.

use std::path::{Path, PathBuf};

use aligner_data::AlignerManifest;
use aligner_model::weights::{NamedTensor, dir_tensors, named_tensors};
use aligner_model::{DeviceSpec, LoraAdapter, ModelConfig, load_dir};

use super::{ExportOptions, average};
use crate::error::{InferError, Result};

/// A model, or a base and an adapter over it.
pub(super) struct Source {
    /// What was named: its manifest and its tokenizer are the ones that count.
    pub own: PathBuf,
    /// The directory of the model's weights; absent when an adapter alone is wanted and its base is not here.
    base: Option<PathBuf>,
    pub adapter: Option<LoraAdapter>,
    /// Where the tokenizer lies.
    pub tokenizer: PathBuf,
    pub manifest: Option<AlignerManifest>,
    /// Those whose weights are averaged with its own.
    pub others: Vec<Self>,
}

impl Source {
    pub fn find(dir: &Path, options: &ExportOptions) -> Result<Self> {
        let own = options.adapter.as_deref().unwrap_or(dir);
        let adapter = if LoraAdapter::is_in(own) {
            Some(LoraAdapter::read(own)?)
        } else if options.adapter.is_some() {
            let reason = format!(
                "{} holds no adapter: it has no adapter_config.json",
                own.display()
            );
            return Err(InferError::Export(reason));
        } else {
            None
        };
        let alone = options.format == super::ExportFormat::Peft;
        let base = match (&adapter, &options.base) {
            (Some(_), Some(base)) => Some(base.clone()),
            (Some(_), None) if options.adapter.is_some() => Some(dir.to_path_buf()),
            (Some(adapter), None) => match adapter.base_dir(own) {
                Ok(base) => Some(base),
                Err(_) if alone => None,
                Err(error) => return Err(InferError::Export(format!("{error} with --base"))),
            },
            (None, _) => Some(dir.to_path_buf()),
        };
        let has_tokenizer = |dir: &&Path| dir.join("tokenizer.json").is_file();
        let places = [Some(own), Some(dir), base.as_deref()];
        let tokenizer = places.into_iter().flatten().find(has_tokenizer).unwrap_or(own);
        let manifest = match AlignerManifest::read(own)? {
            Some(manifest) => Some(manifest),
            None => AlignerManifest::read(dir)?,
        };
        let mut source = Self {
            tokenizer: tokenizer.to_path_buf(),
            own: own.to_path_buf(),
            base,
            adapter,
            manifest,
            others: Vec::new(),
        };
        source.others = average::others(&source, options)?;
        Ok(source)
    }

    /// All directories that are read.
    pub fn dirs(&self) -> Vec<&Path> {
        let own = [Some(&self.own), self.base.as_ref(), Some(&self.tokenizer)];
        let own = own.into_iter().flatten().map(PathBuf::as_path);
        own.chain(self.others.iter().flat_map(Self::dirs)).collect()
    }

    fn base(&self) -> Result<&Path> {
        let base = self.base.as_deref();
        base.ok_or_else(|| InferError::Export(format!("the base of {} is not known", self.own.display())))
    }

    pub fn config(&self) -> Result<ModelConfig> {
        Ok(ModelConfig::read(self.base()?)?)
    }

    /// The tensors to be written: the model's, or their mean with those of the others.
    pub fn tensors(&self, config: &ModelConfig) -> Result<Vec<NamedTensor>> {
        let own = self.own_tensors(config)?;
        let others = self.others.iter().map(|other| other.own_tensors(config));
        average::mean(own, others.collect::<Result<_>>()?)
    }

    /// The model's tensors, an adapter merged into them. Those of a plain model are read one at a time; for a merge the
    /// base is in memory.
    fn own_tensors(&self, config: &ModelConfig) -> Result<Vec<NamedTensor>> {
        let base = self.base()?;
        let Some(adapter) = &self.adapter else {
            return Ok(dir_tensors(config, base)?);
        };
        let loaded = load_dir(base, &DeviceSpec::Cpu.open()?)?;
        Ok(named_tensors(&loaded.decoder.merged(adapter)?))
    }

    /// What the model is called: its directory's name, a run's for its `final` or `best`.
    pub fn name(&self) -> String {
        let path = std::path::absolute(&self.own).unwrap_or_else(|_| self.own.clone());
        let names: Vec<String> = path
            .components()
            .rev()
            .filter_map(|part| match part {
                std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                _ => None,
            })
            .collect();
        let is_part_of_a_run = |name: &&String| !["final", "best"].contains(&name.as_str());
        let name = names.iter().find(is_part_of_a_run);
        name.cloned().unwrap_or_else(|| "aligner".into())
    }

    /// `aligner.json` as it stands.
    pub fn manifest_text(&self) -> Option<String> {
        let text = self
            .manifest
            .as_ref()
            .and_then(|manifest| serde_json::to_string_pretty(manifest).ok());
        text.map(|text| text + "\n")
    }
}
