//! What a run minimises, and which of the other settings go with it.

use aligner_data::{ChatFormat, Target};
use serde::{Deserialize, Serialize};

use super::{BestBy, TrainConfig};
use crate::error::{Result, TrainError};
use crate::plan::StageKind;

/// What a run minimises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    /// Question and answer in a prompt template → correction: an Aligner.
    #[default]
    Correction,
    /// A chat's prompt → its answer: an upstream.
    Sft,
    /// The better of two answers scores higher: a reward model.
    Reward,
    /// The more harmful of two answers costs more, and the cost's sign says whether an answer is harmful: a cost model.
    Cost,
    /// The better of two answers becomes more likely, the worse less: an upstream, without a reward model.
    Dpo,
}

const KINDS: [(ObjectiveKind, &str); 5] = [
    (ObjectiveKind::Correction, "correction"),
    (ObjectiveKind::Sft, "sft"),
    (ObjectiveKind::Reward, "reward"),
    (ObjectiveKind::Cost, "cost"),
    (ObjectiveKind::Dpo, "dpo"),
];

impl ObjectiveKind {
    /// Whether what comes out is an Aligner: rows are corrections in a prompt template, some may be copies, and a validation
    /// looks at what is written. Of the others a validation knows the loss, and of [pairs](Self::takes_pairs) how well they are
    /// told apart.
    pub fn corrects(self) -> bool {
        self == Self::Correction
    }

    /// Whether the model that comes out scores answers instead of writing them.
    pub fn scores(self) -> bool {
        matches!(self, Self::Reward | Self::Cost)
    }

    /// Whether a row is two answers to one question.
    pub fn takes_pairs(self) -> bool {
        matches!(self, Self::Reward | Self::Cost | Self::Dpo)
    }

    /// What rows are made into, where they are chats.
    pub(crate) fn chat_target(self) -> Option<Target> {
        match self {
            Self::Correction => None,
            Self::Sft => Some(Target::Completion),
            // Read whole, as they are scored; what is written comes behind a prompt.
            Self::Reward => Some(Target::Preference),
            Self::Dpo => Some(Target::CompletionPair),
            Self::Cost => Some(Target::LabelledPreference),
        }
    }

    /// The last stage of a run.
    pub(crate) fn stage(self) -> StageKind {
        match self {
            Self::Correction => StageKind::Correction,
            Self::Sft => StageKind::Sft,
            Self::Reward => StageKind::Reward,
            Self::Cost => StageKind::Cost,
            Self::Dpo => StageKind::Dpo,
        }
    }
}

impl std::fmt::Display for ObjectiveKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = KINDS.iter().find(|(kind, _)| kind == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl std::str::FromStr for ObjectiveKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = KINDS.iter().find(|(_, name)| *name == text);
        known.map(|(kind, _)| *kind).ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|(_, name)| *name).collect();
            format!("{text:?} is not an objective; known are {}", names.join(", "))
        })
    }
}

/// Refuses settings that mean nothing to the objective: they were meant to do something.
pub(super) fn check(config: &TrainConfig) -> Result<()> {
    let TrainConfig {
        objective, warmup, ..
    } = config;
    if !config.chat_format.is_empty() {
        ChatFormat::named(&config.chat_format)?;
    }
    let refused = |key: &str, is_set: bool, why: &str| match is_set {
        true => Err(TrainError::config(
            key,
            format!("is nothing for the objective {objective}: {why}"),
        )),
        false => Ok(()),
    };
    refused(
        "beta",
        *objective != ObjectiveKind::Dpo && config.beta != TrainConfig::default().beta,
        "it is how closely DPO holds to the model that it starts from",
    )?;
    if objective.corrects() {
        return refused(
            "chat_format",
            !config.chat_format.is_empty(),
            "its rows are written by a template",
        );
    }
    let copies = "rows to copy teach an Aligner";
    refused("warmup", warmup.is_on(), copies)?;
    refused("identity_share", config.identity_share > 0.0, copies)?;
    refused(
        "best_by",
        config.best_by != BestBy::Loss,
        "no corrections are written at a validation; leave it at loss",
    )?;
    refused(
        "lora",
        objective.scores() && config.lora.is_some(),
        "an adapter's directory has no place for the head; train all weights",
    )?;
    if *objective != ObjectiveKind::Dpo {
        return Ok(());
    }
    if !(config.beta > 0.0 && config.beta.is_finite()) {
        return Err(TrainError::config("beta", "must be a positive number"));
    }
    refused(
        "device",
        config.devices()?.len() > 1,
        "the model it is held against lies on one device; name one",
    )
}
