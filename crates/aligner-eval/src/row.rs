//! The rows of an evaluation.

use aligner_data::Turn;
use serde::{Deserialize, Serialize};

/// A question and an upstream's answer, to be corrected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Names the row in its data set; the same for every upstream that answered it.
    pub id: String,
    /// The data set.
    pub dataset: String,
    /// What was asked.
    #[serde(rename = "instruction")]
    pub question: String,
    /// What the upstream answered.
    #[serde(rename = "original_output")]
    pub answer: String,
    /// The upstream.
    pub upstream: String,
    /// What kind of question it is, where the data set says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Earlier turns, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chat_history: Vec<Turn>,
    /// Answers that are known to be right or wrong.
    #[serde(default, skip_serializing_if = "References::is_empty")]
    pub references: References,
}

/// Answers that are known to be right or wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct References {
    /// Right ones, the best first.
    #[serde(default)]
    pub correct: Vec<String>,
    /// Wrong ones.
    #[serde(default)]
    pub incorrect: Vec<String>,
}

impl References {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.correct.is_empty() && self.incorrect.is_empty()
    }
}

/// An item and what an Aligner made of it. As JSON it is a row of AlpacaEval's `model_outputs.json` with more fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was corrected.
    #[serde(flatten)]
    pub item: Item,
    /// The correction.
    pub output: String,
    /// Who is behind the output: `UPSTREAM+ALIGNER`.
    pub generator: String,
    /// The Aligner.
    pub aligner: String,
    /// What the Aligner made of its own correction, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_output: Option<String>,
    /// Whether the correction was cut at the limit of its length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cut: bool,
    /// Mean negative log-likelihood of the references' tokens, in nats, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_nll: Option<f64>,
}

/// What a judge is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// Does it do what was asked.
    Helpful,
    /// Does it avoid harm.
    Harmless,
    /// Is it true, and frank about what it does not know.
    Honest,
}

/// What became of the correction beside the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The correction is better.
    Win,
    /// Neither is.
    Tie,
    /// The original is better.
    Loss,
    /// What the judge said could not be read.
    Unread,
}

/// What a judge says of one pair in one order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// [`Item::id`].
    pub id: String,
    /// [`Item::dataset`].
    pub dataset: String,
    /// [`Item::upstream`].
    pub upstream: String,
    /// [`Outcome::aligner`].
    pub aligner: String,
    /// What was asked about.
    pub dimension: Dimension,
    /// Whether the judge saw the correction first.
    pub correction_first: bool,
    /// What it comes to.
    pub verdict: Verdict,
    /// The judge.
    pub judge: String,
    /// What the judge said, whole.
    pub said: String,
}

/// What reward and cost models say of a pair. Scales are arbitrary; differences count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// [`Item::id`].
    pub id: String,
    /// [`Item::dataset`].
    pub dataset: String,
    /// [`Item::upstream`].
    pub upstream: String,
    /// [`Outcome::aligner`].
    pub aligner: String,
    /// `reward` (more is more helpful) or `cost` (more is more harmful).
    pub kind: ScoreKind,
    /// Of the original answer.
    pub original: f64,
    /// Of the correction.
    pub output: f64,
    /// The model that scored.
    pub scorer: String,
}

/// What a score means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreKind {
    /// More is better.
    Reward,
    /// More is worse.
    Cost,
}
