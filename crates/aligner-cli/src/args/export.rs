//! What `import` and `export` take.

use std::path::PathBuf;

use aligner_infer::export::{ExportDtype, ExportFormat};
use clap::Args;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The GGUF file.
    #[arg(value_name = "FILE.gguf")]
    pub file: PathBuf,
    /// Model directory to write (Hugging Face layout).
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Replace the model in --out.
    #[arg(long)]
    pub overwrite: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Run, model directory or adapter directory (default: the latest run's).
    #[arg(value_name = "RUN|DIR")]
    pub model: Option<PathBuf>,
    /// hf (a Hugging Face directory), gguf (a file for llama.cpp and Ollama) or peft (an adapter without its base).
    #[arg(long, value_name = "FORMAT")]
    pub format: ExportFormat,
    /// f32, bf16 or f16; with gguf also q8_0.
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    pub dtype: ExportDtype,
    /// Directory to write; with gguf a file that ends in .gguf.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Adapter over the model: merged into it, or with peft written itself.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Model whose weights are averaged with the model's (repeatable): the mean of all of them is written.
    #[arg(long, value_name = "RUN|DIR", conflicts_with = "adapter")]
    pub average: Vec<PathBuf>,
    /// Base model of an adapter, where it does not lie where the adapter says.
    #[arg(long, value_name = "DIR", conflicts_with = "adapter")]
    pub base: Option<PathBuf>,
    /// llama.cpp's name for how the tokenizer cuts text into words, where it is not recognised.
    #[arg(long, value_name = "NAME")]
    pub pre: Option<String>,
    /// Replace what is there.
    #[arg(long)]
    pub overwrite: bool,
}
