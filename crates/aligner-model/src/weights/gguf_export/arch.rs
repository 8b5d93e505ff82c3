//! What an architecture is called in GGUF, and what llama.cpp takes for granted about it.
//!
//! llama.cpp has a graph for each architecture, and most of what `config.json` may say is fixed in it. Whatever differs
//! from what the graph does is refused by name: a file that loads and computes something else would be worse.

use super::GgufDtype;
use super::rope::rope_metadata;
use crate::config::{Activation, LayerRope, ModelConfig, NormPlacement, QkNorm, RopeScaling};
use crate::error::{ModelError, Result};
use crate::weights::gguf::{GgufArray, GgufValue};

/// One architecture of llama.cpp.
#[derive(Debug)]
pub(super) struct Arch {
    /// The value of `general.architecture`.
    pub name: &'static str,
    /// The entries of `architectures` that it runs.
    families: &'static [&'static str],
    /// Whether its rotation turns neighbouring dimensions, for which rows of queries and keys are interleaved.
    pub interleaved: bool,
    /// Whether the MLP's activation is GELU's approximation instead of SiLU.
    gelu: bool,
    /// Whether layers with a window are understood; without, the context ends where the window would.
    pub windows: bool,
    /// Whether heads may have another width than `hidden_size / heads`.
    free_head_dim: bool,
    /// Whether the output projection has a tensor of its own: never, when it differs from the embedding, always.
    pub output: Output,
    /// Whether `output_bias` and `mlp_bias` are understood.
    biases: bool,
    /// Whether only some leading dimensions may be rotated.
    pub partial_rotation: bool,
    /// Whether a tensor of frequency factors is read.
    pub rope_factors: bool,
    /// Whether attention scores and logits have a softcap.
    softcaps: (Softcap, Softcap),
    /// Number of layers at which the attention's scale is `(hidden_size / heads)^-½` instead of `head_dim^-½`.
    odd_scale_layers: Option<usize>,
}

/// When the output projection is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Never,
    WhenUntied,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Softcap {
    None,
    Optional,
    Required,
}

const LLAMA: Arch = Arch {
    name: "llama",
    families: &[
        "LlamaForCausalLM",
        "MistralForCausalLM",
        // llama.cpp's own `baichuan` goes by the number of layers; the 7B model is a Llama with packed projections.
        "BaichuanForCausalLM",
        "BaiChuanForCausalLM",
    ],
    interleaved: true,
    gelu: false,
    windows: false,
    free_head_dim: true,
    output: Output::WhenUntied,
    biases: true,
    partial_rotation: false,
    rope_factors: true,
    softcaps: (Softcap::None, Softcap::None),
    odd_scale_layers: None,
};

const QWEN3: Arch = Arch {
    name: "qwen3",
    families: &["Qwen3ForCausalLM"],
    interleaved: false,
    biases: false,
    rope_factors: false,
    ..LLAMA
};

const GEMMA: Arch = Arch {
    name: "gemma",
    families: &["GemmaForCausalLM"],
    gelu: true,
    output: Output::Never,
    partial_rotation: true,
    ..QWEN3
};

const ARCHS: [Arch; 9] = [
    LLAMA,
    Arch {
        name: "qwen2",
        families: &["Qwen2ForCausalLM"],
        free_head_dim: false,
        ..QWEN3
    },
    QWEN3,
    GEMMA,
    Arch {
        name: "gemma2",
        families: &["Gemma2ForCausalLM"],
        windows: true,
        softcaps: (Softcap::Required, Softcap::Required),
        odd_scale_layers: Some(46),
        ..GEMMA
    },
    Arch {
        name: "gemma3",
        families: &["Gemma3ForCausalLM"],
        windows: true,
        output: Output::WhenUntied,
        softcaps: (Softcap::None, Softcap::Optional),
        odd_scale_layers: Some(62),
        ..GEMMA
    },
    Arch {
        name: "phi3",
        families: &["Phi3ForCausalLM"],
        free_head_dim: false,
        partial_rotation: true,
        rope_factors: true,
        ..QWEN3
    },
    Arch {
        name: "smollm3",
        families: &["SmolLM3ForCausalLM"],
        interleaved: true,
        ..QWEN3
    },
    Arch {
        name: "olmo2",
        families: &["Olmo2ForCausalLM"],
        free_head_dim: false,
        output: Output::Always,
        ..QWEN3
    },
];

pub(super) fn refused(config: &ModelConfig, what: impl std::fmt::Display) -> ModelError {
    let family = &config.architecture;
    ModelError::Export(format!("{family} as GGUF: {what}; write --format hf instead"))
}

impl Arch {
    /// The architecture that runs a configuration.
    pub fn of(config: &ModelConfig) -> Result<&'static Self> {
        let arch = ARCHS
            .iter()
            .find(|arch| arch.families.contains(&config.architecture.as_str()));
        let arch = arch.ok_or_else(|| refused(config, "llama.cpp has no such architecture"))?;
        arch.check(config)?;
        Ok(arch)
    }

    fn check(&self, config: &ModelConfig) -> Result<()> {
        let refuse = |what: &str| {
            Err(refused(
                config,
                format!("{what}, which llama.cpp's {} has not", self.name),
            ))
        };
        let silu = config.activation == Activation::Silu;
        if silu == self.gelu || config.activation == Activation::Gelu {
            return refuse(&format!("hidden_act is {:?}", config.activation));
        }
        if !self.biases && (config.output_bias || config.mlp_bias) {
            return refuse("attention_bias or mlp_bias gives the output projection or the MLP a bias");
        }
        if !self.free_head_dim && config.heads * config.head_dim != config.hidden_size {
            return refuse("head_dim is not hidden_size / num_attention_heads");
        }
        if self.output == Output::Never && !config.tie_embeddings {
            return refuse("tie_word_embeddings is false");
        }
        if !self.partial_rotation && config.rope.rotary_dim != config.head_dim {
            return refuse("partial_rotary_factor is below 1");
        }
        for (name, cap, rule) in [
            (
                "attn_logit_softcapping",
                config.attention_softcap,
                self.softcaps.0,
            ),
            ("final_logit_softcapping", config.logit_softcap, self.softcaps.1),
        ] {
            match (cap, rule) {
                (Some(_), Softcap::None) => return refuse(&format!("{name} is given")),
                (None, Softcap::Required) => return refuse(&format!("{name} is null")),
                _ => {}
            }
        }
        self.check_layers(config)
    }

    fn check_layers(&self, config: &ModelConfig) -> Result<()> {
        let without_rope = |layer: usize| self.name == "smollm3" && (layer + 1).is_multiple_of(4);
        for (layer, kind) in config.layer_kinds.iter().enumerate() {
            if (kind.rope == LayerRope::None) != without_rope(layer) {
                return Err(refused(
                    config,
                    "no_rope_layers is not every fourth layer, which llama.cpp takes for granted",
                ));
            }
            // One frequency base for windows, another for the rest: nothing else can be said.
            let local = config.local_rope.is_some() && kind.window.is_some();
            if local != (kind.rope == LayerRope::Local) {
                return Err(refused(
                    config,
                    "layers with and without a window do not go with their rotations",
                ));
            }
        }
        let mut windows = config.layer_kinds.iter().filter_map(|kind| kind.window);
        let first = windows.next();
        match first {
            Some(first) if windows.any(|other| other != first) => {
                Err(refused(config, "layers have windows of different sizes"))
            }
            _ => Ok(()),
        }
    }

    /// Tokens within which llama.cpp computes the same, with a note when they are fewer than the model's own.
    pub fn context(&self, config: &ModelConfig) -> (usize, Option<String>) {
        let own = config.max_positions;
        let window = config.layer_kinds.iter().filter_map(|kind| kind.window).min();
        let limits = [
            window
                .filter(|_| !self.windows)
                .map(|window| (window, "sliding windows")),
            match config.rope.scaling {
                RopeScaling::Dynamic {
                    original_max_positions,
                    ..
                } => Some((original_max_positions as usize, "dynamic RoPE scaling")),
                _ => None,
            },
        ];
        match limits.into_iter().flatten().min() {
            Some((limit, what)) if limit < own => {
                let name = self.name;
                let note = format!(
                    "llama.cpp's {name} has no {what}: the context is set to the {limit} tokens within which it computes the same"
                );
                (limit, Some(note))
            }
            _ => (own, None),
        }
    }

    /// What queries are multiplied by so that llama.cpp's scale of the scores gives the model's.
    pub fn query_scale(&self, config: &ModelConfig) -> f64 {
        let width = if self.odd_scale_layers == Some(config.layers) {
            config.hidden_size / config.heads
        } else {
            config.head_dim
        };
        let scale = config.attention_scale * (width as f64).sqrt();
        // Roots that are not exact must not touch weights that need no change.
        if (scale - 1.0).abs() < 1e-9 { 1.0 } else { scale }
    }

    /// The keys under the architecture's name.
    pub fn metadata(&self, config: &ModelConfig) -> Result<Vec<(String, GgufValue)>> {
        let number = |value: usize| GgufValue::U32(value as u32);
        let mut pairs = vec![
            ("block_count", number(config.layers)),
            ("context_length", number(self.context(config).0)),
            ("embedding_length", number(config.hidden_size)),
            ("feed_forward_length", number(config.intermediate_size)),
            ("vocab_size", number(config.vocab_size)),
            ("attention.head_count", number(config.heads)),
            ("attention.head_count_kv", number(config.kv_heads)),
            ("attention.key_length", number(config.head_dim)),
            ("attention.value_length", number(config.head_dim)),
            (
                "attention.layer_norm_rms_epsilon",
                GgufValue::F32(config.rms_norm_eps as f32),
            ),
        ];
        if self.softcaps.0 != Softcap::None
            && let Some(cap) = config.attention_softcap
        {
            pairs.push(("attn_logit_softcapping", GgufValue::F32(cap as f32)));
        }
        if self.softcaps.1 != Softcap::None
            && let Some(cap) = config.logit_softcap
        {
            pairs.push(("final_logit_softcapping", GgufValue::F32(cap as f32)));
        }
        if self.windows {
            let windowed: Vec<bool> = config
                .layer_kinds
                .iter()
                .map(|kind| kind.window.is_some())
                .collect();
            let window = config.layer_kinds.iter().find_map(|kind| kind.window);
            pairs.push(("attention.sliding_window", number(window.unwrap_or(0))));
            if window.is_some() {
                pairs.push((
                    "attention.sliding_window_pattern",
                    GgufValue::Array(GgufArray::Bool(windowed)),
                ));
            }
        } else if self.name == "phi3" {
            // Its absence means another model of the family.
            pairs.push(("attention.sliding_window", number(0)));
        }
        pairs.extend(rope_metadata(self, config)?);
        let name = |key: &str| format!("{}.{key}", self.name);
        Ok(pairs.into_iter().map(|(key, value)| (name(key), value)).collect())
    }
}

/// The keys that describe the file.
pub(super) fn general(arch: &Arch, dtype: GgufDtype) -> Vec<(String, GgufValue)> {
    vec![
        ("general.architecture".into(), GgufValue::String(arch.name.into())),
        ("general.type".into(), GgufValue::String("model".into())),
        ("general.file_type".into(), GgufValue::U32(dtype.file_type())),
        ("general.quantization_version".into(), GgufValue::U32(2)),
    ]
}

/// Norms and normalisations that the names of tensors express by themselves.
pub(super) fn norm_name(config: &ModelConfig, part: &str) -> Option<&'static str> {
    Some(match (config.norms, part) {
        (_, "input_layernorm") => "attn_norm",
        (NormPlacement::Before, "post_attention_layernorm") => "ffn_norm",
        (_, "post_attention_layernorm") => "post_attention_norm",
        (_, "pre_feedforward_layernorm") => "ffn_norm",
        (_, "post_feedforward_layernorm") => "post_ffw_norm",
        (_, "self_attn.q_norm") if config.qk_norm != QkNorm::None => "attn_q_norm",
        (_, "self_attn.k_norm") if config.qk_norm != QkNorm::None => "attn_k_norm",
        _ => return None,
    })
}
