//! What makes corrections, seen from the service: a model in this process, or another server's.

mod local;
mod remote;

use std::sync::Arc;

use aligner_data::Turn;
use aligner_infer::{FinishReason, Timings, Usage};
use tokio::sync::mpsc::UnboundedReceiver;

pub use local::LocalEngine;
pub use remote::RemoteEngine;
pub(crate) use remote::bearer;

/// An answer that is to be corrected, and how.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: String,
    /// Earlier turns, oldest first.
    pub chat_history: Vec<Turn>,
    /// New tokens at most.
    pub max_new_tokens: usize,
    /// Temperature; 0 takes the most probable token.
    pub temperature: f32,
    /// The most probable tokens whose probabilities together reach this; 1 keeps all.
    pub top_p: f32,
    /// Seed of the choices.
    pub seed: u64,
    /// What the correction will perhaps be.
    pub prediction: Option<String>,
}

/// A correction as it is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More text.
    Text(String),
    /// The end.
    Done(Finished),
}

/// A correction that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// All of its text.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// How long it took.
    pub timings: Timings,
}

/// Why there is no correction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Question and answer are longer than the model's context, or a setting cannot be used: another try will fail as well.
    #[error("{0}")]
    Refused(String),
    /// The engine failed.
    #[error("{0}")]
    Failed(String),
}

/// A correction under way; dropping it ends the work.
#[derive(Debug)]
pub struct Running {
    events: UnboundedReceiver<Result<Event, EngineError>>,
    stop: StopOnDrop,
}

/// Ends the work when nobody waits for it any more.
struct StopOnDrop(Option<Box<dyn FnOnce() + Send + Sync>>);

impl std::fmt::Debug for StopOnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StopOnDrop")
    }
}

impl StopOnDrop {
    fn end(&mut self) {
        if let Some(stop) = self.0.take() {
            stop();
        }
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.end();
    }
}

impl Running {
    /// A correction whose events come through a channel; `stop` is called when it is dropped.
    pub fn new(
        events: UnboundedReceiver<Result<Event, EngineError>>,
        stop: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        Self {
            events,
            stop: StopOnDrop(Some(Box::new(stop))),
        }
    }

    /// Ends the work; what was written until then may still come.
    pub fn stop(&mut self) {
        self.stop.end();
    }

    /// The next event.
    ///
    /// # Errors
    /// When the engine fails, or ends without an end.
    pub async fn next(&mut self) -> Result<Event, EngineError> {
        let gone = || Err(EngineError::Failed("the engine gave up without an answer".into()));
        self.events.recv().await.unwrap_or_else(gone)
    }
}

/// What an engine is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Corrections that are computed.
    pub running: usize,
    /// Corrections that wait for a place or for memory.
    pub waiting: usize,
    /// Bytes reserved for keys and values.
    pub kv_bytes: usize,
}

/// Makes corrections.
pub trait Engine: Send + Sync + 'static {
    /// The model's name, as clients see it.
    fn model(&self) -> &str;

    /// Begins a correction. It does not block.
    fn start(&self, job: Job) -> Running;

    /// What it is doing; zeros where that is not known.
    fn load(&self) -> EngineLoad {
        EngineLoad::default()
    }
}

/// An engine that several requests share.
pub type SharedEngine = Arc<dyn Engine>;
