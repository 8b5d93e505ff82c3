//! The public API: a corrector that other programs embed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use aligner_data::{PromptTemplate, Tokenizer, Turn};
use serde::{Deserialize, Serialize};

use crate::builder::CorrectorBuilder;
use crate::causal_lm::CausalLm;
use crate::decoder::DecoderLm;
use crate::engine::{CancelToken, FinishReason, Timings, generate, score_tokens};
use crate::error::{InferError, Result};
use crate::policy::Draft;
use crate::sampler::SamplingParams;
use crate::voice::Transcript;
pub(crate) use crate::voice::Voice;
use crate::windows::LongAnswers;

/// Corrects answers with one model; cheap to clone, usable from many threads.
///
/// ```no_run
/// use aligner_infer::{CorrectOptions, Corrector};
///
/// let corrector = Corrector::open("runs/first/final")?;
/// let correction = corrector.correct("Is the earth flat?", "Yes, it is.", &CorrectOptions::default())?;
/// println!("{} ({} tokens)", correction.text, correction.usage.completion_tokens);
/// # Ok::<(), aligner_infer::InferError>(())
/// ```
#[derive(Debug)]
pub struct Corrector<L: CausalLm = DecoderLm> {
    voice: Arc<Voice<L>>,
    adapters: Arc<BTreeMap<String, Arc<Voice<L>>>>,
}

impl<L: CausalLm> Clone for Corrector<L> {
    fn clone(&self) -> Self {
        Self {
            voice: Arc::clone(&self.voice),
            adapters: Arc::clone(&self.adapters),
        }
    }
}

/// What is to be corrected.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// What was asked.
    pub question: &'a str,
    /// What was answered.
    pub answer: &'a str,
    /// Earlier turns, oldest first.
    pub chat_history: &'a [Turn],
}

impl<'a> Input<'a> {
    /// A question and an answer without earlier turns.
    pub fn new(question: &'a str, answer: &'a str) -> Self {
        Self {
            question,
            answer,
            chat_history: &[],
        }
    }
}

/// How one answer is corrected.
#[derive(Debug, Clone)]
pub struct CorrectOptions {
    /// Limit of new tokens.
    pub max_new_tokens: usize,
    /// How tokens are chosen; greedy by default.
    pub sampling: SamplingParams,
    /// What is done with an answer that is too long for the context; refused by default.
    pub long_answers: LongAnswers,
    /// Whether tokens are drafted from the answer and verified many at a time. The correction does not depend on it.
    pub draft: Draft,
    /// What the correction will perhaps be, as another source of drafts: an earlier correction, or that of another model.
    pub prediction: Option<String>,
    /// Cancels the correction from any thread.
    pub cancel: CancelToken,
}

impl Default for CorrectOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 1024,
            sampling: SamplingParams::default(),
            long_answers: LongAnswers::default(),
            draft: Draft::default(),
            prediction: None,
            cancel: CancelToken::default(),
        }
    }
}

/// Tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end of sequence included.
    pub completion_tokens: usize,
    /// Tokens that were drafted and verified.
    #[serde(default)]
    pub draft_proposed: usize,
    /// Drafted tokens that were right: each saved a pass through the model.
    #[serde(default)]
    pub draft_accepted: usize,
}

/// A corrected answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Correction {
    /// The correction.
    pub text: String,
    /// Its tokens, the end of sequence included.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// How long it took.
    pub timings: Timings,
}

/// How probable a given correction is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Sum of the log-probabilities of the correction's tokens and the end of sequence, in nats.
    pub logprob: f64,
    /// Number of those tokens.
    pub tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Log-probability of each token, in nats.
    pub token_logprobs: Vec<f64>,
    /// The token that the model holds most probable in the place of each.
    pub token_argmax: Vec<u32>,
}

/// One item of a [`CorrectionStream`].
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// More text: whole characters, never half of one.
    Text(String),
    /// The end, with the whole correction.
    Done(Correction),
}

/// A correction as it is generated; dropping it cancels the rest.
#[derive(Debug)]
pub struct CorrectionStream {
    pieces: Receiver<Result<Piece>>,
    cancel: CancelToken,
    ended: bool,
}

impl CorrectionStream {
    pub(crate) fn new(pieces: Receiver<Result<Piece>>, cancel: CancelToken) -> Self {
        Self {
            pieces,
            cancel,
            ended: false,
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// As [`Corrector::correct`].
    pub fn wait(mut self) -> Result<Correction> {
        let end = self.find_map(|piece| match piece {
            Ok(Piece::Text(_)) => None,
            Ok(Piece::Done(correction)) => Some(Ok(correction)),
            Err(error) => Some(Err(error)),
        });
        end.unwrap_or(Err(InferError::BrokenOff))
    }
}

impl Iterator for CorrectionStream {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let piece = self.pieces.recv().unwrap_or(Err(InferError::BrokenOff));
        self.ended = matches!(piece, Err(_) | Ok(Piece::Done(_)));
        Some(piece)
    }
}

impl Drop for CorrectionStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Corrector {
    /// Opens a model directory with its recorded template, on the CPU.
    ///
    /// # Errors
    /// As [`CorrectorBuilder::build`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder(dir).build()
    }

    /// Opens a model directory otherwise.
    pub fn builder(dir: impl AsRef<Path>) -> CorrectorBuilder {
        CorrectorBuilder::new(dir.as_ref())
    }
}

impl<L: CausalLm> Corrector<L> {
    /// A corrector of parts made elsewhere.
    ///
    /// # Errors
    /// When the model does not have the token that ends a correction.
    pub fn from_parts(model: L, tokenizer: Tokenizer, template: PromptTemplate) -> Result<Self> {
        Ok(Self::of_voices(
            Arc::new(Voice::new(model, tokenizer, template)?),
            BTreeMap::new(),
        ))
    }

    pub(crate) fn of_voices(voice: Arc<Voice<L>>, adapters: BTreeMap<String, Arc<Voice<L>>>) -> Self {
        Self {
            voice,
            adapters: Arc::new(adapters),
        }
    }

    /// This corrector with one of the adapters it was built with; they share the base's weights.
    ///
    /// # Errors
    /// When there is no adapter of that name.
    pub fn adapter(&self, name: &str) -> Result<Self> {
        let voice = self
            .adapters
            .get(name)
            .ok_or_else(|| InferError::UnknownAdapter {
                name: name.to_string(),
                known: self.adapters.keys().cloned().collect(),
            })?;
        Ok(self.with_voice(Arc::clone(voice)))
    }

    /// Another model in the place of this corrector's own, beside the same adapters.
    pub(crate) fn with_voice(&self, voice: Arc<Voice<L>>) -> Self {
        Self {
            voice,
            adapters: Arc::clone(&self.adapters),
        }
    }

    pub(crate) fn voice(&self) -> &Arc<Voice<L>> {
        &self.voice
    }

    /// The names of the adapters that [`adapter`](Self::adapter) knows.
    pub fn adapters(&self) -> impl Iterator<Item = &str> {
        self.adapters.keys().map(String::as_str)
    }

    /// The prompt template in use.
    pub fn template(&self) -> &PromptTemplate {
        self.voice.encoder.template()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.voice.encoder.tokenizer()
    }

    /// The model.
    pub fn model(&self) -> &L {
        &self.voice.model
    }

    /// Corrects one answer.
    ///
    /// # Errors
    /// When the prompt is longer than the context, an option is out of range, or the model fails.
    pub fn correct(&self, question: &str, answer: &str, options: &CorrectOptions) -> Result<Correction> {
        self.correct_with(Input::new(question, answer), options, |_| {
            ControlFlow::Continue(())
        })
    }

    /// Corrects one answer and hands out its text as it is generated; `Break` ends it.
    ///
    /// # Errors
    /// As [`correct`](Self::correct).
    pub fn correct_with(
        &self,
        input: Input<'_>,
        options: &CorrectOptions,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Correction> {
        if options.long_answers == LongAnswers::Windows {
            return self.correct_windows(input, options, &mut on_text);
        }
        self.correct_prompt(self.voice.prompt(input)?, input.answer, options, on_text)
    }

    /// Corrects the answer that a prompt shows.
    pub(crate) fn correct_prompt(
        &self,
        prompt: Vec<u32>,
        answer: &str,
        options: &CorrectOptions,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Correction> {
        let voice = &*self.voice;
        let prepared = voice.prepare(prompt, answer, options)?;
        let mut transcript = Transcript::new(self.tokenizer());
        let generated = generate(&voice.model, &voice.request(&prepared), |token| {
            transcript.push(token, &mut on_text)
        })?;
        transcript.finish(prepared.prompt.len(), generated, on_text)
    }

    /// The tokens of a given correction, and the end of sequence.
    ///
    /// # Errors
    /// When the tokenizer fails on the text, or the model does not have one of its tokens.
    pub fn correction_ids(&self, correction: &str) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer().encode_target(correction)?;
        ids.push(self.tokenizer().eos_id());
        self.voice.check_ids(&ids)?;
        Ok(ids)
    }

    /// Log-probability of a given correction, the end of sequence included.
    ///
    /// # Errors
    /// As [`correct`](Self::correct).
    pub fn score(&self, input: Input<'_>, correction: &str) -> Result<Score> {
        let prompt = self.voice.prompt(input)?;
        let target = self.correction_ids(correction)?;
        let scores = score_tokens(self.model(), &prompt, &target)?;
        let token_logprobs: Vec<f64> = scores.iter().map(|score| score.logprob).collect();
        Ok(Score {
            logprob: token_logprobs.iter().sum(),
            tokens: target.len(),
            prompt_tokens: prompt.len(),
            token_logprobs,
            token_argmax: scores.iter().map(|score| score.most_probable).collect(),
        })
    }
}

impl<L: CausalLm + 'static> Corrector<L> {
    /// Corrects one answer on a thread of its own; the pieces come as an iterator.
    pub fn stream(&self, question: &str, answer: &str, options: &CorrectOptions) -> CorrectionStream {
        // A slow reader holds the model back instead of filling memory.
        let (sender, pieces) = sync_channel(64);
        // Dropping this stream must not cancel others that share the caller's token.
        let cancel = options.cancel.child();
        let (corrector, options) = (
            self.clone(),
            CorrectOptions {
                cancel: cancel.clone(),
                ..options.clone()
            },
        );
        let (question, answer) = (question.to_string(), answer.to_string());
        std::thread::spawn(move || {
            let done = corrector.correct_with(Input::new(&question, &answer), &options, |text| match sender
                .send(Ok(Piece::Text(text.to_string())))
            {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            });
            // Nobody listens any more: nothing is lost.
            let _ = sender.send(done.map(Piece::Done));
        });
        CorrectionStream::new(pieces, cancel)
    }
}
