//! A file for llama.cpp, and a Modelfile that gives it to Ollama.

use std::fmt::Write as _;
use std::path::Path;

use aligner_data::AlignerManifest;
use aligner_model::weights::gguf::GgufValue;
use aligner_model::weights::gguf_export::{
    GgufModel, GgufVocab, context_tokens, needs_embedding_twice, write_gguf,
};
use serde_json::Value;

use super::place::{io, text_file};
use super::source::Source;
use super::{ExportOptions, Exported};
use crate::error::Result;

pub(super) fn write(
    source: &Source,
    out: &Path,
    options: &ExportOptions,
    mut notes: Vec<String>,
) -> Result<Exported> {
    let config = source.config()?;
    let twice = needs_embedding_twice(&config)?;
    let vocab = GgufVocab::from_dir(&source.tokenizer, config.vocab_size, options.pre.as_deref())?;
    let mut again = if twice {
        source.tensors(&config)?
    } else {
        Vec::new()
    };
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    }
    let model = GgufModel {
        config: &config,
        tensors: source.tensors(&config)?,
        embedding: (!again.is_empty()).then(|| again.swap_remove(0)),
        dtype: options.dtype.of_gguf(),
        vocab: &vocab,
        metadata: metadata(source, &vocab),
    };
    notes.extend(write_gguf(out, model)?);
    let mut files = vec![out.to_path_buf()];
    if let Some(manifest) = &source.manifest {
        let path = out.with_extension("Modelfile");
        text_file(&path, &modelfile(out, manifest, context_tokens(&config)?, &vocab))?;
        files.push(path);
    }
    let mut bytes = 0;
    for file in &files {
        bytes += file.metadata().map_err(io("read", file))?.len();
    }
    Ok(Exported { files, bytes, notes })
}

/// Name, origin, chat template, and what makes the model an Aligner.
fn metadata(source: &Source, vocab: &GgufVocab) -> Vec<(String, GgufValue)> {
    let text = |key: &str, value: &str| (key.to_string(), GgufValue::String(value.to_string()));
    let mut pairs = vec![text("general.name", &source.name())];
    // The format's own key for it: whoever turns the file back into a directory gets the same tokenizer.
    if let Ok(tokenizer) = std::fs::read_to_string(source.tokenizer.join("tokenizer.json")) {
        pairs.push(text("tokenizer.huggingface.json", &tokenizer));
    }
    let Some(manifest) = &source.manifest else {
        pairs.extend(own_chat_template(&source.tokenizer).map(|own| text("tokenizer.chat_template", &own)));
        return pairs;
    };
    let base = Path::new(&manifest.base_model).file_name();
    let base = base.map_or(manifest.base_model.clone(), |name| {
        name.to_string_lossy().into_owned()
    });
    if !base.is_empty() {
        pairs.push(("general.base_model.count".into(), GgufValue::U32(1)));
        pairs.push(text("general.base_model.0.name", &base));
    }
    pairs.push(text(
        "tokenizer.chat_template",
        &manifest.template.to_jinja(vocab.bos.is_some()),
    ));
    pairs.extend(
        source
            .manifest_text()
            .map(|manifest| text("aligner.manifest", &manifest)),
    );
    pairs.push(text("aligner.template", manifest.template.text()));
    pairs.push(text(
        "aligner.template_fingerprint",
        &manifest.template_fingerprint,
    ));
    pairs.extend(
        manifest
            .data_licence
            .iter()
            .map(|licence| text("aligner.data_licence", licence)),
    );
    pairs
}

/// The chat template of a model that is no Aligner.
fn own_chat_template(dir: &Path) -> Option<String> {
    if let Ok(text) = std::fs::read_to_string(dir.join("chat_template.jinja")) {
        return Some(text);
    }
    let settings = std::fs::read(dir.join("tokenizer_config.json")).ok()?;
    let settings: Value = serde_json::from_slice(&settings).ok()?;
    settings.get("chat_template")?.as_str().map(str::to_string)
}

/// `ollama create NAME -f FILE.Modelfile`, then a chat of two messages: the question by the user, the answer by the
/// assistant.
fn modelfile(gguf: &Path, manifest: &AlignerManifest, context_tokens: usize, vocab: &GgufVocab) -> String {
    let file = gguf.file_name().unwrap_or_default().to_string_lossy();
    let template = &manifest.template;
    let mut out = format!(
        "# {file} was trained to correct answers. Send a chat of two messages: the user's is the question, the\n\
         # assistant's the answer to correct; what comes back is the correction.\n\
         #   ollama create NAME -f {stem}.Modelfile\n\
         #   curl localhost:11434/api/chat -d '{{\"model\": \"NAME\", \"stream\": false, \"messages\": [\n\
         #     {{\"role\": \"user\", \"content\": QUESTION}}, {{\"role\": \"assistant\", \"content\": ANSWER}}]}}'\n\
         # Prompt template: {id}, {fingerprint}\n\
         FROM ./{file}\n\
         TEMPLATE \"\"\"{go}\"\"\"\n\
         PARAMETER temperature 0\n\
         PARAMETER num_ctx {context}\n",
        stem = gguf.file_stem().unwrap_or_default().to_string_lossy(),
        id = template.id(),
        fingerprint = manifest.template_fingerprint,
        go = template.to_go_template(),
        context = context_tokens.min(MOST_CONTEXT),
    );
    for stop in &vocab.stops {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "PARAMETER stop {}", Value::from(stop.as_str()));
    }
    if let Some(licence) = &manifest.data_licence {
        let licence = licence.replace("\"\"\"", "'''");
        let _ = writeln!(out, "LICENSE \"\"\"The training data: {licence}\"\"\"");
    }
    out
}

/// Ollama takes memory for the whole context at once.
const MOST_CONTEXT: usize = 8192;
