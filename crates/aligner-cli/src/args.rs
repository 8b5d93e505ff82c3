//! What can be typed.

use std::path::PathBuf;

use aligner_data::{Columns, OnBadRow, PromptTemplate};
use aligner_infer::SamplingParams;
use aligner_infer::export::{ExportDtype, ExportFormat};
use aligner_model::DeviceSpec;
use aligner_train::{RowPolicy, ScheduleKind};
use clap::{Args, Parser, Subcommand};

use crate::error::{CliError, Result};

/// Train a small model that corrects the answers of any other.
#[derive(Debug, Parser)]
#[command(
    name = "aligner",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log more to stderr; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model on question/answer/correction rows; with no arguments, a tiny one on a generated task.
    Train(Box<TrainArgs>),
    /// Correct one answer, or a file of them.
    Correct(CorrectArgs),
    /// Print the log-probability of each row's correction.
    Score(ScoreArgs),
    /// Turn a GGUF file into a model directory.
    Import(ImportArgs),
    /// Write a model for other programs: transformers, llama.cpp and Ollama, PEFT.
    Export(ExportArgs),
    /// Look at data before training on it.
    Data {
        /// What to look at.
        #[command(subcommand)]
        command: DataCommand,
    },
}

/// The commands on data.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Report counts, duplicates, lengths, and rows that cannot be used; fails when there are such rows.
    Check(CheckArgs),
    /// Show a row's tokens and which of them carry loss.
    Show(ShowArgs),
}

/// Arguments of `train`; what is not given comes from `--config` or has its default.
#[derive(Debug, Default, Args)]
pub struct TrainArgs {
    /// Model directory to start from (Hugging Face layout), or org/name or org/name@revision of the Hub.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Training rows; may be given several times. With FILE:WEIGHT for each, that share of the rows is drawn from it.
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    pub data: Vec<PathBuf>,
    /// Validation rows; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub valid: Vec<PathBuf>,
    /// Run directory to write (default: runs/NAME, NAME being the model's).
    #[arg(long, value_name = "RUN")]
    pub out: Option<PathBuf>,
    /// Prompt template: edit, revision, correction (the default), or a text file with `{question}` and `{answer}`.
    #[arg(long, value_name = "T")]
    pub template: Option<String>,
    /// Passes over the rows (default: 3).
    #[arg(long, value_name = "N", conflicts_with = "steps")]
    pub epochs: Option<u64>,
    /// Optimizer steps, instead of epochs.
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Rows that go through the model at once (default: 4).
    #[arg(long, value_name = "ROWS")]
    pub micro_batch: Option<usize>,
    /// Micro-batches of one optimizer step (default: 8).
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,
    /// Highest learning rate (default: 2e-5).
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// Shape of the learning rate: cosine (the default), linear, constant.
    #[arg(long, value_name = "SHAPE")]
    pub schedule: Option<ScheduleKind>,
    /// Share of the steps over which the rate rises (default: 0.03).
    #[arg(long, value_name = "SHARE")]
    pub warmup_ratio: Option<f64>,
    /// Decoupled weight decay (default: 0).
    #[arg(long, value_name = "DECAY")]
    pub weight_decay: Option<f64>,
    /// Gradients of a larger norm are scaled down to it; 0: never (default: 1).
    #[arg(long, value_name = "NORM")]
    pub max_grad_norm: Option<f64>,
    /// Longest prompt and correction together, in tokens (default: 2048).
    #[arg(long, value_name = "TOKENS")]
    pub max_length: Option<usize>,
    /// Rows that are longer: stop (the default) or skip.
    #[arg(long, value_name = "POLICY")]
    pub on_long_row: Option<RowPolicy>,
    /// Rows that cannot be read: stop (the default) or skip.
    #[arg(long, value_name = "POLICY")]
    pub on_bad_row: Option<RowPolicy>,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP")]
    pub columns: Option<String>,
    /// Seed of the order of the rows (default: 42).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Shuffle the rows anew in each epoch (default: true).
    #[arg(long, value_name = "BOOL")]
    pub shuffle: Option<bool>,
    /// Steps between checkpoints; 0: only at the end and when stopped (default: 100).
    #[arg(long, value_name = "N")]
    pub save_every: Option<u64>,
    /// Checkpoints kept (default: 2).
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Steps between validations; 0: only before and after (default: 0).
    #[arg(long, value_name = "N")]
    pub eval_every: Option<u64>,
    /// Stop after this many validations without a gain; 0: never (default: 0).
    #[arg(long, value_name = "N")]
    pub patience: Option<u64>,
    /// cpu (the default), cuda, vulkan, metal or webgpu; :1 behind it is the second of its kind.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceSpec>,
    /// Licence of the data, recorded in the trained model's aligner.json.
    #[arg(long, value_name = "TEXT")]
    pub data_licence: Option<String>,
    /// Configuration file (TOML, the keys of run.toml); flags override it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Train a low-rank adapter of this rank instead of all weights.
    #[arg(long, value_name = "RANK")]
    pub lora_rank: Option<usize>,
    /// The adapter's alpha (default: twice the rank).
    #[arg(long, value_name = "ALPHA")]
    pub lora_alpha: Option<f64>,
    /// Share of the adapter's inputs that is dropped while training (default: 0).
    #[arg(long, value_name = "SHARE")]
    pub lora_dropout: Option<f64>,
    /// Layers that get an adapter: all-linear (the default), or names: q_proj,v_proj,…
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub lora_targets: Vec<String>,
    /// Scale the adapter by alpha/√rank instead of alpha/rank.
    #[arg(long)]
    pub lora_rslora: bool,
    /// Continue the run in --out, or the latest one; with --template, on another template than it was started on.
    #[arg(long)]
    pub resume: bool,
    /// Print plain lines even on a terminal.
    #[arg(long)]
    pub no_dashboard: bool,
}

/// Which model, and how it is run.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Model directory, run, org/name or org/name@revision of the Hugging Face Hub (default: the latest run's).
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Adapter (PEFT's directory) over the model.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Prompt template instead of the recorded one: edit, revision, correction, or a text file.
    #[arg(long, value_name = "T")]
    pub template: Option<String>,
    /// cpu, cuda, vulkan, metal or webgpu; :1 behind it is the second of its kind.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceSpec,
}

/// How rows are read.
#[derive(Debug, Args)]
pub struct RowArgs {
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// Rows that cannot be read: stop or skip.
    #[arg(long, value_name = "POLICY", default_value = "stop")]
    pub on_bad_row: RowPolicy,
    /// Only the first N rows.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

impl RowArgs {
    /// The policy as the reader knows it.
    pub fn on_bad_row(&self) -> OnBadRow {
        match self.on_bad_row {
            RowPolicy::Stop => OnBadRow::Stop,
            RowPolicy::Skip => OnBadRow::Skip,
        }
    }
}

/// Arguments of `correct`.
#[derive(Debug, Args)]
pub struct CorrectArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The question.
    #[arg(
        long,
        value_name = "TEXT",
        requires = "answer",
        required_unless_present = "input"
    )]
    pub question: Option<String>,
    /// The answer to correct.
    #[arg(long, value_name = "TEXT", requires = "question")]
    pub answer: Option<String>,
    /// Print the correction as it is generated.
    #[arg(long, conflicts_with_all = ["diff", "input"])]
    pub stream: bool,
    /// Print the correction as changes of the answer.
    #[arg(long, conflicts_with = "input")]
    pub diff: bool,
    /// Rows with question and answer (JSON array or lines, plain or gzipped).
    #[arg(long, value_name = "FILE", conflicts_with = "question")]
    pub input: Option<PathBuf>,
    /// Where the corrected rows go, one JSON object a line; continued when it exists (default: stdout).
    #[arg(long, value_name = "FILE", requires = "input")]
    pub output: Option<PathBuf>,
    /// Start --output anew.
    #[arg(long, requires = "output")]
    pub overwrite: bool,
    /// How rows are read.
    #[command(flatten)]
    pub rows: RowArgs,
    /// Limit of new tokens.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_new_tokens: usize,
    /// 0 takes the most probable token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Choose among this many tokens; 0: all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f32,
    /// Choose among tokens at least this fraction as probable as the first.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub min_p: f32,
    /// Makes tokens that occurred less likely; 1: no.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Seed of the choices.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl CorrectArgs {
    /// How tokens are chosen.
    pub fn sampling(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }
}

/// Arguments of `score`.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows with question, answer and correction.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Print each token's log-probability too.
    #[arg(long)]
    pub per_token: bool,
    /// How rows are read.
    #[command(flatten)]
    pub rows: RowArgs,
}

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

/// Arguments of `data check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Count tokens with the tokenizer of this model (a directory, or org/name of the Hub); characters without.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Prompt template: edit, revision, correction, or a text file.
    #[arg(long, value_name = "T", default_value = "correction")]
    pub template: String,
    /// Longest prompt and correction together, in tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    pub max_length: usize,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `data show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The row, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub row: usize,
    /// Model with the tokenizer: a directory, a run, or org/name of the Hub (default: the latest run's).
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Prompt template: edit, revision, correction, or a text file (default: the model's, else correction).
    #[arg(long, value_name = "T")]
    pub template: Option<String>,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
}

/// A template as it is typed: the name of a built-in one, or a file with its text.
pub fn template(typed: &str) -> Result<PromptTemplate> {
    if PromptTemplate::builtin_ids().contains(&typed) {
        return Ok(PromptTemplate::builtin(typed)?);
    }
    let path = PathBuf::from(typed);
    let Ok(text) = std::fs::read_to_string(&path) else {
        let known = PromptTemplate::builtin_ids().join(", ");
        return Err(CliError::Usage(format!(
            "--template {typed}: neither built in ({known}) nor a file that can be read"
        )));
    };
    let id = path.file_stem().unwrap_or_default().to_string_lossy();
    // Editors end a file with a line feed that nobody means.
    Ok(PromptTemplate::custom(
        &id,
        text.strip_suffix('\n').unwrap_or(&text),
    )?)
}
