//! Writing GGUF, the format of llama.cpp, for every family that it runs.
//!
//! ```text
//!  ModelConfig ──▶ arch, rope     the keys of llama.cpp's architecture; what it cannot express is refused by name
//!  tensors ──────▶ tensors        GGUF's names, order of rows, folded constants
//!                  elements       f32, f16, bf16, q8_0
//!  tokenizer.json ▶ vocab         tokens, scores or merges, types, special ids
//!                  file           version 3, aligned to 32 bytes, one tensor in memory at a time
//! ```
//!
//! The specification is llama.cpp's own converter, `convert_hf_to_gguf.py`, and what its graphs do with a file. Where the
//! two leave no way to say something, the file says less and a note tells: llama.cpp has no sliding windows in most of
//! its graphs, so the context of such a model ends where its window does, within which both compute the same.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod arch;
mod elements;
mod file;
mod rope;
mod tensors;
mod vocab;

use std::path::Path;

pub use elements::GgufDtype;
pub use vocab::GgufVocab;

use self::arch::Arch;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::weights::NamedTensor;
use crate::weights::gguf::GgufValue;

/// What goes into a file.
#[derive(Debug)]
pub struct GgufModel<'a> {
    /// The model's description.
    pub config: &'a ModelConfig,
    /// Its tensors under Hugging Face's names, projections apart.
    pub tensors: Vec<NamedTensor>,
    /// The embedding once more, for architectures that store a tied output projection: see [`needs_embedding_twice`].
    pub embedding: Option<NamedTensor>,
    /// The type of its matrices; vectors stay in single precision.
    pub dtype: GgufDtype,
    /// Its tokenizer.
    pub vocab: &'a GgufVocab,
    /// More keys, behind those that this crate writes.
    pub metadata: Vec<(String, GgufValue)>,
}

/// Whether an architecture stores the output projection even where it is the embedding.
///
/// # Errors
/// When llama.cpp does not run the configuration.
pub fn needs_embedding_twice(config: &ModelConfig) -> Result<bool> {
    Ok(tensors::needs_output(Arch::of(config)?, config))
}

/// Tokens of context within which llama.cpp computes what the model computes: the model's own, or fewer.
///
/// # Errors
/// When llama.cpp does not run the configuration.
pub fn context_tokens(config: &ModelConfig) -> Result<usize> {
    Ok(Arch::of(config)?.context(config).0)
}

/// Writes a file beside its place and renames it: `path` is complete or as it was before. Returns notes about what the
/// file says otherwise than the model.
///
/// # Errors
/// When llama.cpp does not run the configuration, a tensor cannot be read, a value is beyond the type's range, or the
/// file cannot be written.
pub fn write_gguf(path: &Path, model: GgufModel<'_>) -> Result<Vec<String>> {
    let GgufModel {
        config,
        tensors,
        embedding,
        dtype,
        vocab,
        metadata,
    } = model;
    let arch = Arch::of(config)?;
    let mut notes: Vec<String> = arch.context(config).1.into_iter().collect();
    notes.extend(vocab.notes.iter().cloned());
    let entries = tensors::entries(arch, config, tensors, embedding, dtype)?;
    let fallen_back: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.shape.len() > 1 && entry.dtype != dtype)
        .map(|entry| entry.name.as_str())
        .collect();
    if let Some(first) = fallen_back.first() {
        let count = fallen_back.len();
        notes.push(format!(
            "{count} tensors have rows that are no multiple of 32 and are written as f16, {first} the first"
        ));
    }
    let mut pairs = arch::general(arch, dtype);
    pairs.extend(arch.metadata(config)?);
    pairs.extend(vocab.metadata.iter().cloned());
    pairs.extend(metadata);
    file::write(path, &pairs, entries)?;
    Ok(notes)
}
