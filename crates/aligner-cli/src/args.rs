//! What can be typed.

use std::path::PathBuf;

use aligner_data::{CheckOptions, Columns, FailOn, Format, OnBadRow, Prefer, PromptTemplate};
use aligner_infer::SamplingParams;
use aligner_infer::export::{ExportDtype, ExportFormat};
use aligner_model::{DeviceSpec, WeightFormat};
use aligner_train::{BestBy, CopyFrom, MemorySize, RowPolicy, ScheduleKind};
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
    /// Tell how much memory training will take, and what fits.
    Plan(PlanArgs),
    /// Draw a run as a page: losses, rates, what the model does to answers.
    Report(ReportArgs),
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
    /// Report duplicates, leaks, benchmark overlap, refusals, length bias and rows that cannot be used.
    Check(CheckArgs),
    /// Show a row's tokens and which of them carry loss.
    Show(ShowArgs),
    /// Write rows of any format as question/answer/correction rows.
    Convert(ConvertArgs),
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
    /// Share of each stage's steps over which the learning rate rises (default: 0.03); copying first is --warmup-share.
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
    /// Compute activations again in the backward pass instead of keeping them: less memory for more time.
    #[arg(long)]
    pub checkpointing: bool,
    /// Rows that are longer: stop (the default) or skip.
    #[arg(long, value_name = "POLICY")]
    pub on_long_row: Option<RowPolicy>,
    /// Rows that cannot be read: stop (the default) or skip.
    #[arg(long, value_name = "POLICY")]
    pub on_bad_row: Option<RowPolicy>,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP")]
    pub columns: Option<String>,
    /// What the rows are: qac, hh-rlhf, alpaca, … (default: told by their columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
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
    /// Stop after this many validations of the correction stage without a gain; 0: never (default: 0).
    #[arg(long, value_name = "N")]
    pub patience: Option<u64>,
    /// Validation rows that are corrected at each validation, beside the loss; 0: none (default: 64).
    #[arg(long, value_name = "ROWS")]
    pub eval_sample: Option<usize>,
    /// What makes a model the best: loss (the default) or exact_match, the sample's corrections that are the reference.
    #[arg(long, value_name = "MEASURE")]
    pub best_by: Option<BestBy>,
    /// Learn to copy first: share of the training rows that become answer → answer before the correction stage (default:
    /// 0.2, and 0 for a model that is an Aligner already); the rise of the learning rate is --warmup-ratio.
    #[arg(long, value_name = "SHARE", conflicts_with = "warmup_data")]
    pub warmup_share: Option<f64>,
    /// Learn to copy from these rows instead; with --warmup-from answer their corrections are not read. May be given
    /// several times.
    #[arg(long, value_name = "FILE")]
    pub warmup_data: Vec<PathBuf>,
    /// The text that is copied: answer (the default), or correction, which then stands in the answer's place.
    #[arg(long, value_name = "TEXT")]
    pub warmup_from: Option<CopyFrom>,
    /// Passes over the rows to copy (default: 1; with --steps at most --warmup-share of so many steps).
    #[arg(long, value_name = "N", conflicts_with = "warmup_steps")]
    pub warmup_epochs: Option<u64>,
    /// Optimizer steps of copying, instead of passes.
    #[arg(long, value_name = "N")]
    pub warmup_steps: Option<u64>,
    /// Highest learning rate of copying (default: that of --lr).
    #[arg(long, value_name = "RATE")]
    pub warmup_lr: Option<f64>,
    /// Share of the correction stage's rows that are added from corrections: correction → correction, so that what is right
    /// is left alone (default: 0, at most 0.5).
    #[arg(long, value_name = "SHARE")]
    pub identity_share: Option<f64>,
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
    /// How the frozen base under an adapter is held: f32 (the default), or int8 for about a quarter of the memory of its
    /// linear layers.
    #[arg(long, value_name = "FORMAT")]
    pub base_weights: Option<WeightFormat>,
    /// Continue the run in --out, or the latest one; with --template, on another template than it was started on.
    #[arg(long)]
    pub resume: bool,
    /// Print plain lines even on a terminal.
    #[arg(long)]
    pub no_dashboard: bool,
    /// Write no event files for TensorBoard (else: RUN/tensorboard).
    #[arg(long)]
    pub no_tensorboard: bool,
    /// Write no report.html at the end of the run; `aligner report` writes it at any time.
    #[arg(long)]
    pub no_report: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Model to train: a directory (its config.json is enough), or org/name or org/name@revision of the Hub.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Rows that go through the model at once.
    #[arg(long, value_name = "ROWS", default_value_t = 4, value_parser = positive)]
    pub micro_batch: usize,
    /// Micro-batches of one optimizer step.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    pub accumulate: usize,
    /// Longest prompt and correction together, in tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 2048, value_parser = positive)]
    pub max_length: usize,
    /// Train a low-rank adapter of this rank instead of all weights.
    #[arg(long, value_name = "RANK", value_parser = positive)]
    pub lora_rank: Option<usize>,
    /// How the frozen base under an adapter is held: f32 or int8.
    #[arg(long, value_name = "FORMAT", default_value_t)]
    pub base_weights: WeightFormat,
    /// Compute activations again in the backward pass instead of keeping them.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true",
          action = clap::ArgAction::Set)]
    pub checkpointing: bool,
    /// Memory there is: 24GB, 24GiB, 800MB. Says what fits, and what would make the run fit.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<MemorySize>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// A number above 0 that no product of a few overflows.
fn positive(text: &str) -> Result<usize, String> {
    match text.parse::<u32>() {
        Ok(number) if number > 0 => Ok(number as usize),
        _ => Err(format!("must be a number of 1 to {}", u32::MAX)),
    }
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Run directory; the run may be going on (default: the latest run).
    #[arg(value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// Page to write (default: report.html in the run directory).
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
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
    /// What the rows are: qac, hh-rlhf, alpaca, … (default: told by their columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
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
    /// Rows with question and answer (JSON, CSV or Parquet).
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
    /// The files; they are reported on together.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Validation rows, to be compared with FILE: what they share leaks; may be given several times.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub valid: Vec<PathBuf>,
    /// Benchmark, to be compared with FILE: rows, JSON or lines of text; may be given several times.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub benchmark: Vec<PathBuf>,
    /// Words in a row that overlap with a benchmark.
    #[arg(long, value_name = "WORDS", default_value_t = CheckOptions::NGRAM, value_parser = at_least_one)]
    pub ngram: usize,
    /// From which similarity on (0 to 1) questions and rows are near-duplicates.
    #[arg(long, value_name = "SHARE", default_value_t = CheckOptions::NEAR_THRESHOLD, value_parser = share)]
    pub near: f64,
    /// Examples of each finding.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub examples: usize,
    /// Count tokens with the tokenizer of this model (a directory, or org/name of the Hub); characters without.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Prompt template: edit, revision, correction, or a text file.
    #[arg(long, value_name = "T", default_value = "correction")]
    pub template: String,
    /// Longest prompt and correction together, in tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    pub max_length: usize,
    /// Rows that would go through the model at once, for the forecast of padding.
    #[arg(long, value_name = "ROWS", default_value_t = 4, value_parser = at_least_one)]
    pub micro_batch: usize,
    /// Column mapping: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// What the rows are: qac, hh-rlhf, alpaca, … (default: told by their columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
    /// Exit with 1 on findings of this level: warning, error or never.
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    pub fail_on: FailOn,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

fn at_least_one(typed: &str) -> Result<usize, String> {
    match typed.parse() {
        Ok(number) if number >= 1 => Ok(number),
        _ => Err("is not a number of 1 or more".into()),
    }
}

fn share(typed: &str) -> Result<f64, String> {
    match typed.parse() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("is not above 0 and at most 1".into()),
    }
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
    /// What the rows are: qac, hh-rlhf, alpaca, … (default: told by their columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
}

/// Arguments of `data convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The files; each may be of another format.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// File to write: JSON lines, gzipped when it ends in .gz.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// How rows are read.
    #[command(flatten)]
    pub rows: RowArgs,
    /// PKU-SafeRLHF: the correction is the response that was called safer, or better.
    #[arg(long, value_name = "WHICH", default_value = "safer")]
    pub prefer: Prefer,
    /// Give rows without a correction their answer as one, for a warm-up on identity.
    #[arg(long)]
    pub identity: bool,
    /// Replace --out.
    #[arg(long)]
    pub overwrite: bool,
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
