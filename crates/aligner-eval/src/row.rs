//! The rows of an evaluation.

use std::collections::HashSet;

use aligner_data::Turn;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

impl Outcome {
    /// Tells whether a verdict or a score is of these texts: a hash of question, answer and correction.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for text in [&self.item.question, &self.item.answer, &self.output] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let digest = hash.finalize();
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The outcomes that rows of a later step may be of.
pub(crate) struct Known(HashSet<[String; 5]>);

impl Known {
    pub fn of(outcomes: &[Outcome]) -> Self {
        let names = outcomes.iter().map(|outcome| {
            let Item {
                id,
                dataset,
                upstream,
                ..
            } = &outcome.item;
            let of = [id, dataset, upstream, &outcome.aligner].map(String::clone);
            let [id, dataset, upstream, aligner] = of;
            [id, dataset, upstream, aligner, outcome.fingerprint()]
        });
        Self(names.collect())
    }

    /// Whether a row is of one of these outcomes, as its texts are now.
    pub fn has(&self, row: &impl OfOutcome) -> bool {
        self.0.contains(&row.of().map(str::to_string))
    }
}

/// A row of one outcome.
pub(crate) trait OfOutcome {
    /// Of which: id, data set, upstream, Aligner, and the fingerprint of its texts.
    fn of(&self) -> [&str; 5];
}

impl OfOutcome for Judgement {
    fn of(&self) -> [&str; 5] {
        [
            &self.id,
            &self.dataset,
            &self.upstream,
            &self.aligner,
            &self.fingerprint,
        ]
    }
}

impl OfOutcome for Scored {
    fn of(&self) -> [&str; 5] {
        [
            &self.id,
            &self.dataset,
            &self.upstream,
            &self.aligner,
            &self.fingerprint,
        ]
    }
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

impl std::fmt::Display for Dimension {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Helpful => "helpful",
            Self::Harmless => "harmless",
            Self::Honest => "honest",
        })
    }
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
    /// [`Outcome::fingerprint`].
    #[serde(default)]
    pub fingerprint: String,
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
    /// [`Outcome::fingerprint`].
    #[serde(default)]
    pub fingerprint: String,
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
