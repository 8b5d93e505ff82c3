//! Settings of the service: what a configuration file says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Result, ServeError};

/// How an answer reaches the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The upstream's answer is waited for as a whole, then its correction streams.
    #[default]
    Buffer,
    /// Each sentence is corrected and released when the upstream has written it.
    Sentence,
    /// The original streams; its correction is made behind it and recorded.
    Audit,
    /// Nothing is corrected: requests and responses pass through.
    Off,
}

impl Mode {
    /// Its word in requests, responses and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Buffer => "buffer",
            Self::Sentence => "sentence",
            Self::Audit => "audit",
            Self::Off => "off",
        }
    }
}

/// What is served when something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The upstream's answer, or its error, as it is.
    #[default]
    Original,
    /// An error in OpenAI's shape.
    Error,
    /// A fixed text, with `finish_reason` `content_filter`.
    Block,
}

/// Everything that a configuration file may say; each field has a default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// How answers reach the client; a request may choose another way (`aligner.mode`).
    pub mode: Mode,
    /// Where answers come from; without, only `/v1/corrections` is there.
    pub upstream: Option<UpstreamConfig>,
    /// What is served when something goes wrong.
    pub policy: PolicyConfig,
    /// What passes through without a correction.
    pub guards: GuardConfig,
    /// When a correction is not served.
    pub gate: GateConfig,
    /// How `sentence` goes on.
    pub sentence: SentenceConfig,
    /// How much at once.
    pub limits: LimitConfig,
    /// Who may ask.
    pub auth: AuthConfig,
    /// How corrections are made.
    pub correction: CorrectionConfig,
    /// Rows for later training and evaluation.
    pub shadow: Option<ShadowConfig>,
    /// Origins that browsers may ask from, `*` for all; none by default.
    pub cors_origins: Vec<String>,
}

/// The upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Base URL with its version, such as `https://api.openai.com/v1`.
    pub url: String,
    /// Environment variable with its API key; where it is not set and the service asks for no keys of its own, the client's
    /// `Authorization` is handed on.
    #[serde(default = "default_key_env")]
    pub api_key_env: String,
    /// Seconds until it has begun to answer.
    #[serde(default = "default_first_byte")]
    pub first_byte_secs: f64,
    /// Seconds between two pieces of an answer.
    #[serde(default = "default_idle")]
    pub idle_secs: f64,
    /// Bytes of an answer at most.
    #[serde(default = "default_answer_bytes")]
    pub max_answer_bytes: usize,
}

fn default_key_env() -> String {
    "ALIGNER_UPSTREAM_KEY".into()
}

fn default_first_byte() -> f64 {
    120.0
}

fn default_idle() -> f64 {
    60.0
}

fn default_answer_bytes() -> usize {
    8 << 20
}

impl UpstreamConfig {
    /// An upstream with every other setting at its default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            api_key_env: default_key_env(),
            first_byte_secs: default_first_byte(),
            idle_secs: default_idle(),
            max_answer_bytes: default_answer_bytes(),
        }
    }
}

/// What is served when something goes wrong, for each kind of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// The upstream fails; `original` hands its own error on where it gave one.
    pub upstream_fails: Action,
    /// The Aligner fails.
    pub aligner_fails: Action,
    /// The Aligner takes longer than `aligner_timeout_secs`.
    pub aligner_timeout: Action,
    /// The gate holds the correction for worse than the answer.
    pub worse: Action,
    /// Seconds that a correction may take.
    pub aligner_timeout_secs: f64,
    /// The text of `block`.
    pub block_text: String,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            upstream_fails: Action::Original,
            aligner_fails: Action::Original,
            aligner_timeout: Action::Original,
            worse: Action::Original,
            aligner_timeout_secs: 60.0,
            block_text: "This answer could not be checked and is withheld.".into(),
        }
    }
}

/// What passes through without a correction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuardConfig {
    /// Answers that call tools.
    pub tool_calls: bool,
    /// Answers to requests for JSON, and answers that are JSON objects or arrays.
    pub json: bool,
    /// Answers of which fenced code is at least this share of characters; above 1, none.
    pub code_share: f64,
    /// Answers that decline.
    pub refusals: bool,
    /// Answers of more characters than this.
    pub max_answer_chars: usize,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            tool_calls: true,
            json: true,
            code_share: 0.5,
            refusals: false,
            max_answer_chars: 20_000,
        }
    }
}

/// When a correction is held for worse than the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateConfig {
    /// Whether corrections are looked at.
    pub enabled: bool,
    /// Whether streams wait until the whole correction was looked at. If not, text is released as it is written; what is found
    /// later then ends the stream with an error.
    pub hold: bool,
    /// The correction has more characters than the answer times this, and `length_allowance` more.
    pub max_length_ratio: f64,
    /// Characters that any correction may have beyond that.
    pub length_allowance: usize,
    /// Whether the correction must be in the language of the answer or the question.
    pub same_language: bool,
    /// How much lower than the answer's the correction's reward may be, where the service has a reward model; streams then wait as
    /// with `hold`.
    pub max_reward_loss: f64,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            hold: false,
            max_length_ratio: 4.0,
            length_allowance: 600,
            same_language: true,
            max_reward_loss: 0.0,
        }
    }
}

/// How the mode `sentence` goes on behind a sentence that was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SentenceConfig {
    /// Whether the upstream is asked anew, to go on from the corrected sentences (Stream Aligner, arXiv 2501.05336). It must take an
    /// assistant's message at the end as the beginning of its answer, as vLLM and llama.cpp's server do.
    pub feed_back: bool,
    /// How often it is asked anew at most; later sentences are corrected as they come.
    pub max_rounds: usize,
}

impl Default for SentenceConfig {
    fn default() -> Self {
        Self {
            feed_back: false,
            max_rounds: 16,
        }
    }
}

/// How much at once, and how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitConfig {
    /// Requests that are served at once; the next is answered 429 with `Retry-After`.
    pub max_requests: usize,
    /// Corrections made behind answers at once (audit); further ones are counted and dropped.
    pub max_background: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Seconds that a connection may be open without the whole head of a request.
    pub idle_secs: f64,
    /// Seconds until a request's body must be there.
    pub body_secs: f64,
    /// Seconds that a stopping service waits for requests to end.
    pub shutdown_secs: f64,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            max_requests: 256,
            max_background: 64,
            max_body_bytes: 4 << 20,
            idle_secs: 75.0,
            body_secs: 30.0,
            shutdown_secs: 30.0,
        }
    }
}

/// Who may ask.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// SHA-256 of each key in hexadecimal (`printf %s KEY | sha256sum`); without any, everybody may.
    pub key_sha256: Vec<String>,
    /// Whether `/metrics` asks for a key as well.
    pub protect_metrics: bool,
}

/// How corrections are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorrectionConfig {
    /// New tokens of a correction at most.
    pub max_new_tokens: usize,
    /// Temperature; 0 takes the most probable token.
    pub temperature: f32,
}

impl Default for CorrectionConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 1024,
            temperature: 0.0,
        }
    }
}

/// Where rows of questions, answers and corrections are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShadowConfig {
    /// The file; full ones are kept beside it with a number behind their name.
    pub path: PathBuf,
    /// Bytes from which a new file is begun.
    #[serde(default = "default_shadow_bytes")]
    pub max_bytes: u64,
    /// Full files that are kept.
    #[serde(default = "default_shadow_files")]
    pub max_files: usize,
}

fn default_shadow_bytes() -> u64 {
    64 << 20
}

fn default_shadow_files() -> usize {
    8
}

impl ShadowConfig {
    /// Rows into this file, every other setting at its default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: default_shadow_bytes(),
            max_files: default_shadow_files(),
        }
    }
}

impl ServeConfig {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, has an unknown key, or a value that cannot be used.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| ServeError::ReadConfig {
            path: path.to_path_buf(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|error| ServeError::Config {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first one that cannot be used.
    pub fn check(&self) -> Result<()> {
        let refuse = |name, reason: String| Err(ServeError::Setting { name, reason });
        let seconds = [
            ("policy.aligner_timeout_secs", self.policy.aligner_timeout_secs),
            ("limits.idle_secs", self.limits.idle_secs),
            ("limits.body_secs", self.limits.body_secs),
            ("limits.shutdown_secs", self.limits.shutdown_secs),
        ];
        let upstream = self.upstream.iter().flat_map(|upstream| {
            [
                ("upstream.first_byte_secs", upstream.first_byte_secs),
                ("upstream.idle_secs", upstream.idle_secs),
            ]
        });
        for (name, value) in seconds.into_iter().chain(upstream) {
            if Duration::try_from_secs_f64(value).is_err() || value == 0.0 {
                return refuse(name, format!("{value} is no number of seconds above 0"));
            }
        }
        for key in &self.auth.key_sha256 {
            if key.len() != 64 || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let reason = "a key's hash has 64 hexadecimal digits: printf %s KEY | sha256sum";
                return refuse("auth.key_sha256", reason.into());
            }
        }
        if !self.gate.max_reward_loss.is_finite() {
            let reason = format!("{} is no number", self.gate.max_reward_loss);
            return refuse("gate.max_reward_loss", reason);
        }
        if self.limits.max_requests == 0 {
            return refuse("limits.max_requests", "0 requests cannot be served".into());
        }
        if self.correction.max_new_tokens == 0 {
            return refuse(
                "correction.max_new_tokens",
                "a correction has at least one token".into(),
            );
        }
        if !(0.0..=2.0).contains(&self.correction.temperature) {
            let reason = format!("{} is not between 0 and 2", self.correction.temperature);
            return refuse("correction.temperature", reason);
        }
        Ok(())
    }
}

/// A number of seconds that [`ServeConfig::check`] has seen.
pub(crate) fn secs(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_and_an_unknown_key_is_named() {
        assert_eq!(
            toml::from_str::<ServeConfig>("").expect("nothing"),
            ServeConfig::default()
        );
        let error = toml::from_str::<ServeConfig>("[policy]\nworst = \"error\"").expect_err("unknown");
        assert!(error.to_string().contains("worst"), "{error}");
    }

    #[test]
    fn the_example_says_what_the_defaults_are() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/serve.toml");
        let want = ServeConfig {
            upstream: Some(UpstreamConfig::new("http://127.0.0.1:8000/v1")),
            ..ServeConfig::default()
        };
        assert_eq!(ServeConfig::read(&path).expect("the example"), want);
    }

    #[test]
    fn values_that_cannot_be_used_are_named() {
        let mut config = ServeConfig::default();
        config.auth.key_sha256 = vec!["secret".into()];
        let error = config.check().expect_err("no hash").to_string();
        assert!(
            error.starts_with("auth.key_sha256") && !error.contains("secret"),
            "{error}"
        );
        let mut config = ServeConfig::default();
        config.policy.aligner_timeout_secs = f64::NAN;
        assert!(
            config
                .check()
                .is_err_and(|error| error.to_string().contains("aligner_timeout_secs"))
        );
    }
}
