//! Hugging Face's `config.json` → [`ModelConfig`].

use serde_json::{Map, Value};

use super::{Activation, ModelConfig, RopeConfig, SUPPORTED};
use crate::error::{ModelError, Result};

/// The largest size accepted for any dimension, so that products of dimensions cannot overflow.
const MAX_DIMENSION: u64 = 1 << 24;

/// Typed reading of one JSON object; errors name the field.
pub(super) struct Fields<'a>(pub &'a Map<String, Value>);

impl Fields<'_> {
    fn present(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub fn float(&self, name: &'static str) -> Result<Option<f64>> {
        self.present(name)
            .map(|value| {
                let number = value.as_f64().filter(|number| number.is_finite());
                number.ok_or_else(|| ModelError::config(name, format!("{value} is not a number")))
            })
            .transpose()
    }

    fn dimension(&self, name: &'static str) -> Result<Option<usize>> {
        self.present(name)
            .map(|value| match value.as_u64() {
                Some(number @ 1..=MAX_DIMENSION) => Ok(number as usize),
                _ => Err(ModelError::config(
                    name,
                    format!("{value} is not a number in 1..={MAX_DIMENSION}"),
                )),
            })
            .transpose()
    }

    fn required(&self, name: &'static str) -> Result<usize> {
        self.dimension(name)?
            .ok_or_else(|| ModelError::config(name, "is missing"))
    }

    fn boolean(&self, name: &'static str) -> Result<Option<bool>> {
        self.present(name)
            .map(|value| {
                value
                    .as_bool()
                    .ok_or_else(|| ModelError::config(name, "is not true or false"))
            })
            .transpose()
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.present(name).and_then(Value::as_str)
    }

    pub fn object(&self, name: &'static str) -> Result<Option<&Map<String, Value>>> {
        self.present(name)
            .map(|value| {
                value
                    .as_object()
                    .ok_or_else(|| ModelError::config(name, "is not an object"))
            })
            .transpose()
    }
}

pub(super) fn from_map(raw: Map<String, Value>) -> Result<ModelConfig> {
    let fields = Fields(&raw);
    let architecture = architecture(&fields)?;
    let (hidden_size, heads) = (
        fields.required("hidden_size")?,
        fields.required("num_attention_heads")?,
    );
    let kv_heads = fields.dimension("num_key_value_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let reason = format!("{kv_heads} does not divide num_attention_heads = {heads}");
        return Err(ModelError::config("num_key_value_heads", reason));
    }
    let max_positions = fields.dimension("max_position_embeddings")?.unwrap_or(2048);
    let config = ModelConfig {
        architecture,
        vocab_size: fields.required("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required("intermediate_size")?,
        layers: fields.required("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim: head_dim(&fields, hidden_size, heads)?,
        max_positions,
        rms_norm_eps: fields.float("rms_norm_eps")?.unwrap_or(1e-6),
        rope: RopeConfig::from_fields(&fields, max_positions)?,
        tie_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
        attention_bias: fields.boolean("attention_bias")?.unwrap_or(false),
        mlp_bias: fields.boolean("mlp_bias")?.unwrap_or(false),
        activation: activation(&fields)?,
        initializer_range: fields.float("initializer_range")?.unwrap_or(0.02),
        raw: Map::new(),
    };
    Ok(ModelConfig { raw, ..config })
}

fn architecture(fields: &Fields<'_>) -> Result<String> {
    let named = fields
        .0
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(Value::as_str);
    let found = named
        .or_else(|| fields.text("model_type"))
        .unwrap_or("(none named)");
    if SUPPORTED.contains(&found) {
        return Ok(found.to_string());
    }
    if named.is_none() && found == "llama" {
        return Ok("LlamaForCausalLM".to_string());
    }
    Err(ModelError::Architecture {
        found: found.to_string(),
        supported: SUPPORTED.to_vec(),
    })
}

fn head_dim(fields: &Fields<'_>, hidden_size: usize, heads: usize) -> Result<usize> {
    let head_dim = match fields.dimension("head_dim")? {
        Some(given) => given,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let reason =
                format!("{heads} does not divide hidden_size = {hidden_size} and head_dim is not given");
            return Err(ModelError::config("num_attention_heads", reason));
        }
    };
    // Rotary embedding turns pairs of dimensions.
    if !head_dim.is_multiple_of(2) {
        return Err(ModelError::config(
            "head_dim",
            format!("{head_dim} is odd; rotary embedding needs pairs"),
        ));
    }
    Ok(head_dim)
}

fn activation(fields: &Fields<'_>) -> Result<Activation> {
    match fields.text("hidden_act").unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(ModelError::config(
            "hidden_act",
            format!("{other:?} is not supported; supported: silu"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RopeScaling;

    fn parse(change: impl FnOnce(&mut Map<String, Value>)) -> Result<ModelConfig> {
        let mut raw = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 10, "hidden_size": 12, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 3,
        });
        change(raw.as_object_mut().unwrap());
        from_map(raw.as_object().unwrap().clone())
    }

    #[test]
    fn absent_and_null_fields_take_transformers_defaults() {
        let config = parse(|raw| {
            raw.insert("head_dim".into(), Value::Null);
        })
        .unwrap();
        assert_eq!(
            (config.kv_heads, config.head_dim, config.max_positions),
            (3, 4, 2048)
        );
        assert_eq!((config.rms_norm_eps, config.tie_embeddings), (1e-6, false));
        assert_eq!(
            (config.rope.theta, config.rope.scaling),
            (10_000.0, RopeScaling::None)
        );
    }

    #[test]
    fn a_given_head_dim_need_not_divide_the_hidden_size() {
        let config = parse(|raw| {
            raw.insert("head_dim".into(), 6.into());
        })
        .unwrap();
        assert_eq!(config.head_dim, 6);
    }

    #[test]
    fn an_unknown_architecture_is_refused_by_name_with_the_known_ones() {
        let error = parse(|raw| {
            raw.insert("architectures".into(), serde_json::json!(["MambaForCausalLM"]));
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("MambaForCausalLM") && error.contains("LlamaForCausalLM"),
            "{error}"
        );
    }

    #[test]
    fn hostile_numbers_are_refused_and_name_their_field() {
        for (field, value) in [
            ("hidden_size", serde_json::json!(0)),
            ("vocab_size", serde_json::json!(-5)),
            ("num_hidden_layers", serde_json::json!(1u64 << 60)),
            ("intermediate_size", serde_json::json!("8")),
            ("head_dim", serde_json::json!(3)),
            ("hidden_act", serde_json::json!("relu3")),
            ("rms_norm_eps", serde_json::json!("small")),
        ] {
            let error = parse(|raw| {
                raw.insert(field.into(), value);
            });
            assert!(error.unwrap_err().to_string().contains(field), "{field}");
        }
    }
}
