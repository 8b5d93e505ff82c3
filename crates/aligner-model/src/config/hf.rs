//! Hugging Face's `config.json` → [`ModelConfig`].

use serde_json::{Map, Value};

use super::families::{self, Bias, FAMILIES, Family, Packing, Windows};
use super::fields::{Fields, MAX_DIMENSION};
use super::rope::RopeDefaults;
use super::{Activation, LayerKind, LayerRope, ModelConfig, RopeConfig, RopeScaling, score};
use crate::error::{ModelError, Result};

/// The largest number of layers accepted: far beyond any model, and small enough that layers can be listed before it is
/// known whether the weights have them.
const MAX_LAYERS: usize = 1 << 12;

/// The configuration of a model that writes.
pub(super) fn from_map(raw: Map<String, Value>) -> Result<ModelConfig> {
    let named = raw.get("architectures").and_then(|list| list.get(0));
    let found = named.and_then(Value::as_str).map(str::to_string);
    let config = read(raw)?;
    match config.score {
        None => Ok(config),
        Some(_) => Err(ModelError::IsScoreModel {
            found: found.unwrap_or_default(),
        }),
    }
}

/// The configuration of a model that writes, or of one that scores.
pub(super) fn read(raw: Map<String, Value>) -> Result<ModelConfig> {
    let fields = Fields(&raw);
    let family = family(&fields)?;
    let score = score::read(&fields)?;
    let (hidden_size, heads) = (
        fields.required("hidden_size")?,
        fields.required("num_attention_heads")?,
    );
    let kv_heads = kv_heads(&fields, family, heads)?;
    let head_dim = head_dim(&fields, family, hidden_size, heads)?;
    let layers = fields.required("num_hidden_layers")?;
    if layers > MAX_LAYERS {
        let reason = format!("{layers} is not a number in 1..={MAX_LAYERS}");
        return Err(ModelError::config("num_hidden_layers", reason));
    }
    let pretrained_positions = max_positions(&fields, family)?;
    let ropes = Ropes::read(&fields, family, head_dim, pretrained_positions)?;
    let declared = fields.boolean("attention_bias")?.unwrap_or(false);
    let (qkv_bias, output_bias) = match family.bias {
        Bias::Declared => (declared, declared),
        Bias::Qkv => (true, false),
        Bias::None => (false, false),
    };
    let config = ModelConfig {
        architecture: family.architecture.to_string(),
        vocab_size: fields.required("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required("intermediate_size")?,
        layers,
        heads,
        kv_heads,
        head_dim,
        max_positions: ropes.max_positions,
        rms_norm_eps: norm_eps(&fields, family)?,
        layer_kinds: layer_kinds(&fields, family, layers)?,
        rope: ropes.global,
        local_rope: ropes.local,
        tie_embeddings: score.is_some()
            || fields
                .boolean("tie_word_embeddings")?
                .unwrap_or(family.default_tied),
        qkv_bias,
        output_bias,
        mlp_bias: fields.boolean("mlp_bias")?.unwrap_or(false),
        qk_norm: family.qk_norm,
        norms: family.norms,
        norm_offset: family.norm_offset,
        packing: family.packing,
        activation: activation(&fields, family)?,
        embedding_scale: family.scale_embedding.then(|| (hidden_size as f64).sqrt()),
        attention_scale: attention_scale(&fields, family, head_dim)?,
        attention_softcap: softcap(
            &fields,
            "attn_logit_softcapping",
            family.softcaps.map(|caps| caps.0),
        )?,
        logit_softcap: softcap(
            &fields,
            "final_logit_softcapping",
            family.softcaps.map(|caps| caps.1),
        )?,
        initializer_range: fields.float("initializer_range")?.unwrap_or(0.02),
        score,
        raw: Map::new(),
    };
    Ok(ModelConfig { raw, ..config })
}

fn family(fields: &Fields<'_>) -> Result<&'static Family> {
    let named = fields
        .0
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(Value::as_str);
    let by_name = |name: &str| {
        let decoder = score::decoder_of(name).map(|(decoder, _)| decoder);
        let name = decoder.as_deref().unwrap_or(name);
        FAMILIES.iter().find(|family| family.architecture == name)
    };
    let by_type = |kind| FAMILIES.iter().find(|family| family.model_type == kind);
    let kind = fields.text("model_type");
    match (named, kind) {
        (Some(name), _) => by_name(name),
        (None, Some(kind)) => by_type(kind),
        (None, None) => None,
    }
    .ok_or_else(|| ModelError::Architecture {
        found: named.or(kind).unwrap_or("(none named)").to_string(),
        supported: families::names(),
    })
}

fn norm_eps(fields: &Fields<'_>, family: &Family) -> Result<f64> {
    const NAME: &str = "rms_norm_eps";
    let epsilon = fields.float(NAME)?.unwrap_or(family.default_norm_eps);
    if epsilon >= 0.0 {
        Ok(epsilon)
    } else {
        Err(ModelError::config(NAME, format!("{epsilon} is below 0")))
    }
}

fn max_positions(fields: &Fields<'_>, family: &Family) -> Result<usize> {
    let given = fields.dimension("max_position_embeddings")?;
    if given.is_none() && family.packing == Packing::Baichuan {
        let reason = "is missing: Baichuan-13B, which has no rotary embedding, is not supported";
        return Err(ModelError::config("max_position_embeddings", reason));
    }
    Ok(given.unwrap_or(family.default_max_positions))
}

fn kv_heads(fields: &Fields<'_>, family: &Family, heads: usize) -> Result<usize> {
    let default = family.default_kv_heads.unwrap_or(heads);
    let kv_heads = fields.dimension("num_key_value_heads")?.unwrap_or(default);
    if heads.is_multiple_of(kv_heads) {
        Ok(kv_heads)
    } else {
        let reason = format!("{kv_heads} does not divide num_attention_heads = {heads}");
        Err(ModelError::config("num_key_value_heads", reason))
    }
}

fn head_dim(fields: &Fields<'_>, family: &Family, hidden_size: usize, heads: usize) -> Result<usize> {
    let head_dim = match fields.dimension("head_dim")?.or(family.default_head_dim) {
        Some(given) => given,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let reason =
                format!("{heads} does not divide hidden_size = {hidden_size} and head_dim is not given");
            return Err(ModelError::config("num_attention_heads", reason));
        }
    };
    if (heads * head_dim) as u64 > MAX_DIMENSION {
        let reason = format!("{heads} heads of {head_dim} are wider than {MAX_DIMENSION}");
        return Err(ModelError::config("num_attention_heads", reason));
    }
    // Rotary embedding turns pairs of dimensions.
    if !head_dim.is_multiple_of(2) {
        return Err(ModelError::config(
            "head_dim",
            format!("{head_dim} is odd; rotary embedding needs pairs"),
        ));
    }
    Ok(head_dim)
}

/// Rotary embeddings, and the context they reach over.
struct Ropes {
    global: RopeConfig,
    local: Option<RopeConfig>,
    max_positions: usize,
}

impl Ropes {
    fn read(fields: &Fields<'_>, family: &Family, head_dim: usize, max_positions: usize) -> Result<Self> {
        let defaults = RopeDefaults {
            theta: family.default_theta,
            head_dim,
            max_positions,
        };
        let global = RopeConfig::from_fields(fields, Some("full_attention"), &defaults)?;
        let local = match family.local_theta {
            None => None,
            Some(theta) if fields.object("rope_parameters")?.is_none() => {
                let theta = fields.float("rope_local_base_freq")?.unwrap_or(theta);
                Some(RopeConfig::plain(theta, 1.0, &defaults)?)
            }
            Some(theta) => {
                let defaults = RopeDefaults { theta, ..defaults };
                Some(RopeConfig::from_fields(
                    fields,
                    Some("sliding_attention"),
                    &defaults,
                )?)
            }
        };
        let max_positions = match global.scaling {
            // `max_position_embeddings` is the pretraining's here, and the factor says how far beyond it one may go.
            RopeScaling::Dynamic { factor, .. } => {
                (max_positions as f64 * factor.clamp(1.0, 1024.0)) as usize
            }
            _ => max_positions,
        };
        Ok(Self {
            global,
            local,
            max_positions,
        })
    }
}

fn layer_kinds(fields: &Fields<'_>, family: &Family, layers: usize) -> Result<Vec<LayerKind>> {
    let has_rope = rope_layers(fields, family, layers)?;
    let windowed = window_layers(fields, family, layers, &has_rope)?;
    let default = if fields.0.contains_key("sliding_window") {
        None
    } else {
        family.default_window
    };
    let window = fields.dimension("sliding_window")?.or(default);
    let kind = |(windowed, has_rope): (bool, bool)| LayerKind {
        window: window.filter(|_| windowed),
        rope: match (has_rope, windowed && family.local_theta.is_some()) {
            (false, _) => LayerRope::None,
            (true, true) => LayerRope::Local,
            (true, false) => LayerRope::Global,
        },
    };
    Ok(windowed.into_iter().zip(has_rope).map(kind).collect())
}

/// Which layers rotate queries and keys.
fn rope_layers(fields: &Fields<'_>, family: &Family, layers: usize) -> Result<Vec<bool>> {
    if family.no_rope_interval == 0 {
        return Ok(vec![true; layers]);
    }
    const NAME: &str = "no_rope_layers";
    let Some(list) = fields.present(NAME) else {
        let interval = fields
            .dimension("no_rope_layer_interval")?
            .unwrap_or(family.no_rope_interval);
        return Ok((1..=layers)
            .map(|layer| !layer.is_multiple_of(interval))
            .collect());
    };
    // Despite its name the list has 1 where there is a rotary embedding.
    let list: Vec<bool> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_u64)
        .map(|flag| flag != 0)
        .collect();
    if list.len() == layers {
        Ok(list)
    } else {
        Err(ModelError::config(
            NAME,
            format!("does not have a number for each of {layers} layers"),
        ))
    }
}

/// Which layers look only as far back as the window.
fn window_layers(
    fields: &Fields<'_>,
    family: &Family,
    layers: usize,
    has_rope: &[bool],
) -> Result<Vec<bool>> {
    let switched_on = fields.boolean("use_sliding_window")?.unwrap_or(false);
    match family.windows {
        Windows::None => return Ok(vec![false; layers]),
        Windows::All => return Ok(vec![true; layers]),
        Windows::Declared if !switched_on => return Ok(vec![false; layers]),
        Windows::Declared | Windows::AllBut(_) => {}
    }
    if let Some(list) = fields.present("layer_types") {
        return layer_types(list, layers);
    }
    Ok(match family.windows {
        Windows::AllBut(interval) => {
            let interval = fields.dimension("sliding_window_pattern")?.unwrap_or(interval);
            (1..=layers)
                .map(|layer| !layer.is_multiple_of(interval))
                .collect()
        }
        _ if family.no_rope_interval > 0 => has_rope.iter().map(|has_rope| !has_rope).collect(),
        _ => {
            let first = fields.count("max_window_layers")?.unwrap_or(28);
            (0..layers).map(|layer| layer >= first).collect()
        }
    })
}

fn layer_types(list: &Value, layers: usize) -> Result<Vec<bool>> {
    let error = |reason: String| ModelError::config("layer_types", reason);
    let list = list.as_array().filter(|list| list.len() == layers);
    let list = list.ok_or_else(|| error(format!("does not name each of {layers} layers")))?;
    let windowed = list.iter().map(|kind| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(error(format!(
            "{kind} is not full_attention or sliding_attention"
        ))),
    });
    windowed.collect()
}

fn activation(fields: &Fields<'_>, family: &Family) -> Result<Activation> {
    let given = fields
        .text("hidden_activation")
        .or_else(|| fields.text("hidden_act"));
    match given.unwrap_or(family.default_activation) {
        "silu" | "swish" => Ok(Activation::Silu),
        // The first Gemma's files say `gelu` and mean the approximation.
        "gelu" if family.norm_offset => Ok(Activation::GeluTanh),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "gelu" => Ok(Activation::Gelu),
        other => Err(ModelError::config(
            "hidden_act",
            format!("{other:?} is not supported; supported: silu, gelu, gelu_pytorch_tanh"),
        )),
    }
}

fn attention_scale(fields: &Fields<'_>, family: &Family, head_dim: usize) -> Result<f64> {
    const NAME: &str = "query_pre_attn_scalar";
    let of = if family.own_attention_scale {
        fields.float(NAME)?.unwrap_or(256.0)
    } else {
        head_dim as f64
    };
    if of > 0.0 {
        Ok(of.powf(-0.5))
    } else {
        Err(ModelError::config(NAME, format!("{of} is not positive")))
    }
}

/// A cap of a family that has one: the file's, the family's when the file is silent, none when it says null.
fn softcap(fields: &Fields<'_>, name: &'static str, default: Option<f64>) -> Result<Option<f64>> {
    match (fields.float(name)?, default) {
        (Some(cap), _) if cap > 0.0 => Ok(Some(cap)),
        (Some(cap), _) => Err(ModelError::config(name, format!("{cap} is not positive"))),
        (None, Some(default)) if !fields.0.contains_key(name) => Ok(Some(default)),
        (None, _) => Ok(None),
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
    fn a_cache_holds_no_more_than_the_frequencies_are_the_same_for() {
        let positions = |scaling: Value| {
            let config = parse(|raw| {
                raw.insert("max_position_embeddings".into(), 128.into());
                raw.insert("rope_scaling".into(), scaling);
            });
            let config = config.unwrap();
            (config.cached_positions(), config.max_positions)
        };
        let longrope = serde_json::json!({"type": "longrope", "original_max_position_embeddings": 24,
            "short_factor": [1, 1], "long_factor": [2, 3]});
        assert_eq!(positions(longrope), (24, 128));
        assert_eq!(
            positions(serde_json::json!({"type": "dynamic", "factor": 4})),
            (128, 512)
        );
        assert_eq!(
            positions(serde_json::json!({"type": "linear", "factor": 4})),
            (128, 128)
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
            ("num_hidden_layers", serde_json::json!(1 << 24)),
            ("intermediate_size", serde_json::json!("8")),
            ("head_dim", serde_json::json!(3)),
            ("hidden_act", serde_json::json!("relu3")),
            ("rms_norm_eps", serde_json::json!("small")),
            ("rms_norm_eps", serde_json::json!(-1e-6)),
        ] {
            let error = parse(|raw| {
                raw.insert(field.into(), value);
            });
            assert!(error.unwrap_err().to_string().contains(field), "{field}");
        }
    }
}
