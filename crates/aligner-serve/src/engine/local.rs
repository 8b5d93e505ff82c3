//! A model in this process.

use aligner_infer::{
    Batcher, CancelToken, CausalLm, CorrectOptions, DecoderLm, InferError, Input, Piece, SamplingParams,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{Engine, EngineError, EngineLoad, Event, Finished, Job, Running};

/// Corrects with a model of this process, many answers in each pass.
#[derive(Debug)]
pub struct LocalEngine<L: CausalLm + 'static = DecoderLm> {
    model: String,
    batcher: Batcher<L>,
}

impl<L: CausalLm + 'static> LocalEngine<L> {
    /// An engine over a batcher; `model` is its name for clients.
    pub fn new(model: impl Into<String>, batcher: Batcher<L>) -> Self {
        Self {
            model: model.into(),
            batcher,
        }
    }
}

impl<L: CausalLm + 'static> Engine for LocalEngine<L> {
    fn model(&self) -> &str {
        &self.model
    }

    fn start(&self, job: Job) -> Running {
        let (sender, events) = unbounded_channel();
        let cancel = CancelToken::default();
        let stop = cancel.clone();
        let batcher = self.batcher.clone();
        // A long text takes milliseconds to be turned into tokens, in which other requests would wait.
        tokio::task::spawn_blocking(move || begin(&batcher, &job, cancel, sender));
        Running::new(events, move || stop.cancel())
    }

    fn load(&self) -> EngineLoad {
        let load = self.batcher.load();
        EngineLoad {
            running: load.running,
            waiting: load.waiting,
            kv_bytes: load.kv_bytes,
        }
    }
}

fn begin<L: CausalLm + 'static>(
    batcher: &Batcher<L>,
    job: &Job,
    cancel: CancelToken,
    sender: UnboundedSender<Result<Event, EngineError>>,
) {
    let options = CorrectOptions {
        max_new_tokens: job.max_new_tokens,
        sampling: SamplingParams {
            temperature: job.temperature,
            top_p: job.top_p,
            seed: job.seed,
            ..SamplingParams::default()
        },
        prediction: job.prediction.clone(),
        cancel,
        ..CorrectOptions::default()
    };
    let input = Input {
        question: &job.question,
        answer: &job.answer,
        chat_history: &job.chat_history,
    };
    // Its token is a child of the one that is cancelled when the request is dropped.
    let _ = batcher.start(input, &options, move |piece| sender.send(event(piece)).is_ok());
}

fn event(piece: Result<Piece, InferError>) -> Result<Event, EngineError> {
    match piece {
        Ok(Piece::Text(text)) => Ok(Event::Text(text)),
        Ok(Piece::Done(correction)) => Ok(Event::Done(Finished {
            text: correction.text,
            finish_reason: correction.finish_reason,
            usage: correction.usage,
            timings: correction.timings,
        })),
        Err(
            error @ (InferError::PromptTooLong { .. }
            | InferError::KvMemory { .. }
            | InferError::Sampling { .. }
            | InferError::UnknownToken { .. }
            | InferError::EmptyPrompt),
        ) => Err(EngineError::Refused(error.to_string())),
        Err(error) => Err(EngineError::Failed(error.to_string())),
    }
}
