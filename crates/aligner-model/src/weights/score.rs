//! Models that score answers: in transformers' layout of a sequence classifier, and in Safe-RLHF's.

use std::path::Path;

use burn::tensor::Device;

use super::names::NORMALIZER;
use super::quantized::load_quantized;
use super::{Loaded, TensorSource, WeightsCache, bind, open_dir};
use crate::config::ModelConfig;
use crate::error::{ModelError, Result};
use crate::kernels::RuntimeWeights;

/// Reads the directory of a model that scores answers, as one that is trained further.
///
/// The decoder has a [`score`](crate::CausalDecoder::score) head and no output projection.
///
/// # Errors
/// As [`load_dir`](crate::load_dir), and when the model is one that writes.
pub fn load_score_dir(dir: &Path, device: &Device) -> Result<Loaded> {
    let mut source = open_dir(dir)?;
    let config = score_config(dir, source.as_mut())?;
    let decoder = bind::load(&config, source.as_mut(), bind::Storage::F32, device)?;
    Ok(Loaded { config, decoder })
}

/// Reads the directory of a model that scores answers, as one that runs; see
/// [`load_dir_quantized`](crate::load_dir_quantized).
///
/// # Errors
/// As [`load_score_dir`].
pub fn load_score_dir_quantized(
    dir: &Path,
    format: RuntimeWeights,
    cache: &WeightsCache,
    device: &Device,
) -> Result<Loaded> {
    let config = score_config(dir, open_dir(dir)?.as_mut())?;
    load_quantized(config, dir, format, cache, device)
}

/// The configuration, with what the weights know better: whether the head has a bias, of which releases of Safe-RLHF had two
/// spellings and two defaults, and the numbers of the normaliser.
fn score_config(dir: &Path, source: &mut dyn TensorSource) -> Result<ModelConfig> {
    let mut config = ModelConfig::read_score(dir)?;
    let Some(score) = &mut config.score else {
        return Ok(config);
    };
    let names = source.names();
    score.bias = names
        .iter()
        .any(|name| name == "score_head.bias" || name == "score.bias");
    let Some(numbers) = &mut score.normalization else {
        return Ok(config);
    };
    for (name, place) in [("mean", &mut numbers.mean), ("var", &mut numbers.variance)] {
        let name = format!("{NORMALIZER}{name}");
        let Some(tensor) = source.read(&name)? else {
            continue;
        };
        if tensor.values.len() != place.len() {
            return Err(ModelError::Shape {
                path: source.path().to_path_buf(),
                name,
                expected: vec![place.len()],
                got: tensor.shape,
            });
        }
        *place = tensor.values;
    }
    if let Some(bad) = numbers.variance.iter().find(|variance| **variance < 0.0) {
        return Err(ModelError::config("var", format!("{bad} is below 0")));
    }
    Ok(config)
}
