//! A Hugging Face `config.json` from a GGUF file's metadata.

use serde_json::{Map, Value, json};

use super::names::{Family, heads};
use super::rope::{self, Rotation};
use super::tokenizer::{SpecialIds, TOKENS};
use super::{GgufFile, GgufValue};
use crate::error::Result;

/// Keys of an architecture that change what is computed and that none of the four families' models has; 0 is "no".
const NOT_READ: [&str; 7] = [
    "expert_count",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "attention.scale",
    "attn_logit_softcapping",
    "final_logit_softcapping",
];

/// What `config.json` says about the model in a file.
///
/// # Errors
/// When the architecture is not known, a key is missing or of another type, or the model computes something that
/// `config.json` of its architecture cannot say.
pub fn hf_config(file: &GgufFile) -> Result<Map<String, Value>> {
    let family = Family::of(file)?;
    let keys = Keys { file, family };
    keys.refuse_what_is_not_read()?;
    let (queries, keys_and_values) = heads(file, family)?;
    let hidden_size = keys.required("embedding_length")?;
    let head_dim = keys.head_dim(hidden_size, queries)?;
    let max_positions = keys.required("context_length")?;
    let rotation = Rotation {
        theta: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        rotary_dim: keys.count("rope.dimension_count")?.unwrap_or(head_dim),
        head_dim,
        max_positions,
    };
    let ids = SpecialIds::read(file)?;
    let fields = [
        ("architectures", json!([family.architecture])),
        ("model_type", json!(family.name)),
        ("vocab_size", json!(vocab_size(file)?)),
        ("hidden_size", json!(hidden_size)),
        ("intermediate_size", json!(keys.required("feed_forward_length")?)),
        ("num_hidden_layers", json!(keys.required("block_count")?)),
        ("num_attention_heads", json!(queries)),
        ("num_key_value_heads", json!(keys_and_values)),
        ("head_dim", json!(head_dim)),
        ("max_position_embeddings", json!(max_positions)),
        ("rms_norm_eps", json!(keys.norm_epsilon()?)),
        ("rope_parameters", rope::parameters(file, family, &rotation)?),
        ("hidden_act", json!(family.activation)),
        ("hidden_activation", json!(family.activation)),
        ("attention_bias", json!(keys.attention_bias()?)),
        (
            "mlp_bias",
            json!(file.tensors().contains_key("blk.0.ffn_down.bias")),
        ),
        // llama.cpp computes with the embedding when there is no output projection.
        (
            "tie_word_embeddings",
            json!(!file.tensors().contains_key("output.weight")),
        ),
        ("bos_token_id", json!(ids.bos)),
        ("eos_token_id", json!(ids.eos)),
        ("pad_token_id", json!(ids.padding)),
        ("dtype", json!("float32")),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.to_string(), value));
    Ok(fields.collect())
}

/// Rows of the embedding, which may be more than there are tokens.
fn vocab_size(file: &GgufFile) -> Result<usize> {
    const EMBEDDING: &str = "token_embd.weight";
    let tensor = file.tensors().get(EMBEDDING);
    let tensor = tensor.ok_or_else(|| file.error(format!("has no tensor {EMBEDDING}")))?;
    let rows = tensor.shape.first().copied().unwrap_or(0);
    match file.strings(TOKENS)? {
        Some(tokens) if tokens.len() > rows => {
            let tokens = tokens.len();
            Err(file.error(format!("has {tokens} tokens, but {EMBEDDING} has {rows} rows")))
        }
        _ => Ok(rows),
    }
}

/// The metadata of one architecture, by the part of the key behind its name.
struct Keys<'a> {
    file: &'a GgufFile,
    family: &'a Family,
}

impl Keys<'_> {
    fn key(&self, leaf: &str) -> String {
        format!("{}.{leaf}", self.family.name)
    }

    fn count(&self, leaf: &str) -> Result<Option<u64>> {
        self.file.count(&self.key(leaf))
    }

    fn float(&self, leaf: &str) -> Result<Option<f64>> {
        self.file.float(&self.key(leaf))
    }

    fn required(&self, leaf: &str) -> Result<u64> {
        self.count(leaf)?
            .ok_or_else(|| self.file.missing(&self.key(leaf)))
    }

    fn norm_epsilon(&self) -> Result<f64> {
        const LEAF: &str = "attention.layer_norm_rms_epsilon";
        self.float(LEAF)?
            .ok_or_else(|| self.file.missing(&self.key(LEAF)))
    }

    fn head_dim(&self, hidden_size: u64, heads: u64) -> Result<u64> {
        let keys = self.count("attention.key_length")?;
        let values = self.count("attention.value_length")?;
        match (keys, values) {
            (Some(keys), Some(values)) if keys != values => {
                let reason =
                    format!("has keys of width {keys} and values of width {values}: they must be equal");
                Err(self.file.error(reason))
            }
            (Some(width), _) | (None, Some(width)) => Ok(width),
            (None, None) if heads > 0 && hidden_size.is_multiple_of(heads) => Ok(hidden_size / heads),
            (None, None) => {
                let reason = format!("has {heads} heads, which do not divide {hidden_size} dimensions");
                Err(self.file.error(reason))
            }
        }
    }

    /// Whether attention's projections have biases; Qwen2's have, and its `config.json` does not say so.
    fn attention_bias(&self) -> Result<bool> {
        let has = |part: &str| {
            let name = format!("blk.0.{part}.bias");
            self.file.tensors().contains_key(&name)
        };
        let (queries, output) = (has("attn_q"), has("attn_output"));
        if self.family.name != "qwen2" && queries != output {
            let reason =
                "has biases for only some of attention's projections, which Hugging Face's model has not";
            return Err(self.file.error(reason));
        }
        Ok(queries)
    }

    fn refuse_what_is_not_read(&self) -> Result<()> {
        for leaf in NOT_READ {
            let key = self.key(leaf);
            if let Some(value) = self.file.metadata().get(&key)
                && value.as_f64() != Some(0.0)
            {
                let found = value
                    .as_f64()
                    .map_or("set".to_string(), |value| value.to_string());
                let reason = format!("is a model whose {key} is {found}, which is not supported");
                return Err(self.file.error(reason));
            }
        }
        let key = self.key("attention.causal");
        if self.file.metadata().get(&key) == Some(&GgufValue::Bool(false)) {
            return Err(self
                .file
                .error("is no causal language model: its tokens see those after them"));
        }
        Ok(())
    }
}
