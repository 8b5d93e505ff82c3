//! Training of Aligners on [burn-train](burn_train).
//!
//! ```text
//!  TrainConfig ──▶ fine_tune ──▶ burn-train's SupervisedTraining ──▶ run directory
//!                                  │  PlanLoader    stage after stage, one item = one optimizer step
//!                                  │  TrainedModel  forward and backward of the step's micro-batches
//!                                  │  Workers       the same on several devices
//!                                  │  Session       clip, AdamW, schedule, validation, checkpoints
//!                                  ▼
//!                run.toml · metrics.jsonl · samples.jsonl · tensorboard/ · checkpoints/ · best/ · final/
//! ```
//!
//! A run has stages: a warm-up in which the model learns to copy the answer, then the correction ([`Plan`]).
//!
//! burn-train brings the learner, the metrics and the terminal dashboard; the loop is this crate's own, because a language
//! model wants what a loop by epochs does not have: gradients weighed by target tokens, checkpoints at any step with the
//! position in the data, and a resumed run that equals an undisturbed one to the last bit.
//!
//! # Example
//!
//! ```no_run
//! use aligner_train::{RunOptions, TrainConfig, fine_tune};
//!
//! let config = TrainConfig {
//!     model: "models/smollm2-135m".into(),
//!     data: vec!["train.jsonl".into()],
//!     out: "runs/first".into(),
//!     ..TrainConfig::default()
//! };
//! let outcome = fine_tune(&config, RunOptions::default())?;
//! println!("{} steps, model in {}", outcome.steps, outcome.model_dir.display());
//! # Ok::<(), aligner_train::TrainError>(())
//! ```

mod batches;
pub mod checkpoint;
mod config;
mod dashboard;
mod devices;
mod error;
mod evaluation;
mod learner;
mod loader;
mod materials;
mod memory_plan;
mod metrics;
pub mod objective;
mod optimizer;
mod plan;
mod prefetch;
mod records;
mod repair;
mod rows;
mod run;
mod run_dir;
mod saver;
mod schedule;
mod session;
mod stages;
mod steering;
mod strategy;
mod tensorboard;
mod time_plan;
mod trainee;
mod workers;

pub use batches::{Portions, StepBatch, StepLoader};
pub use burn_train::{Interrupter, renderer::MetricsRenderer};
pub use config::{
    BestBy, CopyFrom, LoraChoice, ObjectiveKind, RowPolicy, TemplateChoice, TrainConfig, WarmupChoice,
};
pub use devices::DeviceList;
pub use error::{Result, TrainError};
pub use evaluation::{Evaluator, ModelInMemory, SampleRecord, SampleRow, TextMetrics, Verdict, draw_rows};
pub use learner::{PairCounts, StepOutput, TrainedModel};
pub use loader::PlanLoader;
pub use memory_plan::{MemoryChoices, MemoryPlan, MemorySize, PeakMoment, available_memory_bytes};
pub use metrics::{PairMetrics, Split, StepRecord, peak_rss_bytes};
pub use optimizer::{AdamW, AdamWConfig, gradient_norm};
pub use plan::{Length, Place, Plan, StageKind, StagePlan};
pub use rows::Rows;
pub use run::{RunOptions, fine_tune, resume};
pub use run_dir::{RunDir, RunLock};
pub use schedule::{Schedule, ScheduleKind};
pub use session::{Ending, Event, Observer, Outcome};
pub use steering::{SteeringFit, SteeringModel, SteeringOptions, fit_steering};
pub use time_plan::{RunSize, TimePlan};
