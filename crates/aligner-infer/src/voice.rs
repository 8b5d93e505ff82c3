//! A model and how it is prompted: from texts to a request, and from tokens back to a correction.

use std::ops::ControlFlow;
use std::sync::Arc;

use aligner_data::{Encoder, PromptTemplate, TokenStream, Tokenizer};

use crate::causal_lm::CausalLm;
use crate::corrector::{CorrectOptions, Correction, Input, Usage};
use crate::engine::{Drafting, Generated, Request};
use crate::error::{InferError, Result};
use crate::policy::{Draft, DraftMemory};

/// A model, or a base with one of its adapters, and how it is prompted.
#[derive(Debug)]
pub(crate) struct Voice<L> {
    pub model: L,
    pub encoder: Encoder,
    /// What drafts cost and gained with this model.
    pub memory: Arc<DraftMemory>,
}

/// An input and its options as tokens.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    pub prompt: Vec<u32>,
    answer: Vec<u32>,
    prediction: Vec<u32>,
    options: &'a CorrectOptions,
}

impl<L: CausalLm> Voice<L> {
    pub fn new(model: L, tokenizer: Tokenizer, template: PromptTemplate) -> Result<Self> {
        if tokenizer.eos_id() as usize >= model.vocab_size() {
            return Err(InferError::UnknownToken {
                id: tokenizer.eos_id(),
                vocab_size: model.vocab_size(),
            });
        }
        // Padding tokens are often added behind the vocabulary that a model was trained with: no text has them.
        if tokenizer.vocab_size() > model.vocab_size() {
            tracing::warn!(
                tokenizer = tokenizer.vocab_size(),
                model = model.vocab_size(),
                "the tokenizer has more tokens than the model; texts that use them cannot be corrected"
            );
        }
        let encoder = Encoder::new(tokenizer, template, model.max_positions());
        Ok(Self {
            model,
            encoder,
            memory: Arc::default(),
        })
    }

    /// A prompt's tokens, and those that drafts are made of.
    pub fn prepare<'a>(
        &self,
        prompt: Vec<u32>,
        answer: &str,
        options: &'a CorrectOptions,
    ) -> Result<Prepared<'a>> {
        // A prompt that is too long is refused before anything else is done with its answer.
        let is_drafted = options.draft != Draft::Off && prompt.len() < self.model.max_positions();
        let (answer, prediction) = match (is_drafted, options.prediction.as_deref()) {
            (false, _) => (Vec::new(), Vec::new()),
            (_, None) => (self.draft_source(answer)?, Vec::new()),
            (_, Some(text)) => (self.draft_source(answer)?, self.draft_source(text)?),
        };
        Ok(Prepared {
            prompt,
            answer,
            prediction,
            options,
        })
    }

    /// What the engine is asked.
    pub fn request<'a>(&'a self, prepared: &'a Prepared<'_>) -> Request<'a> {
        let options = prepared.options;
        Request {
            prompt: &prepared.prompt,
            sampling: options.sampling,
            stop_ids: self.encoder.tokenizer().stop_ids(),
            max_new_tokens: options.max_new_tokens,
            cancel: options.cancel.clone(),
            drafting: Drafting {
                mode: options.draft,
                answer: &prepared.answer,
                prediction: &prepared.prediction,
                memory: Arc::clone(&self.memory),
            },
        }
    }

    pub fn prompt(&self, input: Input<'_>) -> Result<Vec<u32>> {
        let prompt = self
            .encoder
            .encode_prompt(input.question, input.answer, input.chat_history)?;
        self.check_ids(&prompt)?;
        Ok(prompt)
    }

    /// What every prompt begins with: the template's own text before the question, as far as its tokens do not depend on it.
    pub fn shared_prompt(&self) -> Result<Vec<u32>> {
        let mut shared = self.encoder.encode_prompt("A", "A", &[])?;
        let other = self.encoder.encode_prompt("0", "0", &[])?;
        let length = shared.iter().zip(&other).take_while(|(a, b)| a == b).count();
        shared.truncate(length);
        self.check_ids(&shared)?;
        Ok(shared)
    }

    /// An id beyond the embedding would read memory that is not there.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.model.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            None => Ok(()),
            Some(&id) => Err(InferError::UnknownToken { id, vocab_size }),
        }
    }

    /// The tokens of a text that a correction may be like, and the end behind them; only those that the model has.
    fn draft_source(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer = self.encoder.tokenizer();
        let vocab_size = self.model.vocab_size();
        let mut ids = tokenizer.encode_target(text)?;
        ids.push(tokenizer.eos_id());
        let known = ids.iter().position(|&id| id as usize >= vocab_size);
        ids.truncate(known.unwrap_or(ids.len()));
        Ok(ids)
    }
}

/// The text of a correction as its tokens come.
#[derive(Debug)]
pub(crate) struct Transcript {
    stream: TokenStream,
    text: String,
}

impl Transcript {
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self {
            stream: tokenizer.stream(),
            text: String::new(),
        }
    }

    /// Adds a token; `on_text` gets the text that is whole with it.
    pub fn push(
        &mut self,
        token: u32,
        on_text: impl FnOnce(&str) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let Some(piece) = self.stream.push(token)? else {
            return Ok(ControlFlow::Continue(()));
        };
        self.text.push_str(&piece);
        Ok(on_text(&piece))
    }

    /// The correction; `on_text` gets what was held back.
    pub fn finish(
        mut self,
        prompt_tokens: usize,
        generated: Generated,
        on_text: impl FnOnce(&str) -> ControlFlow<()>,
    ) -> Result<Correction> {
        if let Some(rest) = self.stream.finish()? {
            self.text.push_str(&rest);
            let _ = on_text(&rest);
        }
        Ok(Correction {
            text: self.text,
            usage: Usage {
                prompt_tokens,
                completion_tokens: generated.ids.len(),
                draft_proposed: generated.draft_proposed,
                draft_accepted: generated.draft_accepted,
            },
            ids: generated.ids,
            finish_reason: generated.finish_reason,
            timings: generated.timings,
        })
    }
}
