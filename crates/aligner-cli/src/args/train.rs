//! What `train` takes.

use std::path::PathBuf;

use aligner_data::Format;

use aligner_model::{Precision, WeightFormat};
use aligner_train::{BestBy, CopyFrom, DeviceList, MemorySize, ObjectiveKind, RowPolicy, ScheduleKind};
use clap::Args;

/// Arguments of `train`; what is not given comes from `--config` or has its default.
#[derive(Debug, Default, Args)]
pub struct TrainArgs {
    /// Model directory to start from (Hugging Face layout), or org/name or org/name@revision of the Hub.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// What is minimised: correction (the default: an Aligner), sft (an upstream: a chat's answer), reward or cost (a model
    /// that scores answers, from pairs of them), dpo (an upstream, from pairs).
    #[arg(long, value_name = "OBJECTIVE")]
    pub objective: Option<ObjectiveKind>,
    /// How chats are written, of all objectives but the correction: safe-rlhf, chatml, llama3, gemma (default: as the
    /// model records or its chat template tells; safe-rlhf where neither does).
    #[arg(long, value_name = "FORMAT")]
    pub chat_format: Option<String>,
    /// DPO's beta: how far the model may move away from the one it starts from; less is farther (default: 0.1).
    #[arg(long, value_name = "BETA")]
    pub beta: Option<f64>,
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
    /// What the factors of products are rounded to: f32 (the default), or bf16, mixed precision, which is faster on CPUs that
    /// multiply such numbers (AVX512-BF16).
    #[arg(long, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// Make the run fit into memory: fewer rows at once with as many more micro-batches, then --checkpointing; what is trained
    /// stays the same.
    #[arg(long, conflicts_with = "resume")]
    pub fit: bool,
    /// Memory for --fit: 24GB, 24GiB, 800MB (default: what this machine has left; of another device than the CPU it has to
    /// be given).
    #[arg(long, value_name = "SIZE", requires = "fit")]
    pub memory: Option<MemorySize>,
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
    /// cpu (the default), cuda, vulkan, metal or webgpu; :1 behind it is the second of its kind. Several, cuda:0,cuda:1,
    /// divide the micro-batches of each step among them; with --resume, other ones than the run was started on.
    #[arg(long, value_name = "DEVICES")]
    pub device: Option<DeviceList>,
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
