//! A model that answers questions: an upstream that fits on this machine.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use aligner_data::{ChatFormat, PromptTemplate, Turn};
use aligner_model::{DeviceSpec, RuntimeWeights};

use crate::corrector::{Correction, Corrector};
use crate::engine::{CancelToken, Drafting, Request, generate};
use crate::error::Result;
use crate::policy::{Draft, DraftMemory};
use crate::sampler::SamplingParams;
use crate::voice::Transcript;

/// Answers questions with one model, in the chat format that it was trained with; usable from many threads.
///
/// ```no_run
/// use aligner_infer::Answerer;
///
/// let upstream = Answerer::open("models/smollm2", Default::default(), Default::default())?;
/// let answer = upstream.answer("What orbits what?", &[], 128, &Default::default())?;
/// println!("{}", answer.text);
/// # Ok::<(), aligner_infer::InferError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Answerer {
    corrector: Corrector,
    chat: ChatFormat,
    stop_ids: Vec<u32>,
    memory: Arc<DraftMemory>,
}

impl Answerer {
    /// Opens a model directory.
    ///
    /// # Errors
    /// When the model cannot be read, its chat template is not known, or the device is not there.
    pub fn open(dir: impl AsRef<Path>, device: DeviceSpec, weights: RuntimeWeights) -> Result<Self> {
        // The prompt of corrections is not used.
        let corrector = Corrector::builder(dir)
            .template(PromptTemplate::default())
            .allow_mismatch()
            .device(device)
            .weights(weights)
            .build()?;
        let chat = ChatFormat::of(corrector.tokenizer())?;
        // The token that ends an answer in this format, and those at which the model stops by itself.
        let end = corrector.tokenizer().encode_chat_answer(&chat, "")?;
        let mut stop_ids = corrector.tokenizer().stop_ids().to_vec();
        stop_ids.extend(end.first());
        Ok(Self {
            corrector,
            chat,
            stop_ids,
            memory: Arc::default(),
        })
    }

    /// How conversations are written.
    pub fn chat(&self) -> &ChatFormat {
        &self.chat
    }

    /// The answer to a question behind earlier turns, of at most `max_new_tokens`.
    ///
    /// # Errors
    /// When the question is longer than the context, a sampling parameter makes no sense, or the model fails.
    pub fn answer(
        &self,
        question: &str,
        chat_history: &[Turn],
        max_new_tokens: usize,
        sampling: &SamplingParams,
    ) -> Result<Correction> {
        sampling.validate()?;
        let tokenizer = self.corrector.tokenizer();
        let prompt = tokenizer.encode_chat_prompt(&self.chat, question, chat_history)?;
        self.corrector.voice().check_ids(&prompt)?;
        let request = Request {
            prompt: &prompt,
            sampling: *sampling,
            stop_ids: &self.stop_ids,
            max_new_tokens,
            cancel: CancelToken::default(),
            drafting: Drafting {
                mode: Draft::Off,
                memory: Arc::clone(&self.memory),
                ..Drafting::default()
            },
        };
        let mut transcript = Transcript::new(tokenizer);
        let on_text = |_: &str| ControlFlow::Continue(());
        let generated = generate(self.corrector.model(), &request, |token| {
            transcript.push(token, on_text)
        })?;
        transcript.finish(prompt.len(), generated, on_text)
    }
}
