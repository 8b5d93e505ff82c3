//! What is to be known of each format.

use super::Format;

pub(super) struct Spec {
    pub name: &'static str,
    /// The columns by which it is told.
    pub columns: &'static str,
    /// Whether every row has a correction by its nature.
    pub has_correction: bool,
    /// Fields that `--columns` may map.
    pub mapped: &'static [&'static str],
}

impl Format {
    pub(super) fn spec(self) -> Spec {
        match self {
            Self::Qac => Spec {
                name: "qac",
                columns: "question, answer, correction",
                has_correction: false,
                mapped: &["question", "answer", "correction", "chat_history"],
            },
            Self::HhRlhf => Spec {
                name: "hh-rlhf",
                columns: "chosen, rejected: transcripts",
                has_correction: true,
                mapped: &[],
            },
            Self::SafeRlhf => Spec {
                name: "pku-saferlhf",
                columns: "prompt, response_0, response_1, safer_response_id, better_response_id",
                has_correction: true,
                mapped: &[],
            },
            Self::BeaverTails => Spec {
                name: "beavertails",
                columns: "prompt, response, is_safe",
                has_correction: true,
                mapped: &[],
            },
            Self::Alpaca => Spec {
                name: "alpaca",
                columns: "instruction, input, output",
                has_correction: false,
                mapped: &["question", "answer", "correction", "chat_history"],
            },
            Self::ShareGpt => Spec {
                name: "sharegpt",
                columns: "conversations",
                has_correction: false,
                mapped: &["correction"],
            },
            Self::Messages => Spec {
                name: "messages",
                columns: "messages",
                has_correction: false,
                mapped: &["correction"],
            },
            Self::Preference => Spec {
                name: "preference",
                columns: "prompt, chosen, rejected",
                has_correction: true,
                mapped: &[],
            },
            Self::PromptCompletion => Spec {
                name: "prompt-completion",
                columns: "prompt, completion",
                has_correction: false,
                mapped: &["correction"],
            },
            Self::StreamAligner => Spec {
                name: "stream-aligner",
                columns: "question, prefix, last, correction",
                has_correction: true,
                mapped: &[],
            },
            Self::StreamPrompt => Spec {
                name: "stream-prompt",
                columns: "as stream-aligner, for its own prompt",
                has_correction: true,
                mapped: &[],
            },
        }
    }
}
