//! Directories that transformers and PEFT load.

use std::path::Path;

use aligner_data::{ChatFormat, PromptTemplate, copy_tokenizer_files};
use aligner_model::weights::gguf_export::GgufVocab;
use aligner_model::weights::{as_stored, write_shards};
use serde_json::Value;

use super::place::{directory, io, listed};
use super::source::Source;
use super::{ExportOptions, Exported};
use crate::error::{InferError, Result};

const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// The chat template of the base, which nothing reads.
const BASE_CHAT_TEMPLATE: &str = "chat_template.base.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// A model, an adapter merged into it.
pub(super) fn write_model(
    source: &Source,
    out: &Path,
    options: &ExportOptions,
    mut notes: Vec<String>,
) -> Result<Exported> {
    let dtype = options.dtype.of_safetensors()?;
    let config = source.config()?;
    let tensors = source.tensors(&config)?;
    directory(out, |dir| {
        config.write_as(dir, dtype)?;
        write_shards(dir, as_stored(&config, tensors), dtype, options.max_shard_bytes)?;
        companions(source, dir, &mut notes)?;
        // That of an adapter counts, whatever its base was trained with.
        match ChatFormat::recorded(&source.own)? {
            Some(format) => Ok(format.record(dir)?),
            None => Ok(()),
        }
    })?;
    listed(out, notes)
}

/// An adapter without its base.
pub(super) fn write_adapter(
    source: &Source,
    out: &Path,
    options: &ExportOptions,
    mut notes: Vec<String>,
) -> Result<Exported> {
    let dtype = options.dtype.of_safetensors()?;
    let Some(adapter) = &source.adapter else {
        return Err(InferError::Export(format!(
            "{} holds no adapter (no adapter_config.json): export it as hf or gguf, or train with --lora-rank",
            source.own.display()
        )));
    };
    let mut adapter = adapter.clone();
    if let Some(name) = hub_name(source) {
        // Where the base lies on this machine says nothing on another one.
        adapter.base_model = Some(name);
    }
    directory(out, |dir| {
        adapter.write_as(dir, dtype)?;
        companions(source, dir, &mut notes)
    })?;
    listed(out, notes)
}

/// The base's name on the Hub, when it came from there: `org/name` of the `org/name@COMMIT` that training recorded.
fn hub_name(source: &Source) -> Option<String> {
    let (name, _) = source.manifest.as_ref()?.base_model.split_once('@')?;
    (name.split('/').count() == 2).then(|| name.to_string())
}

/// Tokenizer, manifest, chat template.
fn companions(source: &Source, dir: &Path, notes: &mut Vec<String>) -> Result<()> {
    copy_tokenizer_files(&source.tokenizer, dir)?;
    let has_tokenizer = dir.join("tokenizer.json").is_file();
    if !has_tokenizer {
        notes.push(format!(
            "{} has no tokenizer.json: the export has none",
            source.own.display()
        ));
    }
    let Some(manifest) = &source.manifest else {
        return Ok(());
    };
    manifest.write(dir)?;
    let adds_bos = has_tokenizer && GgufVocab::bos_of(dir)?.is_some();
    chat_template(dir, &manifest.template, adds_bos)
}

/// Ours in the place that is read; the base's own is kept beside it.
fn chat_template(dir: &Path, template: &PromptTemplate, adds_bos: bool) -> Result<()> {
    let path = dir.join(CHAT_TEMPLATE);
    let mut base = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(io("read", &path)(error)),
    };
    // Older files have it among the tokenizer's settings, where some programs look first.
    let settings = dir.join(TOKENIZER_CONFIG);
    if settings.is_file() {
        let bytes = std::fs::read(&settings).map_err(io("read", &settings))?;
        if let Ok(Value::Object(mut map)) = serde_json::from_slice(&bytes)
            && let Some(inline) = map.shift_remove("chat_template")
        {
            base = base.or_else(|| inline.as_str().map(str::to_string));
            let text = format!("{:#}\n", Value::Object(map));
            std::fs::write(&settings, text).map_err(io("write", &settings))?;
        }
    }
    if let Some(base) = base {
        let kept = dir.join(BASE_CHAT_TEMPLATE);
        std::fs::write(&kept, base).map_err(io("write", &kept))?;
    }
    std::fs::write(&path, template.to_jinja(adds_bos)).map_err(io("write", &path))
}
