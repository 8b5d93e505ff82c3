//! Everything of a run that is not a tensor.

use aligner_data::Cursor;
use serde::{Deserialize, Serialize};

/// Where a run stands after a step.
///
/// Together with the weights, the moments and `run.toml` this determines all that follows: the schedule is a function of
/// the step, the order of the rows one of seed and cursor, an adapter's dropout one of seed and step, and nothing else is
/// drawn at random.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimizer steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// The next row.
    pub cursor: Cursor,
    /// Seed of the order of the rows.
    pub seed: u64,
    /// Best validation so far.
    pub best: Option<Best>,
    /// Validations since the best.
    pub validations_without_gain: u64,
    /// Tokens seen, padding not counted.
    pub tokens: u64,
    /// Time spent in steps, in seconds.
    pub seconds: f64,
    /// Length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Fingerprint of the encoded training rows.
    pub data_fingerprint: String,
    /// Fingerprint of the prompt template.
    pub template_fingerprint: String,
    /// Hash of `tokenizer.json`.
    #[serde(default)]
    pub tokenizer_hash: String,
    /// Of a run that trains an adapter: the base's configuration and weight files.
    #[serde(default)]
    pub base_fingerprint: String,
}

/// The best validation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After which step.
    pub step: u64,
    /// Mean negative log-likelihood of a target token, in nats.
    pub loss: f64,
}
