//! GGUF's tensors under Hugging Face's names and in its order of rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::GgufFile;
use crate::config::{ModelConfig, QkNorm};
use crate::error::{ModelError, Result};
use crate::weights::{HostTensor, TensorSource};

/// What a GGUF architecture is in Hugging Face's terms.
#[derive(Debug)]
pub(super) struct Family {
    /// The value of `general.architecture`.
    pub name: &'static str,
    /// The entry of `architectures`.
    pub architecture: &'static str,
    /// Whether rows of queries and keys are stored in the order that interleaved rotation wants.
    pub permuted: bool,
    /// Whether norms are stored as `1 + weight`.
    pub norm_offset: bool,
    /// The MLP's activation, as `config.json` names it.
    pub activation: &'static str,
}

const LLAMA: Family = Family {
    name: "llama",
    architecture: "LlamaForCausalLM",
    permuted: true,
    norm_offset: false,
    activation: "silu",
};

const FAMILIES: [Family; 4] = [
    LLAMA,
    Family {
        name: "qwen2",
        architecture: "Qwen2ForCausalLM",
        permuted: false,
        ..LLAMA
    },
    Family {
        name: "qwen3",
        architecture: "Qwen3ForCausalLM",
        permuted: false,
        ..LLAMA
    },
    Family {
        name: "gemma",
        architecture: "GemmaForCausalLM",
        permuted: false,
        norm_offset: true,
        activation: "gelu_pytorch_tanh",
    },
];

impl Family {
    /// The architecture that a file names.
    pub fn of(file: &GgufFile) -> Result<&'static Self> {
        const KEY: &str = "general.architecture";
        let name = file.text(KEY)?.ok_or_else(|| file.missing(KEY))?;
        let family = FAMILIES.iter().find(|family| family.name == name);
        family.ok_or_else(|| ModelError::Architecture {
            found: name.to_string(),
            supported: FAMILIES.iter().map(|family| family.name).collect(),
        })
    }
}

/// Query heads and key and value heads.
pub(super) fn heads(file: &GgufFile, family: &Family) -> Result<(u64, u64)> {
    let key = format!("{}.attention.head_count", family.name);
    let queries = file.count(&key)?.ok_or_else(|| file.missing(&key))?;
    let keys = file.count(&format!("{key}_kv"))?.unwrap_or(queries);
    Ok((queries, keys))
}

/// The Hugging Face name of a tensor; `None` for one that has none.
fn hugging_face_name(stored: &str) -> Option<String> {
    match stored {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = stored.strip_prefix("blk.")?.split_once('.')?;
    let (part, leaf) = rest.split_once('.')?;
    let known = ["weight", "bias"].contains(&leaf);
    if !known || layer.is_empty() || !layer.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.{leaf}"))
}

/// The names of all tensors of a model of one of the families.
pub(super) fn expected(config: &ModelConfig) -> BTreeSet<String> {
    let mut parts = vec![
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ];
    let optional: [(bool, &[&str]); 4] = [
        (
            config.qkv_bias,
            &[
                "self_attn.q_proj.bias",
                "self_attn.k_proj.bias",
                "self_attn.v_proj.bias",
            ],
        ),
        (config.output_bias, &["self_attn.o_proj.bias"]),
        (
            config.mlp_bias,
            &["mlp.gate_proj.bias", "mlp.up_proj.bias", "mlp.down_proj.bias"],
        ),
        (
            config.qk_norm != QkNorm::None,
            &["self_attn.q_norm.weight", "self_attn.k_norm.weight"],
        ),
    ];
    for (_, names) in optional.iter().filter(|(is_there, _)| *is_there) {
        parts.extend_from_slice(names);
    }
    let layers = (0..config.layers).flat_map(|layer| {
        parts
            .iter()
            .map(move |part| format!("model.layers.{layer}.{part}"))
    });
    let mut names: BTreeSet<String> = layers.collect();
    names.extend(["model.embed_tokens.weight".into(), "model.norm.weight".into()]);
    if !config.tie_embeddings {
        names.insert("lm_head.weight".into());
    }
    names
}

/// What llama.cpp's converter did to a tensor and reading undoes.
#[derive(Debug, Clone, Copy)]
enum Change {
    None,
    /// Rows of each of so many heads were interleaved.
    Interleaved(u64),
    /// One was added.
    PlusOne,
}

#[derive(Debug)]
struct Place {
    stored: String,
    change: Change,
}

/// The tensors of a GGUF file as Hugging Face stores them.
#[derive(Debug)]
pub struct GgufSource {
    file: GgufFile,
    /// By Hugging Face name.
    places: BTreeMap<String, Place>,
}

impl GgufSource {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`GgufFile::open`] and [`GgufSource::new`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(GgufFile::open(path)?)
    }

    /// Finds Hugging Face's names for a file's tensors. A tensor that has none keeps its own; `rope_freqs.weight`, which
    /// [`hf_config`](super::hf_config) reads, is left out.
    ///
    /// # Errors
    /// When the file's architecture is not one of those whose names are known.
    pub fn new(file: GgufFile) -> Result<Self> {
        let family = Family::of(&file)?;
        let (queries, keys) = heads(&file, family)?;
        let mut places = BTreeMap::new();
        for stored in file.tensors().keys().filter(|name| *name != super::rope::FACTORS) {
            let name = hugging_face_name(stored).unwrap_or_else(|| stored.clone());
            let change = if family.permuted && name.contains(".q_proj.") {
                Change::Interleaved(queries)
            } else if family.permuted && name.contains(".k_proj.") {
                Change::Interleaved(keys)
            } else if family.norm_offset && name.ends_with("norm.weight") {
                Change::PlusOne
            } else {
                Change::None
            };
            let place = Place {
                stored: stored.clone(),
                change,
            };
            if places.insert(name.clone(), place).is_some() {
                return Err(file.error(format!("has the tensor {name} twice, under two names")));
            }
        }
        Ok(Self { file, places })
    }

    /// A tensor's dimensions, outermost first, by its Hugging Face name; `None` when there is none.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let place = self.places.get(name)?;
        Some(&self.file.tensors().get(&place.stored)?.shape)
    }

    /// The file.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }
}

impl TensorSource for GgufSource {
    fn read(&mut self, name: &str) -> Result<Option<HostTensor>> {
        let Some(place) = self.places.get(name) else {
            return Ok(None);
        };
        let Some(mut tensor) = self.file.read_tensor(&place.stored)? else {
            return Ok(None);
        };
        match place.change {
            Change::None => {}
            Change::PlusOne => tensor.values.iter_mut().for_each(|value| *value -= 1.0),
            Change::Interleaved(heads) => {
                tensor.values = in_halves(&tensor, heads).ok_or_else(|| {
                    let (stored, rows) = (&place.stored, tensor.shape[0]);
                    let reason =
                        format!("tensor {stored} has {rows} rows, which are not {heads} heads of pairs");
                    self.file.error(reason)
                })?;
            }
        }
        Ok(Some(tensor))
    }

    fn shape_of(&self, name: &str) -> Result<Option<Vec<usize>>> {
        Ok(self.shape(name).map(<[usize]>::to_vec))
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Rows back in Hugging Face's order. It rotates dimension `i` of a head with `i + head_dim / 2`; llama.cpp's kernel for
/// this family rotates neighbours, so its converter stores the rows of such a pair one behind the other.
fn in_halves(tensor: &HostTensor, heads: u64) -> Option<Vec<f32>> {
    let rows = *tensor.shape.first()?;
    let heads = usize::try_from(heads).ok().filter(|&heads| heads > 0)?;
    if !rows.is_multiple_of(heads.checked_mul(2)?) {
        return None;
    }
    let (head_dim, width) = (rows / heads, tensor.values.len() / rows);
    let mut out = Vec::with_capacity(tensor.values.len());
    for head in tensor.values.chunks_exact(head_dim * width) {
        for offset in 0..2 {
            for pair in head.chunks_exact(2 * width) {
                out.extend_from_slice(&pair[offset * width..(offset + 1) * width]);
            }
        }
    }
    Some(out)
}
