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
mod connections;
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
mod random;
mod reward;
mod ruling;
mod sentences;
mod server;
mod service;
mod shadow;
mod sse;
mod telemetry;
mod upstream;

/// What reads bytes of clients, for the fuzz targets.
#[doc(hidden)]
pub mod fuzzing {
    use crate::openai::{Asked, Shape};

    /// Reads a request of each kind. What was understood is told to an upstream as it was asked.
    pub fn requests(bytes: &[u8]) {
        for shape in [Shape::Chat, Shape::Completion] {
            if let Ok(asked) = Asked::read(shape, bytes) {
                let told = asked.upstream_body(asked.stream);
                let again = Asked::read(shape, &told);
                assert!(
                    again.is_ok_and(|again| again.body == asked.body && again.question == asked.question)
                );
            }
        }
        crate::corrections::read_and_drop(bytes);
    }

    /// Reads a stream that is cut at a place: its events are those of the whole.
    pub fn events(bytes: &[u8], cut: usize) {
        let parse = |pieces: &[&[u8]]| {
            let (mut parser, mut events) = (crate::SseParser::default(), Vec::new());
            for piece in pieces {
                if parser.feed(piece, |event| events.push(event)).is_err() {
                    break;
                }
            }
            events
        };
        let (before, behind) = bytes.split_at(cut.min(bytes.len()));
        assert_eq!(parse(&[bytes]), parse(&[before, behind]));
    }

    /// Reads a response's choices as those of each kind.
    pub fn choices(bytes: &[u8]) {
        let Ok(value) = serde_json::from_slice(bytes) else {
            return;
        };
        for shape in [Shape::Chat, Shape::Completion] {
            shape.guarded(&value, false);
            shape.delta(&value);
        }
    }
}

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
pub use reward::{RewardError, RewardModel};
pub use server::{router, serve};
pub use service::Service;
pub use sse::{EventTooLarge, SseParser};
pub use telemetry::Telemetry;
