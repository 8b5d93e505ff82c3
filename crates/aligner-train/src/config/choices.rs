//! Values of a configuration that are more than a number.

use aligner_data::PromptTemplate;
use aligner_model::{LoraConfig, TargetModules};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// What to do with a row that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowPolicy {
    /// Stop with an error that names the row.
    #[default]
    Stop,
    /// Leave it out and count it.
    Skip,
}

impl std::str::FromStr for RowPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "skip" => Ok(Self::Skip),
            _ => Err(format!("{text:?} is not a policy; known are stop, skip")),
        }
    }
}

/// A prompt template by the id of a built-in one, or by its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TemplateChoice {
    /// `edit`, `revision` or `correction`.
    Builtin(String),
    /// `{ id = "mine", text = "… {question} … {answer} …" }`
    Custom {
        /// A name.
        id: String,
        /// The text with `{question}` and `{answer}`.
        text: String,
    },
}

impl TemplateChoice {
    /// The template itself.
    ///
    /// # Errors
    /// When there is no built-in template of that name, or the text is not a template.
    pub fn resolve(&self) -> Result<PromptTemplate> {
        Ok(match self {
            Self::Builtin(id) => PromptTemplate::builtin(id)?,
            Self::Custom { id, text } => PromptTemplate::custom(id, text)?,
        })
    }
}

/// The adapter of a run that trains one; names and meanings are PEFT's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraChoice {
    /// Width between the two matrices.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Share of the adapter's inputs that is dropped while training.
    pub dropout: f64,
    /// `all-linear`, or names such as `q_proj`.
    pub target_modules: Vec<String>,
    /// Whether the scale is `alpha / √rank` instead of `alpha / rank`.
    pub rslora: bool,
}

impl Default for LoraChoice {
    fn default() -> Self {
        Self::of(&LoraConfig::default())
    }
}

impl LoraChoice {
    const ALL_LINEAR: &str = "all-linear";

    /// The choice that means `config`.
    pub fn of(config: &LoraConfig) -> Self {
        Self {
            rank: config.rank,
            alpha: config.alpha,
            dropout: config.dropout,
            target_modules: match &config.target_modules {
                TargetModules::AllLinear => vec![Self::ALL_LINEAR.into()],
                TargetModules::Names(names) => names.clone(),
            },
            rslora: config.rslora,
        }
    }

    /// The configuration that is meant.
    pub fn resolve(&self) -> LoraConfig {
        let Self {
            rank,
            alpha,
            dropout,
            rslora,
            ..
        } = *self;
        let target_modules = match self.target_modules.as_slice() {
            [all] if all == Self::ALL_LINEAR => TargetModules::AllLinear,
            names => TargetModules::Names(names.to_vec()),
        };
        LoraConfig {
            rank,
            alpha,
            dropout,
            target_modules,
            rslora,
        }
    }
}
