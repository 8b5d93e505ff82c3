//! What `serve` takes.

use std::net::SocketAddr;
use std::path::PathBuf;

use aligner_infer::BatchOptions;
use aligner_serve::{Mode, ServeConfig, ShadowConfig, UpstreamConfig};
use aligner_train::MemorySize;
use clap::{Args, ValueEnum};

use super::ModelArgs;
use crate::error::{CliError, Result};

/// Arguments of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Chain of certificates in PEM: serve https.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Their private key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Base URL of the upstream, with its version; its key is in ALIGNER_UPSTREAM_KEY (default: corrections alone).
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// How answers reach clients.
    #[arg(long, value_name = "MODE")]
    pub mode: Option<ServeMode>,
    /// TOML file with everything else; read anew on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where corrections are made: local, or openai:URL of a server with the exported model (its key: ALIGNER_ENGINE_KEY).
    #[arg(long, value_name = "ENGINE", default_value = "local")]
    pub engine: String,
    /// Name of the Aligner for clients, and on a remote engine (default: the model's directory).
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How much is changed: 0 copies more, 1 is the model as it was trained (needs `aligner steer fit`).
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub strength: f64,
    /// Answers that are corrected at once; others wait.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub parallel: usize,
    /// Memory for keys and values of all of them: 2GB, 500MB.
    #[arg(long, value_name = "SIZE", default_value = "2GB")]
    pub kv_memory: MemorySize,
    /// Reward model that the gate asks whether a correction is worse than its answer.
    #[arg(long, value_name = "MODEL")]
    pub reward_model: Option<PathBuf>,
    /// Log JSON objects with the time, one a line.
    #[arg(long)]
    pub log_json: bool,
    /// Write question/answer/correction rows to this file.
    #[arg(long, value_name = "FILE")]
    pub shadow: Option<PathBuf>,
}

/// See [`Mode`].
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ServeMode {
    /// The answer is waited for, then its correction streams.
    Buffer,
    /// Each sentence is corrected and released as it is written.
    Sentence,
    /// The original streams; its correction is made behind it and recorded.
    Audit,
    /// Nothing is corrected.
    Off,
}

/// Where corrections are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineChoice {
    /// In this process.
    Local,
    /// On the server at this base URL.
    Remote(String),
}

impl ServeArgs {
    /// The settings: those of the file, and over them what was typed.
    ///
    /// # Errors
    /// When the file cannot be read or used.
    pub fn settings(&self) -> Result<ServeConfig> {
        let mut config = match &self.config {
            Some(path) => ServeConfig::read(path)?,
            None => ServeConfig::default(),
        };
        if let Some(url) = &self.upstream {
            match &mut config.upstream {
                Some(upstream) => upstream.url.clone_from(url),
                none => *none = Some(UpstreamConfig::new(url)),
            }
        }
        if let Some(mode) = self.mode {
            config.mode = match mode {
                ServeMode::Buffer => Mode::Buffer,
                ServeMode::Sentence => Mode::Sentence,
                ServeMode::Audit => Mode::Audit,
                ServeMode::Off => Mode::Off,
            };
        }
        if let Some(path) = &self.shadow {
            match &mut config.shadow {
                Some(shadow) => shadow.path.clone_from(path),
                none => *none = Some(ShadowConfig::new(path)),
            }
        }
        Ok(config)
    }

    /// Where corrections are made.
    ///
    /// # Errors
    /// When it is neither `local` nor `openai:URL`.
    pub fn engine(&self) -> Result<EngineChoice> {
        match self.engine.split_once(':') {
            None if self.engine == "local" => Ok(EngineChoice::Local),
            Some(("openai", url)) => Ok(EngineChoice::Remote(url.to_string())),
            _ => Err(CliError::Usage(format!(
                "--engine {}: it must be local, or openai:URL such as openai:http://127.0.0.1:8000/v1",
                self.engine
            ))),
        }
    }

    /// How many answers are corrected at once.
    pub fn batch(&self) -> BatchOptions {
        BatchOptions {
            max_running: self.parallel.max(1),
            kv_memory_bytes: usize::try_from(self.kv_memory.0).unwrap_or(usize::MAX),
            ..BatchOptions::default()
        }
    }
}
