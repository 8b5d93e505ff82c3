//! What can be typed: the arguments of each command, and those that several share.

mod bootstrap;
mod chat;
mod correct;
mod data;
mod eval;
mod export;
mod inspect;
mod plan;
mod serve;
mod steer;
mod train;

use std::path::PathBuf;

use aligner_data::{Columns, Format, OnBadRow, PromptTemplate};
use aligner_model::{DeviceSpec, KvFormat, RuntimeWeights};
use aligner_train::RowPolicy;
use clap::{Args, Parser, Subcommand};

pub use self::bootstrap::BootstrapArgs;
pub use self::chat::ChatArgs;
pub use self::correct::{CorrectArgs, ScoreArgs};
pub use self::data::{CheckArgs, ConvertArgs, ShowArgs};
pub use self::eval::{
    EvalAlpacaArgs, EvalAnswerArgs, EvalCommand, EvalImportArgs, EvalJudgeArgs, EvalMetricsArgs,
    EvalReportArgs, EvalRunArgs, EvalScoreArgs,
};
pub use self::export::{ExportArgs, ImportArgs};
pub use self::inspect::{InspectCommand, InspectLayersArgs, InspectTokensArgs, Label};
pub use self::plan::PlanArgs;
pub use self::serve::{EngineChoice, ServeArgs};
pub use self::steer::{SteerCommand, SteerFitArgs};
pub use self::train::TrainArgs;
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
    /// Put a model behind an upstream: an OpenAI-compatible service that corrects every answer.
    Serve(Box<ServeArgs>),
    /// Talk to an upstream in the terminal, each answer shown with its correction.
    Chat(ChatArgs),
    /// Print the log-probability of each row's correction.
    Score(ScoreArgs),
    /// Find out whether corrections help.
    Eval {
        /// Which step.
        #[command(subcommand)]
        command: EvalCommand,
    },
    /// Turn corrections into rows that an upstream, or the next Aligner, is trained on.
    Bootstrap(BootstrapArgs),
    /// Change how much a model corrects.
    Steer {
        /// What to do.
        #[command(subcommand)]
        command: SteerCommand,
    },
    /// Look into a model: its layers, and the probabilities of its tokens.
    Inspect {
        /// What to look at.
        #[command(subcommand)]
        command: InspectCommand,
    },
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
#[derive(Debug, Clone, Args)]
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
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Do not keep weights, as they are multiplied, in a file beside the model, which makes later starts faster.
    #[arg(long)]
    pub no_weights_cache: bool,
    /// Hold keys and values as f32 or f16, which takes half the memory (default: f16 beside weights of fewer bits than f32).
    #[arg(long, value_name = "FORMAT")]
    pub kv_format: Option<KvFormat>,
}

/// Where a model runs, and in how many bits.
#[derive(Debug, Clone, Copy, Args)]
pub struct PlaceArgs {
    /// cpu, cuda, vulkan, metal or webgpu; :1 behind it is the second of its kind.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceSpec,
    /// Hold the weights as f32, bf16, q8 or q4: fewer bits are faster and less exact.
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    pub weights: RuntimeWeights,
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
    // Neither is meant how Windows marks a file and its lines, nor the line feed that editors end one with.
    let text = text
        .strip_prefix('\u{feff}')
        .unwrap_or(&text)
        .replace("\r\n", "\n");
    Ok(PromptTemplate::custom(
        &id,
        text.strip_suffix('\n').unwrap_or(&text),
    )?)
}
