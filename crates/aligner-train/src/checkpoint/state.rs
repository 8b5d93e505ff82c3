//! Everything of a run that is not a tensor.

use aligner_data::Cursor;
use aligner_model::WeightFormat;
use serde::{Deserialize, Serialize};

use crate::config::BestBy;
use crate::plan::StageKind;

/// Where a run stands after a step.
///
/// Together with the weights, the moments and `run.toml` this determines all that follows: stage and schedule are functions
/// of the step, the order of the rows one of seed and cursor, an adapter's dropout one of seed and step, and nothing else is
/// drawn at random.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimizer steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// The stage of the next step; between two stages the second.
    #[serde(default)]
    pub stage: StageKind,
    /// Steps of each stage.
    #[serde(default)]
    pub stage_steps: Vec<u64>,
    /// The stage's next row.
    pub cursor: Cursor,
    /// Seed of the order of the rows.
    pub seed: u64,
    /// Best validation so far.
    pub best: Option<Best>,
    /// Validations since the best, of the last stage.
    pub validations_without_gain: u64,
    /// Tokens seen, padding not counted.
    pub tokens: u64,
    /// Time spent in steps, in seconds.
    pub seconds: f64,
    /// Length of `metrics.jsonl`.
    pub metrics_bytes: u64,
    /// Length of `samples.jsonl`.
    #[serde(default)]
    pub samples_bytes: u64,
    /// Fingerprint of the encoded training rows of all stages.
    pub data_fingerprint: String,
    /// Fingerprint of the prompt template.
    pub template_fingerprint: String,
    /// Hash of `tokenizer.json`.
    #[serde(default)]
    pub tokenizer_hash: String,
    /// Of a run that trains an adapter: the base's configuration and weight files.
    #[serde(default)]
    pub base_fingerprint: String,
    /// Of such a run: how the base's linear layers are held.
    #[serde(default)]
    pub base_weights: WeightFormat,
}

/// The best validation of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After which step.
    pub step: u64,
    /// Mean negative log-likelihood of a target token, in nats.
    pub loss: f64,
    /// Share of the sample's corrections that were the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<f64>,
}

impl Best {
    /// Whether this validation is better than an earlier one.
    pub fn beats(&self, earlier: &Self, by: BestBy) -> bool {
        let (exact, before) = (
            self.exact_match.unwrap_or(0.0),
            earlier.exact_match.unwrap_or(0.0),
        );
        match by {
            BestBy::ExactMatch if exact != before => exact > before,
            BestBy::Loss | BestBy::ExactMatch => self.loss < earlier.loss,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_chosen_by_what_was_asked() {
        let validation = |loss, exact| Best {
            step: 1,
            loss,
            exact_match: Some(exact),
        };
        let earlier = validation(1.0, 0.5);
        for (later, by_loss, by_exact_match) in [
            (validation(0.9, 0.4), true, false),
            (validation(1.1, 0.6), false, true),
            (validation(0.9, 0.5), true, true),
            (validation(1.0, 0.5), false, false),
        ] {
            assert_eq!(later.beats(&earlier, BestBy::Loss), by_loss, "{later:?}");
            assert_eq!(
                later.beats(&earlier, BestBy::ExactMatch),
                by_exact_match,
                "{later:?}"
            );
        }
    }

    #[test]
    fn a_state_of_before_stages_is_one_of_the_correction() {
        let mut state = serde_json::to_value(RunState::default()).unwrap();
        let fields = state.as_object_mut().unwrap();
        for field in ["stage", "stage_steps", "samples_bytes"] {
            fields.remove(field).unwrap();
        }
        assert_eq!(
            serde_json::from_value::<RunState>(state).unwrap(),
            RunState::default()
        );
    }
}
