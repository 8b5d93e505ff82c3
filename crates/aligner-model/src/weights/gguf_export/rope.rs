//! Rotary embeddings as llama.cpp reads them: keys, and tensors of factors.

use serde_json::{Map, Value};

use super::arch::{Arch, refused};
use super::elements::GgufDtype;
use super::file::Entry;
use crate::config::{ModelConfig, RopeConfig, RopeScaling};
use crate::error::Result;
use crate::weights::gguf::GgufValue;

type Pairs = Vec<(&'static str, GgufValue)>;

/// The keys of the rotation.
pub(super) fn rope_metadata(arch: &Arch, config: &ModelConfig) -> Result<Pairs> {
    let rope = &config.rope;
    let mut pairs = vec![
        ("rope.dimension_count", GgufValue::U32(rope.rotary_dim as u32)),
        ("rope.freq_base", GgufValue::F32(rope.theta as f32)),
    ];
    if let Some(local) = &config.local_rope {
        if local.scaling != RopeScaling::None || local.rotary_dim != rope.rotary_dim {
            return Err(refused(config, "the rotation of layers with a window is scaled"));
        }
        pairs.push(("rope.freq_base_swa", GgufValue::F32(local.theta as f32)));
    }
    pairs.extend(scaling(arch, config)?);
    Ok(pairs)
}

fn scaling(arch: &Arch, config: &ModelConfig) -> Result<Pairs> {
    let text = |text: &str| GgufValue::String(text.into());
    let float = |number: f64| GgufValue::F32(number as f32);
    match &config.rope.scaling {
        // The context ends where dynamic scaling would begin.
        RopeScaling::None | RopeScaling::Dynamic { .. } => Ok(Vec::new()),
        RopeScaling::Linear { factor } => Ok(vec![
            ("rope.scaling.type", text("linear")),
            ("rope.scaling.factor", float(*factor)),
        ]),
        RopeScaling::Llama3 { .. } if arch.rope_factors => Ok(Vec::new()),
        RopeScaling::LongRope {
            original_max_positions,
            attention_factor,
            ..
        } if arch.rope_factors => Ok(vec![
            ("rope.scaling.type", text("longrope")),
            (
                "rope.scaling.original_context_length",
                GgufValue::U32(*original_max_positions as u32),
            ),
            ("rope.scaling.attn_factor", float(*attention_factor)),
        ]),
        RopeScaling::Llama3 { .. } | RopeScaling::LongRope { .. } => {
            let what = format!(
                "llama3 and longrope scaling need a tensor that llama.cpp's {} does not read",
                arch.name
            );
            Err(refused(config, what))
        }
        RopeScaling::Yarn {
            factor,
            attention_factor,
            ..
        } => yarn(config, *factor, *attention_factor),
    }
}

fn yarn(config: &ModelConfig, factor: f64, attention_factor: f64) -> Result<Pairs> {
    if config.local_rope.is_some() {
        return Err(refused(
            config,
            "YaRN would also scale layers with a window in llama.cpp",
        ));
    }
    let declared = declared(config);
    let number = |name: &str| declared.and_then(|map| map.get(name)?.as_f64());
    if declared.and_then(|map| map.get("truncate")?.as_bool()) == Some(false) {
        return Err(refused(
            config,
            "YaRN's ramp is not truncated (truncate: false), which llama.cpp always does",
        ));
    }
    let original = number("original_max_position_embeddings")
        .or_else(|| config.raw.get("original_max_position_embeddings")?.as_f64())
        .unwrap_or(config.max_positions as f64);
    let float = |number: f64| GgufValue::F32(number as f32);
    // llama.cpp multiplies sines and cosines by this by itself, and by `attn_factor` on top.
    let own = if factor <= 1.0 {
        1.0
    } else {
        0.1 * factor.ln() + 1.0
    };
    Ok(vec![
        ("rope.scaling.type", GgufValue::String("yarn".into())),
        ("rope.scaling.factor", float(factor)),
        (
            "rope.scaling.original_context_length",
            GgufValue::U32(original as u32),
        ),
        ("rope.scaling.attn_factor", float(attention_factor / own)),
        (
            "rope.scaling.yarn_beta_fast",
            float(number("beta_fast").unwrap_or(32.0)),
        ),
        (
            "rope.scaling.yarn_beta_slow",
            float(number("beta_slow").unwrap_or(1.0)),
        ),
    ])
}

/// The scaling as `config.json` declares it.
fn declared(config: &ModelConfig) -> Option<&Map<String, Value>> {
    let map = config
        .raw
        .get("rope_parameters")
        .or_else(|| config.raw.get("rope_scaling"));
    let map = map?.as_object()?;
    map.get("full_attention").and_then(Value::as_object).or(Some(map))
}

/// The tensors that divide frequencies pair by pair.
pub(super) fn rope_tensors(config: &ModelConfig) -> Vec<Entry> {
    let entry = |name: &str, factors: Vec<f32>| Entry {
        name: name.into(),
        shape: vec![factors.len()],
        dtype: GgufDtype::F32,
        read: Box::new(move || Ok(factors)),
    };
    let single = |factors: &[f64]| factors.iter().map(|&factor| factor as f32).collect();
    match &config.rope.scaling {
        RopeScaling::Llama3 { .. } => {
            // What the frequencies of the model are to those without scaling.
            let plain = RopeConfig {
                scaling: RopeScaling::None,
                ..config.rope.clone()
            };
            let scaled = config.rope.inverse_frequencies(1);
            let factors = plain.inverse_frequencies(1).into_iter().zip(scaled);
            let factors = factors.map(|(plain, scaled)| (f64::from(plain) / f64::from(scaled)) as f32);
            vec![entry("rope_freqs.weight", factors.collect())]
        }
        RopeScaling::LongRope {
            short_factor,
            long_factor,
            ..
        } => vec![
            entry("rope_factors_long.weight", single(long_factor)),
            entry("rope_factors_short.weight", single(short_factor)),
        ],
        _ => Vec::new(),
    }
}
