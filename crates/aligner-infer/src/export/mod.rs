//! An Aligner for other programs: a Hugging Face directory, a GGUF file with an Ollama Modelfile, a PEFT adapter.
//!
//! ```text
//!  model or adapter ──▶ Source ──▶ tensors ──▶ hf     config.json, shards, tokenizer, aligner.json, chat_template.jinja
//!                         │                ├─▶ gguf   one file, and NAME.Modelfile beside it
//!                         └── adapter ─────┴─▶ peft   adapter_config.json, adapter_model.safetensors, …
//! ```
//!
//! What makes a model an Aligner travels along. A Hugging Face directory keeps `aligner.json`; a GGUF file has its text as
//! `aligner.manifest` and, by themselves, `aligner.template`, `aligner.template_fingerprint` and `aligner.data_licence`.
//! The chat template of both is the prompt template, so that any program that runs chats prompts the model as it was
//! trained: the last user's message is the question, the last assistant's message the answer to correct, and what comes
//! next is the correction ([`PromptTemplate::to_jinja`](aligner_data::PromptTemplate::to_jinja) says it exactly). The base's own chat template is
//! kept as `chat_template.base.jinja`. A model without `aligner.json` keeps its own chat template and needs nothing of
//! this.
//!
//! A directory or a file is there complete or not at all: it is written beside its place and renamed last.

mod average;
mod gguf;
mod hf;
mod place;
mod source;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use aligner_model::weights::gguf_export::GgufDtype;
use aligner_model::weights::{DEFAULT_SHARD_BYTES, WeightDtype};

use self::source::Source;
use crate::error::{InferError, Result};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// A Hugging Face model directory.
    Hf,
    /// A file for llama.cpp and what is built on it, with an Ollama Modelfile beside it.
    Gguf,
    /// An adapter without its base, in PEFT's format.
    Peft,
}

impl FromStr for ExportFormat {
    type Err = InferError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "hf" => Ok(Self::Hf),
            "gguf" => Ok(Self::Gguf),
            "peft" => Ok(Self::Peft),
            _ => Err(InferError::Export(format!(
                "{text:?} is no format; there are hf, gguf, peft"
            ))),
        }
    }
}

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportDtype {
    /// Single precision.
    F32,
    /// The upper half of single precision.
    Bf16,
    /// Half precision.
    F16,
    /// Eight bits and a scale for 32; GGUF alone.
    Q8_0,
}

impl ExportDtype {
    fn of_safetensors(self) -> Result<WeightDtype> {
        match self {
            Self::F32 => Ok(WeightDtype::F32),
            Self::Bf16 => Ok(WeightDtype::Bf16),
            Self::F16 => Ok(WeightDtype::F16),
            Self::Q8_0 => Err(InferError::Export(
                "q8_0 is a type of GGUF: ask for --format gguf".into(),
            )),
        }
    }

    fn of_gguf(self) -> GgufDtype {
        match self {
            Self::F32 => GgufDtype::F32,
            Self::Bf16 => GgufDtype::Bf16,
            Self::F16 => GgufDtype::F16,
            Self::Q8_0 => GgufDtype::Q8_0,
        }
    }
}

impl FromStr for ExportDtype {
    type Err = InferError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "q8_0" => Ok(Self::Q8_0),
            _ => Err(InferError::Export(format!(
                "{text:?} is no type of weights; there are f32, bf16, f16, q8_0"
            ))),
        }
    }
}

/// What is exported, and how.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// What is written.
    pub format: ExportFormat,
    /// How weights are stored.
    pub dtype: ExportDtype,
    /// An adapter over the model of the directory: merged into it, or, as PEFT, written itself.
    pub adapter: Option<PathBuf>,
    /// Models whose weights are averaged with it, each with the same share: a *model soup* (Wortsman et al. 2022, arXiv
    /// 2203.05482). Adapters among them are merged into their bases before.
    pub average: Vec<PathBuf>,
    /// Where the base of an adapter lies, instead of where its `adapter_config.json` says.
    pub base: Option<PathBuf>,
    /// llama.cpp's name for the way the tokenizer cuts text into words, where it is not recognised.
    pub pre: Option<String>,
    /// Whether a file, or a directory that is empty or a model's, is replaced.
    pub overwrite: bool,
    /// The most bytes of a file of a Hugging Face directory.
    pub max_shard_bytes: u64,
}

impl ExportOptions {
    /// Options without an adapter, that replace nothing.
    pub fn new(format: ExportFormat, dtype: ExportDtype) -> Self {
        Self {
            format,
            dtype,
            adapter: None,
            average: Vec::new(),
            base: None,
            pre: None,
            overwrite: false,
            max_shard_bytes: DEFAULT_SHARD_BYTES,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The files, the largest kind first.
    pub files: Vec<PathBuf>,
    /// Their bytes together.
    pub bytes: u64,
    /// What a person should know: what the export says otherwise than the model, or lacks.
    pub notes: Vec<String>,
}

/// Writes the model or adapter in `dir` to `out`: a directory, for GGUF a file that ends in `.gguf`.
///
/// # Errors
/// When the model cannot be read or expressed, those that are averaged do not go together, `out` is there and may not be
/// replaced, or a file cannot be written. What may be replaced, where the options say so, is a file, or a directory that is
/// empty or a model's, no run's, and does not hold what is exported.
pub fn export(dir: &Path, out: &Path, options: &ExportOptions) -> Result<Exported> {
    place::check(out, options)?;
    let source = Source::find(dir, options)?;
    place::check_apart(out, std::iter::once(dir).chain(source.dirs()))?;
    let mut notes = Vec::new();
    if !source.others.is_empty() {
        notes.push(format!(
            "the weights are the mean of {} models; tokenizer, templates and aligner.json are those of {}",
            source.others.len() + 1,
            source.own.display()
        ));
    }
    if source.manifest.is_none() {
        notes.push(format!(
            "{} has no aligner.json: it is exported as it is, with its own chat template",
            source.own.display()
        ));
    }
    match options.format {
        ExportFormat::Hf => hf::write_model(&source, out, options, notes),
        ExportFormat::Peft => hf::write_adapter(&source, out, options, notes),
        ExportFormat::Gguf => gguf::write(&source, out, options, notes),
    }
}
