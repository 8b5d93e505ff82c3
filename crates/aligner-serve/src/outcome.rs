//! What became of an answer.

use serde::{Deserialize, Serialize};

/// What became of an answer: in the header `x-aligner-outcome`, in `aligner.outcome` of a response, and as a label of
/// `aligner_corrections_total`. An answer is never left uncorrected without one of these saying why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The correction differs from the answer and is served.
    Corrected,
    /// The correction is the answer.
    Unchanged,
    /// Correction is switched off for this request.
    Off,
    /// The original is served; its correction is only recorded.
    Audited,
    /// Passed through: it calls tools.
    PassedToolCalls,
    /// Passed through: JSON was asked for, or it is JSON.
    PassedJson,
    /// Passed through: it is mostly code.
    PassedCode,
    /// Passed through: it declines.
    PassedRefusal,
    /// Passed through: it is longer than corrections are made for.
    PassedLength,
    /// Passed through: it has no text.
    PassedEmpty,
    /// The correction is empty.
    GatedEmpty,
    /// The correction ran into its limit of tokens or repeats itself.
    GatedRunaway,
    /// The correction is in another language.
    GatedLanguage,
    /// The correction is far longer than the answer.
    GatedLength,
    /// A reward model holds the correction for worse.
    GatedReward,
    /// The Aligner failed.
    AlignerFailed,
    /// The Aligner took too long.
    AlignerTimeout,
    /// The upstream failed.
    UpstreamFailed,
}

impl Outcome {
    /// Its word in headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Corrected => "corrected",
            Self::Unchanged => "unchanged",
            Self::Off => "off",
            Self::Audited => "audited",
            Self::PassedToolCalls => "passed_tool_calls",
            Self::PassedJson => "passed_json",
            Self::PassedCode => "passed_code",
            Self::PassedRefusal => "passed_refusal",
            Self::PassedLength => "passed_length",
            Self::PassedEmpty => "passed_empty",
            Self::GatedEmpty => "gated_empty",
            Self::GatedRunaway => "gated_runaway",
            Self::GatedLanguage => "gated_language",
            Self::GatedLength => "gated_length",
            Self::GatedReward => "gated_reward",
            Self::AlignerFailed => "aligner_failed",
            Self::AlignerTimeout => "aligner_timeout",
            Self::UpstreamFailed => "upstream_failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_headers_are_those_in_json() {
        for outcome in [
            Outcome::Corrected,
            Outcome::PassedToolCalls,
            Outcome::GatedLanguage,
            Outcome::AlignerTimeout,
        ] {
            assert_eq!(serde_json::to_value(outcome).expect("a word"), outcome.as_str());
        }
    }
}
