//! What `eval` takes.

use std::path::PathBuf;
use std::time::Duration;

use aligner_data::{Columns, ReadOptions};
use aligner_eval::Dimension;
use aligner_eval::input::{InputFormat, InputOptions};
use aligner_eval::judge::{ApiKey, JudgeConfig, Price};
use aligner_infer::{BatchOptions, LongAnswers};
use aligner_train::MemorySize;
use clap::{Args, Subcommand, ValueEnum};

use super::{ModelArgs, PlaceArgs};
use crate::error::{CliError, Result};

/// The steps of an evaluation, each on the directory that the first one makes.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Have a model answer the questions of a set: an upstream that fits on this machine.
    Answer(EvalAnswerArgs),
    /// Correct the answers of an evaluation set with one or several Aligners; continued where it stopped.
    Run(Box<EvalRunArgs>),
    /// Take corrections that were made elsewhere: rows with question, answer and correction, or those that `serve` kept.
    Import(EvalImportArgs),
    /// Measure without a judge: copies, changes, refusals, likeness to references.
    Metrics(EvalMetricsArgs),
    /// Ask a judge, in both orders, whether corrections are more helpful, harmless and honest.
    Judge(EvalJudgeArgs),
    /// Score answers and corrections with reward and cost models.
    Score(EvalScoreArgs),
    /// AlpacaEval's win rates from annotations, length-controlled as well.
    Alpaca(EvalAlpacaArgs),
    /// Draw everything that is known as one page, as Markdown and as pictures.
    Report(EvalReportArgs),
}

/// An evaluation set.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Evaluation set: question/answer rows, or a file as AlpacaEval, BeaverTails, HarmfulQA, TruthfulQA, DialogSum or EmpatheticDialogues publish it.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// What the set is (default: told by its columns).
    #[arg(long, value_name = "NAME")]
    pub format: Option<InputFormat>,
    /// Column mapping of question/answer rows: question=prompt,answer=response,…
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// Name of the data set (default: the published one, or the file's).
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
}

impl SetArgs {
    /// How the set is read.
    pub fn options(&self) -> InputOptions {
        InputOptions {
            format: self.format,
            dataset: self.dataset.clone(),
            rows: ReadOptions {
                columns: self.columns.clone(),
                ..ReadOptions::default()
            },
            ..InputOptions::default()
        }
    }
}

/// Arguments of `eval answer`.
#[derive(Debug, Args)]
pub struct EvalAnswerArgs {
    /// Which questions; answers in the set are not read.
    #[command(flatten)]
    pub set: SetArgs,
    /// The upstream: a model that chats, a run that trained one, or a name of the Hub.
    #[arg(long, value_name = "MODEL")]
    pub model: PathBuf,
    /// Its name (default: that of its directory).
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Rows for `eval run --input`.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Only the first N questions.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Limit of new tokens.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_new_tokens: usize,
    /// 0 takes the most probable token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Seed of the choices.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Arguments of `eval run`.
#[derive(Debug, Args)]
pub struct EvalRunArgs {
    /// Which questions, perhaps with answers.
    #[command(flatten)]
    pub set: SetArgs,
    /// Answers to a set of questions alone; several files for several upstreams.
    #[arg(long, value_name = "FILE")]
    pub answers: Vec<PathBuf>,
    /// Directory of the evaluation.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Aligners: model directories, runs or names of the Hub (default: the latest run's).
    #[arg(long, value_name = "MODEL")]
    pub model: Vec<PathBuf>,
    /// Their names, in the same order (default: those of their directories).
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Upstream of answers that name none.
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Only the first N questions of each upstream.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Correct each correction once more: a good Aligner leaves it as it is.
    #[arg(long)]
    pub second_pass: bool,
    /// Note how probable the right references are.
    #[arg(long)]
    pub references: bool,
    /// Prompt template instead of the recorded one: edit, revision, correction, or a text file.
    #[arg(long, value_name = "T")]
    pub template: Option<String>,
    /// Where they run.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Limit of new tokens.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_new_tokens: usize,
    /// Answers that are too long for the context: windows that end with a sentence, or refuse.
    #[arg(long, value_name = "windows|refuse", default_value = "windows")]
    pub long: LongAnswers,
    /// Answers that are corrected at once.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub parallel: usize,
    /// Memory for keys and values of all of them.
    #[arg(long, value_name = "SIZE", default_value = "2GB")]
    pub kv_memory: MemorySize,
}

impl EvalRunArgs {
    /// How the set is read.
    pub fn input(&self) -> InputOptions {
        InputOptions {
            upstream: self.upstream.clone(),
            answers: self.answers.clone(),
            ..self.set.options()
        }
    }

    /// One of the Aligners.
    pub fn aligner(&self, model: Option<PathBuf>) -> ModelArgs {
        ModelArgs {
            model,
            adapter: None,
            template: self.template.clone(),
            place: self.place,
            no_weights_cache: false,
            kv_format: None,
        }
    }

    /// How many answers are corrected at once.
    pub fn batch(&self) -> BatchOptions {
        BatchOptions {
            max_running: self.parallel.max(1),
            kv_memory_bytes: usize::try_from(self.kv_memory.0).unwrap_or(usize::MAX),
            ..BatchOptions::default()
        }
    }
}

/// Arguments of `eval import`.
#[derive(Debug, Args)]
pub struct EvalImportArgs {
    /// Rows with question, answer and correction.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Directory of the evaluation.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Name of the Aligner.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Column mapping: question=instruction,answer=original_output,correction=output for AlpacaEval's files.
    #[arg(long, value_name = "MAP", default_value = "")]
    pub columns: Columns,
    /// Name of the data set (default: the file's).
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Upstream of rows that name none.
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
}

/// Arguments of `eval metrics`.
#[derive(Debug, Args)]
pub struct EvalMetricsArgs {
    /// Directory of the evaluation.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Model whose hidden states, averaged over the tokens, compare texts with references by meaning.
    #[arg(long, value_name = "MODEL")]
    pub embed: Option<PathBuf>,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Words of a run that counts as overlap with a reference.
    #[arg(long, value_name = "N", default_value_t = aligner_data::CheckOptions::NGRAM)]
    pub ngram: usize,
    /// Seed of the intervals.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a judge is asked about, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JudgeDimension {
    /// Does it do what was asked.
    Helpful,
    /// Does it avoid harm.
    Harmless,
    /// Is it true.
    Honest,
}

/// Arguments of `eval judge`.
#[derive(Debug, Args)]
pub struct EvalJudgeArgs {
    /// Directory of the evaluation.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Base URL of an OpenAI-compatible API, with its version.
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// The judge's model there.
    #[arg(long, value_name = "NAME")]
    pub judge: String,
    /// Environment variable with the key.
    #[arg(long, value_name = "VAR")]
    pub api_key_env: Option<String>,
    /// What is asked about, each by itself.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [JudgeDimension::Helpful, JudgeDimension::Harmless, JudgeDimension::Honest])]
    pub dimensions: Vec<JudgeDimension>,
    /// Tell how many calls, tokens and how much money it takes, and ask nothing.
    #[arg(long)]
    pub estimate: bool,
    /// Prices of a million tokens of prompt and of reply: 2.5,10
    #[arg(long, value_name = "IN,OUT", value_delimiter = ',', num_args = 1)]
    pub price: Vec<f64>,
    /// Calls at a time.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub parallel: usize,
    /// Calls in a minute at most.
    #[arg(long, value_name = "N")]
    pub requests_per_minute: Option<u32>,
    /// Tokens of a reply at most.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_tokens: u32,
    /// Seconds that a call may take.
    #[arg(long, value_name = "S", default_value_t = 120)]
    pub timeout_secs: u64,
    /// Send the rubric as part of the only message, to models without a system role.
    #[arg(long)]
    pub no_system_role: bool,
    /// Further fields of each request, as a JSON object; null leaves a field out.
    #[arg(long, value_name = "JSON")]
    pub extra: Option<String>,
    /// Seed of the intervals.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

impl EvalJudgeArgs {
    /// Who judges, and how.
    pub fn config(&self) -> Result<JudgeConfig> {
        let mut config = JudgeConfig::new(&self.url, &self.judge);
        config.api_key = match &self.api_key_env {
            Some(variable) if !self.estimate => Some(ApiKey::from_env(variable)?),
            // An estimate asks nobody.
            _ => None,
        };
        config.dimensions = self
            .dimensions
            .iter()
            .map(|dimension| match dimension {
                JudgeDimension::Helpful => Dimension::Helpful,
                JudgeDimension::Harmless => Dimension::Harmless,
                JudgeDimension::Honest => Dimension::Honest,
            })
            .collect();
        config.parallel = self.parallel;
        config.requests_per_minute = self.requests_per_minute;
        config.max_tokens = self.max_tokens;
        config.timeout = Duration::from_secs(self.timeout_secs);
        config.has_system_role = !self.no_system_role;
        config.price = match self.price[..] {
            [] => None,
            [prompt_per_million, completion_per_million] => Some(Price {
                prompt_per_million,
                completion_per_million,
            }),
            _ => {
                let reason = "--price takes two numbers, of a million tokens of prompt and of reply: 2.5,10";
                return Err(CliError::Usage(reason.into()));
            }
        };
        if let Some(extra) = &self.extra {
            config.extra = serde_json::from_str(extra)
                .map_err(|error| CliError::Usage(format!("--extra is no JSON object: {error}")))?;
        }
        Ok(config)
    }
}

/// Arguments of `eval score`.
#[derive(Debug, Args)]
pub struct EvalScoreArgs {
    /// Directory of the evaluation.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Reward model: one of transformers' sequence classifiers with one label, or Safe-RLHF's.
    #[arg(long, value_name = "MODEL", required_unless_present = "cost")]
    pub reward: Option<PathBuf>,
    /// Cost model: more is more harmful.
    #[arg(long, value_name = "MODEL")]
    pub cost: Option<PathBuf>,
    /// Where it runs.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Seed of the intervals.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

/// Arguments of `eval alpaca`.
#[derive(Debug, Args)]
pub struct EvalAlpacaArgs {
    /// Annotations of one model: AlpacaEval's annotations.json, or rows of index, len_1, len_2 and preference.
    #[arg(long, value_name = "FILE")]
    pub annotations: PathBuf,
    /// Instructions with their difficulty, for the length-controlled win rate.
    #[arg(long, value_name = "FILE", requires = "gamed")]
    pub instructions: Option<PathBuf>,
    /// Rows of the baseline's gamed variants.
    #[arg(long, value_name = "FILE", requires = "instructions")]
    pub gamed: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `eval report`.
#[derive(Debug, Args)]
pub struct EvalReportArgs {
    /// Directory of the evaluation.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where report.html, report.md and the pictures go (default: the same directory).
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Title (default: the directory's name).
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// Seed of the intervals of verdicts and scores; figures that `eval metrics` wrote keep theirs.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}
