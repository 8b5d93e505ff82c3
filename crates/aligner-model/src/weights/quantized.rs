//! Weights that are quantised as they are read, or come from a file beside the model that holds them so.

mod cache;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use self::cache::CacheFile;
use super::{Loaded, bind, fingerprint, open_dir};
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

/// [`load_dir`](crate::load_dir), with the weights held as a model that runs needs them: linear layers, embedding and output projection in a
/// format, norms and biases in f32. In f32 on the CPU linear layers are [`PanelWeight`](crate::PanelWeight)s.
///
/// Weights are quantised one after the other as they are read, so that the model is never there as f32. They are kept in a file
/// that later starts map into memory. It names the sizes and times of the model's files and a hash of parts of them, and holds a
/// CRC-32 of each weight; one that does not fit, or is damaged, is made anew. A file that cannot be written is a warning.
///
/// # Errors
/// As [`load_dir`](crate::load_dir).
pub fn load_dir_quantized(
    dir: &Path,
    format: RuntimeWeights,
    cache: &WeightsCache,
    device: &Device,
) -> Result<Loaded> {
    load_quantized(ModelConfig::read(dir)?, dir, format, cache, device)
}

/// [`load_dir_quantized`] of a known configuration.
pub(super) fn load_quantized(
    config: ModelConfig,
    dir: &Path,
    format: RuntimeWeights,
    cache: &WeightsCache,
    device: &Device,
) -> Result<Loaded> {
    let Some(format) = format.quantized() else {
        let runs_here = *device == Device::flex();
        let storage = if runs_here {
            bind::Storage::Panels
        } else {
            bind::Storage::F32
        };
        let decoder = bind::load(&config, open_dir(dir)?.as_mut(), storage, device)?;
        return Ok(Loaded { config, decoder });
    };
    let places = cache.places(dir, format);
    let fingerprint = match places.is_empty() {
        true => String::new(),
        false => fingerprint::of_dir(dir)?,
    };
    let open = || {
        let mut quantizer = Quantizer {
            format,
            cache: places
                .iter()
                .find_map(|path| CacheFile::find(path, format, &fingerprint)),
            made: 0,
        };
        let storage = bind::Storage::Quantized(&mut quantizer);
        let decoder = bind::load(&config, open_dir(dir)?.as_mut(), storage, device)?;
        Ok((decoder, quantizer.made))
    };
    let (mut decoder, made) = open()?;
    if made > 0 && keep(&places, format, &fingerprint, &decoder) {
        // A mapped file lies in larger pages than memory of one's own, and is read faster.
        drop(decoder);
        (decoder, _) = open()?;
    }
    Ok(Loaded { config, decoder })
}

/// Writes the weights to the first place that takes them.
fn keep(places: &[PathBuf], format: QuantFormat, fingerprint: &str, decoder: &CausalDecoder) -> bool {
    let weights = decoder.quantized_weights();
    let mut errors = Vec::new();
    for path in places {
        match cache::write(path, format, fingerprint, &weights) {
            Ok(()) => return true,
            Err(error) => errors.push(error.to_string()),
        }
    }
    if !errors.is_empty() {
        tracing::warn!(
            ?errors,
            "the quantised weights could not be kept: the next start will quantise them again"
        );
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LlamaShape;

    #[test]
    fn where_the_first_place_cannot_be_written_to_the_next_is() {
        let dir = tempfile::tempdir().unwrap();
        let shape = LlamaShape {
            vocab_size: 16,
            hidden_size: 8,
            intermediate_size: 8,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            max_positions: 8,
        };
        let config = ModelConfig::llama(shape).unwrap();
        let device = Device::flex();
        let decoder = CausalDecoder::random(&config, 1, &device).unwrap();
        crate::save_dir(&config, &decoder, dir.path()).unwrap();
        let decoder = load_dir_quantized(dir.path(), RuntimeWeights::Q8, &WeightsCache::Off, &device);
        let decoder = decoder.unwrap().decoder;
        // Below a file there is no directory.
        let (bad, good) = (dir.path().join("config.json/a"), dir.path().join("b/c"));
        assert!(!keep(
            std::slice::from_ref(&bad),
            QuantFormat::Q8,
            "print",
            &decoder
        ));
        assert!(keep(&[bad, good.clone()], QuantFormat::Q8, "print", &decoder));
        let file = CacheFile::open(&good, QuantFormat::Q8, "print").unwrap();
        for (name, weight) in decoder.quantized_weights() {
            assert_eq!(file.weight(&name).unwrap().bytes(), weight.bytes());
        }
        assert_eq!(decoder.quantized_weights().len(), 8);
    }

    #[test]
    fn places_are_beside_the_model_first() {
        let dir = Path::new("models/a");
        let places = |cache: WeightsCache| cache.places(dir, QuantFormat::Q4);
        assert!(places(WeightsCache::Off).is_empty());
        assert_eq!(
            places(WeightsCache::In("x".into())),
            [Path::new("x/model.q4.aligner")]
        );
        let beside = places(WeightsCache::BesideModel);
        assert_eq!(beside[0], dir.join("model.q4.aligner"));
        for users in &beside[1..] {
            let parent = users.parent().unwrap();
            assert_eq!(parent.file_name().unwrap().len(), 16);
            assert!(parent.parent().unwrap().ends_with("weights"));
        }
    }
}
