//! Weights as models that run need them: made as they are read, or from a file beside the model that holds them so.

mod cache;
mod kept;

use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use self::cache::CacheFile;
use self::kept::Kept;
use super::{Loaded, bind, fingerprint, open_dir};
use crate::config::ModelConfig;
use crate::decoder::CausalDecoder;
use crate::error::Result;
use crate::kernels::{PanelWeight, QuantFormat, QuantizedWeight, RuntimeWeights};

/// Bytes of panels in f32 that are kept in a file: fewer are made in no time, and more would double what a model takes on the disk
/// before anybody asked for it.
const KEPT_F32: Range<usize> = 16 << 20..1 << 30;

/// Where weights are kept from one start to the next, as they are multiplied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WeightsCache {
    /// In `model.FORMAT.aligner` in the model's directory; where that cannot be written to, in the user's cache
    /// (`$ALIGNER_CACHE`, else `$XDG_CACHE_HOME/aligner`, else `~/.cache/aligner`), in `weights`.
    #[default]
    BesideModel,
    /// In this directory.
    In(PathBuf),
    /// Nowhere: they are made at every start.
    Off,
}

/// [`load_dir`](crate::load_dir), with the weights held as a model that runs needs them: linear layers, embedding and output projection in a
/// format, norms and biases in f32. In f32 on the CPU all of these matrices are [`PanelWeight`](crate::PanelWeight)s.
///
/// Weights are quantised one after the other as they are read, so that the model is never there as f32. They are kept in a file
/// that later starts map into memory; in f32 where they take from 16 MiB to 1 GiB. The file names the sizes and times of the model's
/// files and a hash of parts of them, and holds a CRC-32 of each weight; one that does not fit, or is damaged, is made anew. A file
/// that cannot be written is a warning.
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
    let runs_here = *device == Device::flex();
    if format == RuntimeWeights::F32 && !runs_here {
        let decoder = bind::load(&config, open_dir(dir)?.as_mut(), bind::Storage::F32, device)?;
        return Ok(Loaded { config, decoder });
    }
    let places = cache.places(dir, format);
    let fingerprint = match places.is_empty() {
        true => String::new(),
        false => fingerprint::of_dir(dir)?,
    };
    let open = || {
        let mut store = Store {
            cache: places
                .iter()
                .find_map(|path| CacheFile::find(path, format, &fingerprint)),
            made: 0,
        };
        let storage = match format.quantized() {
            Some(format) => bind::Storage::Quantized(format, &mut store),
            None => bind::Storage::Panels(&mut store),
        };
        let decoder = bind::load(&config, open_dir(dir)?.as_mut(), storage, device)?;
        Ok((decoder, store.made))
    };
    let (mut decoder, made) = open()?;
    // Panels of f32 lie in large pages as they are; others are read faster from a mapped file than from memory of one's own.
    if made > 0 && keep(&places, format, &fingerprint, &decoder) && format != RuntimeWeights::F32 {
        drop(decoder);
        (decoder, _) = open()?;
    }
    Ok(Loaded { config, decoder })
}

/// Writes the weights to the first place that takes them.
fn keep(places: &[PathBuf], format: RuntimeWeights, fingerprint: &str, decoder: &CausalDecoder) -> bool {
    let weights: Vec<(String, Kept)> = decoder
        .matrices()
        .filter_map(|(name, weight)| Some((name, Kept::of(weight)?)))
        .collect();
    let bytes: usize = weights.iter().map(|(_, weight)| weight.bytes().len()).sum();
    if format == RuntimeWeights::F32 && !KEPT_F32.contains(&bytes) {
        return false;
    }
    let mut errors = Vec::new();
    for path in places {
        match cache::write(path, format, fingerprint, &weights) {
            Ok(()) => {
                tracing::info!(path = %path.display(), bytes, "the weights are kept for the next start");
                return true;
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if !errors.is_empty() {
        tracing::warn!(
            ?errors,
            %format,
            "the weights could not be kept: the next start will make them again"
        );
    }
    false
}

impl WeightsCache {
    /// The files in which weights of a format may lie, best first.
    fn places(&self, dir: &Path, format: RuntimeWeights) -> Vec<PathBuf> {
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

/// Weights from the file beside the model, and how many had to be made of what the model's files hold.
pub(super) struct Store {
    cache: Option<CacheFile>,
    made: usize,
}

impl Store {
    /// A quantised weight from the cache.
    pub fn quantized(&self, name: &str, format: QuantFormat, dims: [usize; 2]) -> Option<QuantizedWeight> {
        match self.cache.as_ref()?.weight(name)? {
            Kept::Quantized(weight) if weight.format() == format && weight.dims() == dims => {
                Some(weight.clone())
            }
            _ => None,
        }
    }

    /// A quantised weight from the model's file.
    ///
    /// # Errors
    /// As [`QuantizedWeight::quantize`].
    pub fn quantize(&mut self, weight: &super::HostTensor, format: QuantFormat) -> Result<QuantizedWeight> {
        self.made += 1;
        QuantizedWeight::quantize(weight, format)
    }

    /// Weights in panels: all of them are in the cache, or all are to be made.
    pub fn panels(&mut self, wanted: &[(String, [usize; 2])]) -> Option<Vec<PanelWeight>> {
        let kept = |(name, dims): &(String, [usize; 2])| match self.cache.as_ref()?.weight(name)? {
            Kept::Panels(weight) if weight.dims() == *dims => Some(weight.clone()),
            _ => None,
        };
        let all: Option<Vec<_>> = wanted.iter().map(kept).collect();
        if all.is_none() {
            self.made += wanted.len();
        }
        all
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
            RuntimeWeights::Q8,
            "print",
            &decoder
        ));
        assert!(keep(&[bad, good.clone()], RuntimeWeights::Q8, "print", &decoder));
        let file = CacheFile::open(&good, RuntimeWeights::Q8, "print").unwrap();
        for (name, weight) in decoder.matrices() {
            let weight = Kept::of(weight).unwrap();
            assert_eq!(file.weight(&name).unwrap().bytes(), weight.bytes());
        }
        assert_eq!(decoder.matrices().count(), 8);
    }

    #[test]
    fn places_are_beside_the_model_first() {
        let dir = Path::new("models/a");
        let places = |cache: WeightsCache| cache.places(dir, RuntimeWeights::Q4);
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
