//! Weights in and out of a [`CausalDecoder`].
//!
//! A [`TensorSource`] gives tensors by their Hugging Face names; reading fills the decoder one tensor at a time, so that
//! no second copy of the model exists. Each file format is one source and one writer.

mod bind;
mod dtype;
mod from_dir;
/// The part of GGUF that its writer shares with its reader.
pub mod gguf {
    mod value;
    pub use value::{GgufArray, GgufValue};
}
pub mod gguf_export;
mod init;
mod names;
mod safetensors;
mod store;
mod write;

use std::path::Path;

use burn::tensor::Device;

pub use bind::{named_parameters, named_tensors};
pub use dtype::WeightDtype;
pub use from_dir::{as_stored, dir_tensors, source_tensors};
pub(crate) use init::uniform;
pub use safetensors::{NamedTensor, SafetensorsSource, write_safetensors};
pub use store::{DEFAULT_SHARD_BYTES, write_safetensors_as, write_shards};
pub(crate) use write::write_atomic;

use crate::config::ModelConfig;
use crate::decoder::CausalDecoder;
use crate::error::Result;

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub values: Vec<f32>,
}

/// Where tensors come from, by Hugging Face name.
pub trait TensorSource {
    /// The tensor called `name`, or `None` when there is none.
    ///
    /// # Errors
    /// When the tensor exists and cannot be read.
    fn read(&mut self, name: &str) -> Result<Option<HostTensor>>;

    /// All names.
    fn names(&self) -> Vec<String>;

    /// The file or directory, for messages.
    fn path(&self) -> &Path;
}

/// A model read from a directory.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The description.
    pub config: ModelConfig,
    /// The weights.
    pub decoder: CausalDecoder,
}

/// Reads a Hugging Face model directory: `config.json` and `model.safetensors`, or shards with their index.
///
/// # Errors
/// When a file is missing or damaged, the architecture is unknown, or a tensor is missing or of another shape.
pub fn load_dir(dir: &Path, device: &Device) -> Result<Loaded> {
    let config = ModelConfig::read(dir)?;
    let mut source = SafetensorsSource::open(dir)?;
    let decoder = bind::load(&config, &mut source, device)?;
    Ok(Loaded { config, decoder })
}

/// Writes `config.json` and `model.safetensors` (f32) into `dir`, which is created when missing.
///
/// Each file is written beside its place and renamed, so that a crash leaves the old file or the new one.
///
/// # Errors
/// When a file cannot be written or the device cannot be read.
pub fn save_dir(config: &ModelConfig, decoder: &CausalDecoder, dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(crate::ModelError::io("create", dir))?;
    let tensors = names::packed(config, named_tensors(decoder));
    write_safetensors(&dir.join("model.safetensors"), tensors)?;
    config.write(dir)
}

/// Reads the weights of a known configuration from a directory.
///
/// # Errors
/// As [`load_dir`].
pub fn load_weights(config: &ModelConfig, dir: &Path, device: &Device) -> Result<CausalDecoder> {
    bind::load(config, &mut SafetensorsSource::open(dir)?, device)
}

pub(crate) fn random(config: &ModelConfig, seed: u64, device: &Device) -> Result<CausalDecoder> {
    // New weights are asked for projection by projection, however they will be stored.
    let config = &ModelConfig {
        packing: crate::config::Packing::None,
        ..config.clone()
    };
    bind::load(config, &mut init::RandomSource::new(config, seed), device)
}
