//! Weights that are quantised as they are read, or come from a file beside the model that holds them so.

mod cache;
mod fingerprint;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use self::cache::CacheFile;
use super::{Loaded, bind, load_dir, open_dir};
use crate::config::ModelConfig;
use crate::decoder::CausalDecoder;
use crate::error::Result;
use crate::kernels::{QuantFormat, QuantizedWeight, RuntimeWeights};

/// Where quantised weights are kept from one start to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WeightsCache {
    /// In `model.FORMAT.aligner` in the model's directory; where that cannot be written to, in the user's cache
    /// (`$ALIGNER_CACHE`, else `$XDG_CACHE_HOME/aligner`, else `~/.cache/aligner`), in `weights`.
    #[default]
    BesideModel,
    /// In this directory.
    In(PathBuf),
    /// Nowhere: they are quantised at every start.
    Off,
}

/// [`load_dir`], with the weights held as a model that runs needs them: linear layers, embedding and output projection in a
/// format, norms and biases in f32.
///
/// Weights are quantised one after the other as they are read, so that the model is never there as f32. They are kept in a file
/// that later starts map into memory. It names the sizes and times of the model's files and a hash of parts of them, and holds a
/// CRC-32 of each weight; one that does not fit, or is damaged, is made anew. A file that cannot be written is a warning.
///
/// # Errors
/// As [`load_dir`].
pub fn load_dir_quantized(
    dir: &Path,
    format: RuntimeWeights,
    cache: &WeightsCache,
    device: &Device,
) -> Result<Loaded> {
    let Some(format) = format.quantized() else {
        return load_dir(dir, device);
    };
    let config = ModelConfig::read(dir)?;
    let places = cache.places(dir, format);
    let fingerprint = match places.is_empty() {
        true => String::new(),
        false => fingerprint::of_dir(dir)?,
    };
    let mut quantizer = Quantizer {
        format,
        cache: places
            .iter()
            .find_map(|path| CacheFile::find(path, format, &fingerprint)),
        made: 0,
    };
    let storage = bind::Storage::Quantized(&mut quantizer);
    let decoder = bind::load(&config, open_dir(dir)?.as_mut(), storage, device)?;
    if quantizer.made > 0 {
        keep(&places, format, &fingerprint, &decoder);
    }
    Ok(Loaded { config, decoder })
}

/// Writes the weights to the first place that takes them.
fn keep(places: &[PathBuf], format: QuantFormat, fingerprint: &str, decoder: &CausalDecoder) {
    let weights = decoder.quantized_weights();
    let mut errors = Vec::new();
    for path in places {
        match cache::write(path, format, fingerprint, &weights) {
            Ok(()) => return,
            Err(error) => errors.push(error.to_string()),
        }
    }
    if !errors.is_empty() {
        tracing::warn!(
            ?errors,
            "the quantised weights could not be kept: the next start will quantise them again"
        );
    }
}

impl WeightsCache {
    /// The files in which weights of a format may lie, best first.
    fn places(&self, dir: &Path, format: QuantFormat) -> Vec<PathBuf> {
        let name = format!("model.{format}.aligner");
        match self {
            Self::Off => Vec::new(),
            Self::In(place) => vec![place.join(name)],
            Self::BesideModel => {
                let beside = dir.join(&name);
                let users =
                    user_dir().map(|cache| cache.join("weights").join(fingerprint::of_path(dir)).join(name));
                std::iter::once(beside).chain(users).collect()
            }
        }
    }
}

/// The user's cache, as that of tokens.
fn user_dir() -> Option<PathBuf> {
    let variable = |name| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    let home = || variable("HOME").or_else(|| variable("USERPROFILE"));
    variable("ALIGNER_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|caches| caches.join("aligner")))
        .or_else(|| home().map(|home| home.join(".cache/aligner")))
}

/// Gives weights in their format: from the cache, or made of what the model's files hold.
pub(super) struct Quantizer {
    format: QuantFormat,
    cache: Option<CacheFile>,
    /// Weights that did not come from the cache.
    made: usize,
}

impl Quantizer {
    /// The format of linear layers, or of embedding and output projection.
    pub fn format(&self, is_embedding: bool) -> QuantFormat {
        if is_embedding {
            self.format.of_embedding()
        } else {
            self.format
        }
    }

    /// A weight from the cache.
    pub fn cached(&self, name: &str, format: QuantFormat, dims: [usize; 2]) -> Option<QuantizedWeight> {
        let weight = self.cache.as_ref()?.weight(name)?;
        (weight.format() == format && weight.dims() == dims).then(|| weight.clone())
    }

    /// A weight from the model's file.
    ///
    /// # Errors
    /// As [`QuantizedWeight::quantize`].
    pub fn make(&mut self, weight: &super::HostTensor, format: QuantFormat) -> Result<QuantizedWeight> {
        self.made += 1;
        QuantizedWeight::quantize(weight, format)
    }
}
