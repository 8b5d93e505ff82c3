//! What `chat` takes.

use clap::Args;

use super::ModelArgs;

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Which model corrects.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Base URL of the upstream that answers, with its version; its key is in ALIGNER_UPSTREAM_KEY.
    #[arg(long, value_name = "URL")]
    pub upstream: String,
    /// Which of the upstream's models answers (default: its first).
    #[arg(long, value_name = "NAME")]
    pub upstream_model: Option<String>,
    /// What the upstream is told before everything else.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// How much is changed: 0 copies more, 1 is the model as it was trained (needs `aligner steer fit`).
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub strength: f64,
}
