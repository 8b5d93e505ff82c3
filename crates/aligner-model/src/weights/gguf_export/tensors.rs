//! Tensors under GGUF's names and in llama.cpp's order of rows.

use super::arch::{Arch, Output, norm_name};
use super::elements::GgufDtype;
use super::file::Entry;
use super::rope::rope_tensors;
use crate::config::{ModelConfig, Packing, QkNorm};
use crate::error::{ModelError, Result};
use crate::weights::{NamedTensor, names};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// Every tensor of a file. `tied` is read again where the architecture wants the output projection and the model has
/// none: it must be the embedding.
pub(super) fn entries(
    arch: &Arch,
    config: &ModelConfig,
    tensors: Vec<NamedTensor>,
    tied: Option<NamedTensor>,
    dtype: GgufDtype,
) -> Result<Vec<Entry>> {
    let tensors = match config.packing {
        // llama.cpp reads the packed projections of this family as they are.
        Packing::Phi3 => names::packed(config, tensors),
        Packing::None | Packing::Baichuan => tensors,
    };
    let mut entries = rope_tensors(config);
    for tensor in tensors {
        entries.push(entry(arch, config, tensor, dtype)?);
    }
    if arch.output == Output::Always && config.tie_embeddings {
        let tied = tied.filter(|tensor| tensor.name == EMBEDDING);
        let tied =
            tied.ok_or_else(|| ModelError::Export("the embedding is not there to be written twice".into()))?;
        entries.push(Entry {
            name: "output.weight".into(),
            dtype: dtype.of_tensor(&tied.shape),
            shape: tied.shape,
            read: tied.read,
        });
    }
    Ok(entries)
}

/// Whether [`entries`] needs the embedding a second time.
pub(super) fn needs_output(arch: &Arch, config: &ModelConfig) -> bool {
    arch.output == Output::Always && config.tie_embeddings
}

fn entry(arch: &Arch, config: &ModelConfig, tensor: NamedTensor, dtype: GgufDtype) -> Result<Entry> {
    let name = gguf_name(config, &tensor.name)
        .ok_or_else(|| ModelError::Export(format!("tensor {} has no name in GGUF", tensor.name)))?;
    let read = tensor.read;
    let change = Change::of(arch, config, &tensor.name);
    Ok(Entry {
        name,
        dtype: dtype.of_tensor(&tensor.shape),
        shape: tensor.shape,
        read: Box::new(move || Ok(change.apply(read()?))),
    })
}

fn gguf_name(config: &ModelConfig, name: &str) -> Option<String> {
    match name {
        EMBEDDING => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, leaf) = rest.rsplit_once('.')?;
    let part = match part {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj" => "attn_qkv",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => norm_name(config, part)?,
    };
    Some(format!("blk.{layer}.{part}.{leaf}"))
}

/// What is done to a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Change {
    /// Rows of so many heads, each of so many, become interleaved.
    interleave: Option<(usize, usize)>,
    /// 1 is added: llama.cpp's norms multiply by the weight alone.
    plus_one: bool,
    /// A factor; packed projections are of a family that needs none.
    scale: f64,
}

impl Change {
    fn of(arch: &Arch, config: &ModelConfig, name: &str) -> Self {
        let is_query = name.contains(".q_proj.");
        // A norm of queries would undo a factor before it; its weight comes behind.
        let scaled = match config.qk_norm {
            QkNorm::None => is_query,
            QkNorm::PerHead | QkNorm::Whole => name.contains(".q_norm."),
        };
        Self {
            interleave: match (arch.interleaved, is_query, name.contains(".k_proj.")) {
                (true, true, _) => Some((config.heads, config.head_dim)),
                (true, _, true) => Some((config.kv_heads, config.head_dim)),
                _ => None,
            },
            plus_one: config.norm_offset && name.ends_with("norm.weight"),
            scale: if scaled { arch.query_scale(config) } else { 1.0 },
        }
    }

    fn apply(self, mut values: Vec<f32>) -> Vec<f32> {
        if self.plus_one {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        if self.scale != 1.0 {
            values
                .iter_mut()
                .for_each(|value| *value = (f64::from(*value) * self.scale) as f32);
        }
        match self.interleave {
            Some((heads, head_dim)) => interleaved(&values, heads, head_dim),
            None => values,
        }
    }
}

/// Hugging Face rotates dimension `i` of a head with `i + head_dim / 2`, llama.cpp's kernel for this architecture with
/// its neighbour: the rows of such a pair go one behind the other. Works on biases too, whose rows are one element.
fn interleaved(values: &[f32], heads: usize, head_dim: usize) -> Vec<f32> {
    let width = values.len() / (heads * head_dim);
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * width) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(width).zip(second.chunks_exact(width)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_a_head_become_neighbours() {
        // Two heads of four rows of two elements.
        let values: Vec<f32> = (0..16).map(|value| value as f32).collect();
        let want = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15].map(|value| value as f32);
        assert_eq!(interleaved(&values, 2, 4), want);
        assert_eq!(
            interleaved(&[0.0, 1.0, 2.0, 3.0], 1, 4),
            [0.0, 2.0, 1.0, 3.0],
            "a bias"
        );
    }
}
