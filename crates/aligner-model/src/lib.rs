//! A decoder-only transformer on [Burn](burn) that reads and writes Hugging Face model directories.
//!
//! ```text
//!  config.json ──▶ ModelConfig ──▶ CausalDecoder ◀──▶ model.safetensors (one file or shards)
//!                                   │   ◀─── pytorch_model.bin (likewise)
//!               token ids ─────────▶│──▶ hidden states ──▶ logits            (score, generate)
//!                                   └──▶ target_nll: loss of chosen tokens  (train)
//! ```
//!
//! The crate knows nothing of prompts, rows or sampling: ids go in, hidden states and logits come out. Training and
//! inference run the same [`CausalDecoder`]; the only difference is the device it was loaded on
//! ([`DeviceSpec::open`], with `.autodiff()` for training) and whether a [`KvCache`] is passed.
//!
//! # Example
//!
//! A model from scratch, its logits, and a round trip through a directory:
//!
//! ```
//! use aligner_model::{CausalDecoder, DeviceSpec, LlamaShape, ModelConfig, load_dir, save_dir};
//! use burn::tensor::{Int, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = DeviceSpec::Cpu.open()?;
//! let config = ModelConfig::llama(LlamaShape {
//!     vocab_size: 32, hidden_size: 16, intermediate_size: 24, layers: 2, heads: 4, kv_heads: 2, max_positions: 64,
//! })?;
//! let decoder = CausalDecoder::random(&config, 42, &device)?;
//! let ids = Tensor::<2, Int>::from_ints([[1, 5, 9]], &device);
//! let logits = decoder.logits(decoder.forward(ids, None)); // [1, 3, 32]
//! assert_eq!(logits.dims(), [1, 3, 32]);
//!
//! let dir = tempfile::tempdir()?;
//! save_dir(&config, &decoder, dir.path())?;
//! let loaded = load_dir(dir.path(), &device)?;
//! assert_eq!(loaded.config.layers, 2);
//! # Ok(()) }
//! ```

mod config;
mod decoder;
mod device;
mod error;
pub mod kernels;
pub mod lora;
mod loss;
pub mod nn;
mod pool;
mod read;
mod residual;
mod score;
mod steering;
pub mod weights;

pub use config::{
    Activation, LayerKind, LayerRope, LlamaShape, ModelConfig, NormPlacement, Normalization, Packing, QkNorm,
    RopeConfig, RopeScaling, ScoreConfig, ScoreKind, ScoreLayout, architectures,
};
pub use decoder::{CachedRun, CausalDecoder};
pub use device::{DeviceSpec, compiled_devices};
pub use error::{ModelError, Result};
pub use kernels::{
    Int8Weight, KvFormat, PanelWeight, Precision, QuantFormat, QuantizedWeight, RuntimeWeights, Sequences,
    WeightFormat,
};
pub use lora::{LoraAdapter, LoraConfig, TargetModules};
pub use loss::Targets;
pub use nn::KvCache;
pub use nn::with_dropout_seed;
pub use pool::on_pool;
pub use score::ScoreModel;
pub use steering::SteeringVector;
pub use weights::{
    Loaded, WeightsCache, load_dir, load_dir_as, load_dir_quantized, load_score_dir,
    load_score_dir_quantized, save_dir, weights_fingerprint,
};
