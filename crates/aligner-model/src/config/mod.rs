//! The description of a model that the one decoder reads.

mod families;
mod fields;
mod hf;
mod rope;
mod score;

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{ModelError, Result};
use crate::read::{MAX_CONFIG_BYTES, bounded, json_error};
pub use families::{NormPlacement, Packing, QkNorm};
pub use rope::{RopeConfig, RopeScaling};
pub use score::{Normalization, ScoreConfig, ScoreKind, ScoreLayout};

/// The architectures that the decoder runs, as `config.json` names them.
pub fn architectures() -> Vec<&'static str> {
    families::names()
}

/// The activation of the gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`, also called swish.
    Silu,
    /// `x · Φ(x)` (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    Gelu,
    /// Its approximation by a hyperbolic tangent.
    GeluTanh,
}

/// In what a layer differs from its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerKind {
    /// Tokens that a token sees, itself included; all before it when absent.
    pub window: Option<usize>,
    /// Which rotary embedding it has.
    pub rope: LayerRope,
}

/// The rotary embedding of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerRope {
    /// [`ModelConfig::rope`].
    Global,
    /// [`ModelConfig::local_rope`].
    Local,
    /// None at all.
    None,
}

/// The shape of a decoder, as data: what differs between models is here and not in the code that runs them.
///
/// Read from a Hugging Face `config.json` with [`ModelConfig::read`], or made for a new model with
/// [`ModelConfig::llama`].
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The entry of `architectures`, for example `LlamaForCausalLM`.
    pub architecture: String,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; `hidden_size / heads` unless given.
    pub head_dim: usize,
    /// Context length in tokens the model was made for.
    pub max_positions: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Each layer's window and rotary embedding.
    pub layer_kinds: Vec<LayerKind>,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// That of layers with a window, where it is another one.
    pub local_rope: Option<RopeConfig>,
    /// Whether the output projection is the token embedding.
    pub tie_embeddings: bool,
    /// Whether query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has one.
    pub output_bias: bool,
    /// Whether the MLP's projections have a bias.
    pub mlp_bias: bool,
    /// Normalisation of queries and keys.
    pub qk_norm: QkNorm,
    /// Where a block's norms stand.
    pub norms: NormPlacement,
    /// Whether norms multiply by `1 + weight` instead of `weight`.
    pub norm_offset: bool,
    /// Which projections are stored as one tensor.
    pub packing: Packing,
    /// The MLP's activation.
    pub activation: Activation,
    /// What the token embedding is multiplied by.
    pub embedding_scale: Option<f64>,
    /// What attention scores are multiplied by before the softmax.
    pub attention_scale: f64,
    /// `cap · tanh(score / cap)` of every attention score.
    pub attention_softcap: Option<f64>,
    /// The same of every logit.
    pub logit_softcap: Option<f64>,
    /// Standard deviation of new weights.
    pub initializer_range: f64,
    /// The head of a model that scores instead of writing; it has no output projection.
    pub score: Option<ScoreConfig>,
    /// `config.json` as it was read, so that what this crate does not interpret survives a round trip.
    pub(crate) raw: Map<String, Value>,
}

/// The numbers that make a new Llama-shaped model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LlamaShape {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream; a multiple of `heads`.
    pub hidden_size: usize,
    /// Width inside the gated MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Context length in tokens.
    pub max_positions: usize,
}

impl ModelConfig {
    /// A new Llama-shaped model with tied embeddings, RMSNorm epsilon 1e-5 and rope base 10 000.
    ///
    /// # Errors
    /// [`ModelError::Config`] when the numbers do not fit together.
    pub fn llama(shape: LlamaShape) -> Result<Self> {
        let raw = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": shape.max_positions,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
            "initializer_range": 0.02,
        });
        match raw {
            Value::Object(raw) => hf::from_map(raw),
            _ => Err(ModelError::config("architectures", "not an object")),
        }
    }

    /// Whether both compute the same with the same weights: they differ in nothing but how new weights are drawn, and in
    /// what of `config.json` this crate does not interpret.
    pub fn computes_as(&self, other: &Self) -> bool {
        let interpreted = |config: &Self| Self {
            raw: Map::new(),
            initializer_range: 0.0,
            ..config.clone()
        };
        interpreted(self) == interpreted(other)
    }

    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// When the file is missing or no JSON, names an architecture that is not supported, or lacks a field.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        Self::parse(&path, &bounded(&path, MAX_CONFIG_BYTES)?)
    }

    /// Reads the content of a `config.json`; `path` stands for it in messages.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        hf::from_map(serde_json::from_slice(json).map_err(json_error(path))?)
    }

    /// Reads `dir/config.json` of a model that scores answers.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when the model is one that writes.
    pub fn read_score(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let json = bounded(&path, MAX_CONFIG_BYTES)?;
        Self::score_from_map(serde_json::from_slice(&json).map_err(json_error(&path))?)
    }

    /// Whether `dir/config.json` names a model that scores answers instead of writing them.
    ///
    /// # Errors
    /// When the file is missing or no JSON.
    pub fn is_score_dir(dir: &Path) -> Result<bool> {
        let path = dir.join("config.json");
        let raw: Value =
            serde_json::from_slice(&bounded(&path, MAX_CONFIG_BYTES)?).map_err(json_error(&path))?;
        let named = raw["architectures"][0].as_str();
        Ok(named.and_then(score::decoder_of).is_some())
    }

    /// From the fields of a `config.json` of a model that scores.
    pub(crate) fn score_from_map(raw: Map<String, Value>) -> Result<Self> {
        let config = hf::read(raw)?;
        match config.score {
            Some(_) => Ok(config),
            None => Err(ModelError::NoScoreModel {
                found: config.architecture,
            }),
        }
    }

    /// From the fields of a `config.json`.
    pub(crate) fn from_map(raw: Map<String, Value>) -> Result<Self> {
        hf::from_map(raw)
    }

    /// Writes `dir/config.json`: the fields it was read with, weights declared as float32.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.write_as(dir, crate::weights::WeightDtype::F32)
    }

    /// [`write`](Self::write) for weights of another type.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_as(&self, dir: &Path, dtype: crate::weights::WeightDtype) -> Result<()> {
        let mut raw = self.raw.clone();
        raw.remove("torch_dtype");
        raw.insert("dtype".into(), dtype.torch_name().into());
        let text = serde_json::to_string_pretty(&raw).map_err(|source| ModelError::Json {
            path: dir.join("config.json"),
            source,
        })?;
        let path = dir.join("config.json");
        crate::weights::write_atomic(&path, |file| {
            std::io::Write::write_all(file, text.as_bytes()).map_err(ModelError::io("write", &path))
        })
    }

    /// Sets the ids that `config.json` declares as beginning and end of a sequence.
    #[must_use]
    pub fn with_token_ids(mut self, bos: Option<u32>, eos: u32) -> Self {
        self.raw
            .insert("bos_token_id".into(), bos.map_or(Value::Null, Into::into));
        self.raw.insert("eos_token_id".into(), eos.into());
        self
    }

    /// Tokens that a sequence may have in a cache. Keys keep the rotation that they were computed with, so only up to where a
    /// rotary embedding has other frequencies is a sequence in parts the same as in one pass; else `max_positions`.
    pub fn cached_positions(&self) -> usize {
        let ropes = std::iter::once(&self.rope).chain(&self.local_rope);
        let original = ropes.filter_map(RopeConfig::original_positions);
        original.fold(self.max_positions, usize::min)
    }

    /// Number of weights, in elements; a tied output projection counts once.
    pub fn parameters(&self) -> usize {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let attention = self.hidden_size * (queries + keys) * 2;
        let mlp = 3 * self.hidden_size * self.intermediate_size;
        let norms = if self.norms == NormPlacement::Around { 4 } else { 2 };
        let qk_norms = match self.qk_norm {
            QkNorm::None => 0,
            QkNorm::PerHead => 2 * self.head_dim,
            QkNorm::Whole => queries + keys,
        };
        let biases = [
            (self.qkv_bias, queries + 2 * keys),
            (self.output_bias, self.hidden_size),
            (self.mlp_bias, 2 * self.intermediate_size + self.hidden_size),
        ];
        let biases: usize = biases
            .iter()
            .filter(|(is_there, _)| *is_there)
            .map(|(_, size)| size)
            .sum();
        let per_layer = attention + mlp + norms * self.hidden_size + qk_norms + biases;
        let embeddings = self.vocab_size * self.hidden_size * if self.tie_embeddings { 1 } else { 2 };
        let head = self.score.as_ref().map_or(0, |score| {
            score.outputs * (self.hidden_size + usize::from(score.bias))
        });
        head + embeddings + self.layers * per_layer + self.hidden_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> LlamaShape {
        LlamaShape {
            vocab_size: 32,
            hidden_size: 16,
            intermediate_size: 24,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            max_positions: 64,
        }
    }

    #[test]
    fn a_new_model_survives_a_round_trip_through_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = ModelConfig::llama(shape()).unwrap().with_token_ids(None, 3);
        config.write(dir.path()).unwrap();
        let read = ModelConfig::read(dir.path()).unwrap();
        assert_eq!((read.layers, read.head_dim, &read.rope), (2, 4, &config.rope));
        assert_eq!(read.raw["eos_token_id"], 3);
        assert_eq!(read.raw["dtype"], "float32");
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        let error = ModelConfig::llama(LlamaShape {
            kv_heads: 3,
            ..shape()
        })
        .unwrap_err();
        assert!(error.to_string().contains("num_key_value_heads"), "{error}");
        let error = ModelConfig::llama(LlamaShape { heads: 0, ..shape() }).unwrap_err();
        assert!(error.to_string().contains("num_attention_heads"), "{error}");
    }

    #[test]
    fn unknown_keys_of_the_file_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ModelConfig::llama(shape()).unwrap();
        config
            .raw
            .insert("from_elsewhere".into(), serde_json::json!({"a": [1]}));
        config.write(dir.path()).unwrap();
        assert_eq!(
            ModelConfig::read(dir.path()).unwrap().raw["from_elsewhere"]["a"][0],
            1
        );
    }
}
