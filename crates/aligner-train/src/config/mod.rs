//! The configuration of a run: what `run.toml` holds.

mod choices;
mod objective;
mod recipe;

use std::path::{Path, PathBuf};

use aligner_model::{DeviceSpec, Precision, WeightFormat};
use serde::{Deserialize, Serialize};

pub use self::choices::{LoraChoice, RowPolicy, TemplateChoice};
pub use self::objective::ObjectiveKind;
pub use self::recipe::{BestBy, CopyFrom, WarmupChoice};
use crate::devices::DeviceList;
use crate::error::{Result, TrainError};
use crate::optimizer::AdamWConfig;
use crate::schedule::ScheduleKind;

/// A whole run, resolved: the defaults are those of the original Aligner's training script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Model directory to start from.
    pub model: PathBuf,
    /// What is minimised.
    pub objective: ObjectiveKind,
    /// Training rows: files of question, answer, correction, or what the objective takes. `rows.jsonl:0.7` draws that share of the rows from the file
    /// (see `aligner_data::DataSource`); all files have a weight, or none.
    pub data: Vec<PathBuf>,
    /// Validation rows; none: no validation.
    pub valid: Vec<PathBuf>,
    /// Run directory.
    pub out: PathBuf,
    /// `cpu`, `cuda[:N]`, `vulkan[:N]`, `metal[:N]`, `webgpu[:N]`; several, separated by commas, divide the micro-batches of
    /// each step among them (see [`DeviceList`]).
    pub device: String,
    /// Write event files for TensorBoard.
    pub tensorboard: bool,
    /// Compute activations again in the backward pass instead of keeping them: less memory for more time.
    pub checkpointing: bool,
    /// What the factors of products are rounded to: `f32`, or `bf16` for mixed precision on the CPU.
    pub precision: Precision,
    /// How chats are written, as `aligner_data::ChatFormat` names it, for all objectives but the correction; empty: that of the
    /// model, as its directory records or its chat template tells.
    pub chat_format: String,
    /// DPO's β: how far the model may move away from the one that the run starts from; less is farther.
    pub beta: f64,
    /// Prompt template.
    pub template: TemplateChoice,
    /// Column mapping, `question=prompt,answer=response`; empty: columns carry our names.
    pub columns: String,
    /// What the rows are, as `aligner_data::Format` names it; empty: told by the columns of each file's first row.
    pub format: String,
    /// What to do with a row that cannot be read.
    pub on_bad_row: RowPolicy,
    /// What to do with a row that is longer than `max_length`.
    pub on_long_row: RowPolicy,
    /// Longest prompt and correction together, in tokens.
    pub max_length: usize,
    /// Passes over the rows; not used when `steps` is given.
    pub epochs: u64,
    /// Optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Rows that go through the model at once.
    pub micro_batch: usize,
    /// Micro-batches of one optimizer step.
    pub accumulate: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Shape of the learning rate.
    pub schedule: ScheduleKind,
    /// Share of each stage's steps over which the rate rises; the stage that learns to copy is [`warmup`](Self::warmup).
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of AdamW's first moment.
    pub beta1: f64,
    /// Decay of AdamW's second moment.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub epsilon: f64,
    /// Gradients of a larger norm are scaled down to it; 0: never.
    pub max_grad_norm: f64,
    /// Seed of the order of the rows.
    pub seed: u64,
    /// Whether the rows are shuffled anew in each epoch.
    pub shuffle: bool,
    /// Steps between checkpoints; 0: only at the end and when stopped.
    pub save_every: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps between validations; 0: only before and after training.
    pub eval_every: u64,
    /// Stop after this many validations without a gain, of the correction stage; 0: never.
    pub patience: u64,
    /// Validation rows that are corrected at each validation, beside the loss; 0: none.
    pub eval_sample: usize,
    /// What makes a validation the best.
    pub best_by: BestBy,
    /// Share of the correction stage's rows that are made of corrections: question, correction → correction.
    pub identity_share: f64,
    /// Licence of the data, recorded in the model's `aligner.json`.
    pub data_licence: String,
    /// How the base's linear layers are held while an adapter is trained over them: `f32`, or `int8` for about a quarter of
    /// their memory. An adapter that is trained is needed for it.
    pub base_weights: WeightFormat,
    /// The stage before the correction, in which the model learns to copy.
    pub warmup: WarmupChoice,
    /// Train a low-rank adapter instead of all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraChoice>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            objective: ObjectiveKind::Correction,
            data: Vec::new(),
            valid: Vec::new(),
            out: PathBuf::new(),
            device: "cpu".into(),
            tensorboard: true,
            checkpointing: false,
            precision: Precision::F32,
            chat_format: String::new(),
            beta: 0.1,
            template: TemplateChoice::Builtin("correction".into()),
            columns: String::new(),
            format: String::new(),
            on_bad_row: RowPolicy::Stop,
            on_long_row: RowPolicy::Stop,
            max_length: 2048,
            epochs: 3,
            steps: None,
            micro_batch: 4,
            accumulate: 8,
            lr: 2e-5,
            schedule: ScheduleKind::Cosine,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            seed: 42,
            shuffle: true,
            save_every: 100,
            keep: 2,
            eval_every: 0,
            patience: 0,
            eval_sample: 64,
            best_by: BestBy::Loss,
            identity_share: 0.0,
            data_licence: String::new(),
            base_weights: WeightFormat::F32,
            warmup: WarmupChoice::default(),
            lora: None,
        }
    }
}

impl TrainConfig {
    /// Reads a configuration file; keys that are left out have their defaults.
    ///
    /// # Errors
    /// When the file cannot be read, is not TOML, or has an unknown key (the message names the nearest known one).
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io("read", path))?;
        Self::from_toml(&text, &path.display().to_string())
    }

    /// Reads a configuration from text; `origin` names it in messages.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_toml(text: &str, origin: &str) -> Result<Self> {
        let table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| TrainError::config(origin, error.to_string()))?;
        let unknown_in = |name: &str, known: &[&str]| {
            let nested = table.get(name).and_then(toml::Value::as_table)?;
            nested.keys().find_map(|key| unknown_key(key, known))
        };
        let unknown = table
            .keys()
            .find_map(|key| unknown_key(key, &KEYS))
            .or_else(|| unknown_in("lora", &LORA_KEYS))
            .or_else(|| unknown_in("warmup", &WARMUP_KEYS));
        if let Some(reason) = unknown {
            return Err(TrainError::config(origin, reason));
        }
        toml::from_str(text).map_err(|error| TrainError::config(origin, error.to_string()))
    }

    /// The configuration as TOML.
    ///
    /// # Errors
    /// When a path is not valid UTF-8.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| TrainError::config("run.toml", error.to_string()))
    }

    /// Checks what no single field can say.
    ///
    /// # Errors
    /// The first value that cannot be used, with the values that can.
    pub fn validate(&self) -> Result<()> {
        let positive = |key: &str, ok: bool, rule: &str| {
            if ok {
                Ok(())
            } else {
                Err(TrainError::config(key, format!("must be {rule}")))
            }
        };
        positive("model", !self.model.as_os_str().is_empty(), "a model directory")?;
        positive("data", !self.data.is_empty(), "at least one file")?;
        positive("out", !self.out.as_os_str().is_empty(), "a directory")?;
        positive("max_length", self.max_length >= 2, "at least 2 tokens")?;
        positive("epochs", self.steps.is_some() || self.epochs > 0, "at least 1")?;
        positive("steps", self.steps != Some(0), "at least 1")?;
        positive("micro_batch", self.micro_batch > 0, "at least 1")?;
        positive("accumulate", self.accumulate > 0, "at least 1")?;
        self.check_devices()?;
        self.check_precision()?;
        positive("lr", self.lr > 0.0 && self.lr.is_finite(), "a positive number")?;
        positive(
            "warmup_ratio",
            (0.0..=1.0).contains(&self.warmup_ratio),
            "in 0..=1",
        )?;
        positive("weight_decay", (0.0..1.0).contains(&self.weight_decay), "in 0..1")?;
        positive("beta1", (0.0..1.0).contains(&self.beta1), "in 0..1")?;
        positive("beta2", (0.0..1.0).contains(&self.beta2), "in 0..1")?;
        positive(
            "epsilon",
            self.epsilon > 0.0 && self.epsilon.is_finite(),
            "a positive number",
        )?;
        positive(
            "max_grad_norm",
            self.max_grad_norm >= 0.0 && self.max_grad_norm.is_finite(),
            "0 or more",
        )?;
        if let Some(lora) = &self.lora {
            lora.resolve()
                .validate()
                .map_err(|error| TrainError::config("lora", error.to_string()))?;
        }
        positive(
            "patience",
            self.patience == 0 || !self.valid.is_empty(),
            "0 when there are no validation rows",
        )?;
        positive(
            "patience",
            self.patience == 0 || self.eval_every > 0,
            "0 without validations in between (eval_every)",
        )?;
        positive(
            "best_by",
            self.best_by == BestBy::Loss || (self.eval_sample > 0 && !self.valid.is_empty()),
            "loss when no validation rows are corrected (valid, eval_sample)",
        )?;
        // Beyond a half there would be more of them than corrections to make them of.
        positive(
            "identity_share",
            (0.0..=0.5).contains(&self.identity_share),
            "in 0..=0.5",
        )?;
        self.warmup.validate()?;
        objective::check(self)
    }

    /// The devices by their names.
    ///
    /// # Errors
    /// When [`device`](Self::device) is not a list of them.
    pub fn devices(&self) -> Result<DeviceList> {
        self.device.parse()
    }

    fn check_devices(&self) -> Result<()> {
        let (devices, accumulate) = (self.devices()?.len(), self.accumulate);
        if accumulate >= devices {
            return Ok(());
        }
        let reason = format!(
            "must be at least the number of devices, best a multiple: it is {accumulate}, and `{}` are {devices} that divide the micro-batches of a step among them",
            self.device
        );
        Err(TrainError::config("accumulate", reason))
    }

    pub(crate) fn check_precision(&self) -> Result<()> {
        let on_cpu = self.devices()?.iter().all(|device| device == DeviceSpec::Cpu);
        if self.precision == Precision::F32 || on_cpu {
            return Ok(());
        }
        let reason = format!(
            "{} is for the CPU's own operations: on `{}` it must be f32",
            self.precision, self.device
        );
        Err(TrainError::config("precision", reason))
    }

    /// AdamW's part.
    pub fn adamw(&self) -> AdamWConfig {
        let Self {
            beta1,
            beta2,
            epsilon,
            weight_decay,
            ..
        } = *self;
        AdamWConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        }
    }

    /// Names of the fields in which two configurations differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (Ok(a), Ok(b)) = (toml::Table::try_from(self), toml::Table::try_from(other)) else {
            return Vec::new();
        };
        KEYS.iter()
            .filter(|key| a.get(**key) != b.get(**key))
            .map(ToString::to_string)
            .collect()
    }
}

/// The keys of `run.toml`, for messages; a test holds them against the struct.
const KEYS: [&str; 42] = [
    "model",
    "objective",
    "data",
    "valid",
    "out",
    "device",
    "tensorboard",
    "checkpointing",
    "precision",
    "chat_format",
    "beta",
    "template",
    "columns",
    "format",
    "on_bad_row",
    "on_long_row",
    "max_length",
    "epochs",
    "steps",
    "micro_batch",
    "accumulate",
    "lr",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "beta1",
    "beta2",
    "epsilon",
    "max_grad_norm",
    "seed",
    "shuffle",
    "save_every",
    "keep",
    "eval_every",
    "patience",
    "eval_sample",
    "best_by",
    "identity_share",
    "data_licence",
    "base_weights",
    "warmup",
    "lora",
];

/// The keys of its table `[lora]`.
const LORA_KEYS: [&str; 5] = ["rank", "alpha", "dropout", "target_modules", "rslora"];

/// The keys of its table `[warmup]`.
const WARMUP_KEYS: [&str; 6] = ["share", "data", "from", "epochs", "steps", "lr"];

/// What to say of a key that is not one of `known`.
fn unknown_key(key: &str, known: &[&str]) -> Option<String> {
    if known.contains(&key) {
        return None;
    }
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
    Some(match nearest {
        Some(nearest) => format!("unknown key `{key}`; the nearest known one is `{nearest}`"),
        None => format!("unknown key `{key}`"),
    })
}

#[cfg(test)]
mod tests;
