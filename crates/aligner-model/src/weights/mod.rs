//! Weights in and out of a [`CausalDecoder`].
//!
//! A [`TensorSource`] gives tensors by their Hugging Face names; reading fills the decoder one tensor at a time, so that
//! no second copy of the model exists. Each file format is one source and one writer. Files are mapped into memory, and a
//! tensor is converted to f32, transposed and checked in one pass over the mapping.

mod bind;
mod dtype;
mod fingerprint;
mod from_dir;
pub mod gguf;
pub mod gguf_export;
mod init;
mod map;
mod names;
mod pytorch;
mod quantized;
mod safetensors;
mod score;
mod shard_index;
mod shards;
mod store;
mod view;
mod write;

use std::path::Path;

use burn::tensor::Device;
use rayon::prelude::*;

pub use bind::{named_parameters, named_tensors};
pub use dtype::WeightDtype;
pub use fingerprint::weights_fingerprint;
pub use from_dir::{as_stored, dir_tensors, source_tensors};
pub(crate) use init::{new_matrix, uniform};
pub(crate) use map::MappedFile;
pub use pytorch::PytorchSource;
pub use quantized::{WeightsCache, load_dir_quantized};
pub use safetensors::{NamedTensor, SafetensorsSource, write_safetensors};
pub use score::{load_score_dir, load_score_dir_quantized};
pub use shard_index::ShardIndex;
pub use store::{DEFAULT_SHARD_BYTES, write_safetensors_as, write_shards};
pub(crate) use write::write_atomic;

use crate::config::ModelConfig;
use crate::decoder::CausalDecoder;
use crate::error::Result;
use crate::kernels::WeightFormat;

/// A tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// The matrix with its dimensions exchanged; a tensor that is no matrix as it is.
    #[must_use]
    pub(crate) fn transposed(self) -> Self {
        match self.shape[..] {
            [rows, columns] => Self {
                shape: vec![columns, rows],
                values: bind::transpose(&self),
            },
            _ => self,
        }
    }

    /// See [`TensorSource::read_bands`].
    fn hand_over(self, bands: Bands<'_>) -> Vec<usize> {
        if self.shape == bands.shape {
            let values = self.values.par_chunks((bands.rows * bands.shape[1]).max(1));
            values
                .enumerate()
                .for_each(|(band, values)| (bands.each)(band, values));
        }
        self.shape
    }
}

/// What is to become of the rows of a matrix.
#[derive(Clone, Copy)]
pub struct Bands<'a> {
    /// Rows and columns; of a tensor of another shape no band is made.
    pub shape: [usize; 2],
    /// Rows of a band; the last one may have fewer.
    pub rows: usize,
    /// Takes a band's number and its elements, row-major; in any order and on any thread.
    pub each: &'a (dyn Fn(usize, &[f32]) + Sync),
}

/// Where tensors come from, by Hugging Face name.
pub trait TensorSource {
    /// The tensor called `name`, or `None` when there is none.
    ///
    /// # Errors
    /// When the tensor exists and cannot be read.
    fn read(&mut self, name: &str) -> Result<Option<HostTensor>>;

    /// The matrix called `name` with its dimensions exchanged; a tensor that is no matrix as it is.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_transposed(&mut self, name: &str) -> Result<Option<HostTensor>> {
        Ok(self.read(name)?.map(HostTensor::transposed))
    }

    /// Hands over the matrix called `name` in bands of its rows, and gives the tensor's shape. A source that can makes no more
    /// than a band for each thread of it.
    ///
    /// # Errors
    /// As [`read`](Self::read); some bands may have been handed over then.
    fn read_bands(&mut self, name: &str, bands: Bands<'_>) -> Result<Option<Vec<usize>>> {
        Ok(self.read(name)?.map(|tensor| tensor.hand_over(bands)))
    }

    /// The shape of the tensor called `name`, of which no element is read; `None` when there is none.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn shape_of(&self, name: &str) -> Result<Option<Vec<usize>>>;

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

/// Reads a Hugging Face model directory: `config.json` and `model.safetensors`, or `pytorch_model.bin` when there is none,
/// each as one file or as shards with their index.
///
/// # Errors
/// When a file is missing or damaged, the architecture is unknown, or a tensor is missing or of another shape.
pub fn load_dir(dir: &Path, device: &Device) -> Result<Loaded> {
    load_dir_as(dir, WeightFormat::F32, device)
}

/// [`load_dir`], with the linear layers of the blocks in a format: embeddings, norms and output projection stay f32.
///
/// Weights are quantised one after the other as they are read, so that the model is never there as f32.
///
/// # Errors
/// As [`load_dir`].
pub fn load_dir_as(dir: &Path, format: WeightFormat, device: &Device) -> Result<Loaded> {
    let config = ModelConfig::read(dir)?;
    let decoder = bind::load(&config, open_dir(dir)?.as_mut(), format.into(), device)?;
    Ok(Loaded { config, decoder })
}

/// Writes `config.json` and `model.safetensors` (f32) into `dir`, which is created when missing.
///
/// Each file is written beside its place and renamed, so that a crash leaves the old file or the new one.
///
/// # Errors
/// When a file cannot be written or the device cannot be read, or the weights are held in fewer bits.
pub fn save_dir(config: &ModelConfig, decoder: &CausalDecoder, dir: &Path) -> Result<()> {
    if let Some(format) = decoder.rounded_to() {
        return Err(crate::ModelError::Export(format!(
            "the weights are held in {format}; the files that they were read from are the model"
        )));
    }
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
    bind::load(config, open_dir(dir)?.as_mut(), bind::Storage::F32, device)
}

/// The weights of a directory in the first format that it has.
fn open_dir(dir: &Path) -> Result<Box<dyn TensorSource>> {
    if let Some(source) = SafetensorsSource::find(dir)? {
        return Ok(Box::new(source));
    }
    if let Some(source) = PytorchSource::find(dir)? {
        return Ok(Box::new(source));
    }
    Err(crate::ModelError::NoWeights(dir.to_path_buf()))
}

pub(crate) fn random(config: &ModelConfig, seed: u64, device: &Device) -> Result<CausalDecoder> {
    // New weights are asked for projection by projection, however they will be stored.
    let config = &ModelConfig {
        packing: crate::config::Packing::None,
        ..config.clone()
    };
    let mut source = init::RandomSource::new(config, seed);
    bind::load(config, &mut source, bind::Storage::F32, device)
}
