//! An OpenAI-compatible service that corrects every answer of an upstream model.
//!
//! ```text
//!  client ──▶ /v1/chat/completions ──▶ upstream (OpenAI, vLLM, llama.cpp, Ollama, …)
//!                      │                    │ answer
//!                      │     guards ◀───────┘
//!                      │       │ passes through, or
//!                      │     Engine: correction, token by token
//!                      │       │
//!                      ◀── gate and policies: correction | original | error | block, never without saying which
//! ```
//!
//! A program that embeds the service gives it an [`Engine`]: a model in its own process ([`LocalEngine`]), another server's
//! ([`RemoteEngine`]), or one of its own.
//!
//! ```no_run
//! use aligner_infer::{BatchOptions, Corrector};
//! use aligner_serve::{LocalEngine, PlainListener, ServeConfig, Service, UpstreamConfig, serve};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let batcher = Corrector::open("runs/first/final")?.batcher(BatchOptions::default());
//! let config = ServeConfig {
//!     upstream: Some(UpstreamConfig::new("http://127.0.0.1:8000/v1")),
//!     ..ServeConfig::default()
//! };
//! let service = Service::new(config, LocalEngine::new("my-aligner", batcher))?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! serve(service, PlainListener::new(listener), std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

mod api_error;
mod chat;
mod config;
mod corrections;
mod engine;
mod error;
mod gate;
mod guard;
mod http_client;
mod keys;
mod listener;
mod metrics;
mod openai;
mod outcome;
mod page;
mod ruling;
mod sentences;
mod server;
mod service;
mod shadow;
mod sse;
mod upstream;

pub use api_error::ApiError;
pub use config::{
    Action, AuthConfig, CorrectionConfig, GateConfig, GuardConfig, LimitConfig, Mode, PolicyConfig,
    SentenceConfig, ServeConfig, ShadowConfig, UpstreamConfig,
};
pub use engine::{
    Engine, EngineError, EngineLoad, Event, Finished, Job, LocalEngine, RemoteEngine, Running, SharedEngine,
};
pub use error::{Result, ServeError};
pub use gate::Gated;
pub use guard::Guarded;
pub use listener::{PlainListener, TlsListener};
pub use outcome::Outcome;
pub use server::{router, serve};
pub use service::Service;
pub use sse::{EventTooLarge, SseParser};
