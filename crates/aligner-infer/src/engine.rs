//! The decoding loop.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::causal_lm::CausalLm;
use crate::error::{InferError, Result};
use crate::policy::{Company, Draft, DraftMemory};
use crate::sampler::SamplingParams;
use crate::sequence::Sequence;

/// Prompt tokens that go through the model at once; a request can be cancelled between two such runs.
pub(crate) const PREFILL_CHUNK: usize = 512;

/// Why a correction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// It reached the limit of new tokens or of the context.
    Length,
    /// The caller cancelled it.
    Cancelled,
}

/// Cancels a request from any thread.
#[derive(Debug, Clone, Default)]
pub struct CancelToken {
    cancelled: Arc<AtomicBool>,
    parent: Option<Arc<CancelToken>>,
}

impl CancelToken {
    /// Ends the request after the token that is being computed.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// A token that is cancelled with this one, and can be cancelled without it.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            cancelled: Arc::default(),
            parent: Some(Arc::new(self.clone())),
        }
    }

    /// Whether [`cancel`](Self::cancel) was called, here or on a token that this is a child of.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
            || self.parent.as_ref().is_some_and(|parent| parent.is_cancelled())
    }
}

/// One request to the engine.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Tokens of the prompt.
    pub prompt: &'a [u32],
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens at which generation stops.
    pub stop_ids: &'a [u32],
    /// Limit of new tokens, the stopping one included.
    pub max_new_tokens: usize,
    /// Cancels the request.
    pub cancel: CancelToken,
    /// What is drafted; it changes how fast tokens come, not which.
    pub drafting: Drafting<'a>,
}

/// Whether tokens are drafted, and from what: from prompt and output always, and from what is given here.
#[derive(Debug, Clone, Default)]
pub struct Drafting<'a> {
    /// Whether, and how many.
    pub mode: Draft,
    /// The answer that is corrected, with the token that ends a text.
    pub answer: &'a [u32],
    /// What the correction is thought to be, with the token that ends a text; may be empty.
    pub prediction: &'a [u32],
    /// What the model was seen to do. Requests that share it need not find out anew.
    pub memory: Arc<DraftMemory>,
}

/// Time spent on a request, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// On the prompt, until the first token is chosen.
    pub prefill_seconds: f64,
    /// On the tokens after it.
    pub decode_seconds: f64,
}

/// What the engine generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// New tokens, the stopping one included.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Drafted tokens that were verified.
    pub draft_proposed: usize,
    /// Those of them that were right.
    pub draft_accepted: usize,
    /// How long it took.
    pub timings: Timings,
}

/// Generates tokens until one of `stop_ids`, the limit, or a `Break` from `on_token`, which is called with every token but
/// the stopping one.
///
/// # Errors
/// When the prompt is longer than the context, a sampling parameter is out of range, or the model fails.
pub fn generate<L: CausalLm>(
    model: &L,
    request: &Request<'_>,
    mut on_token: impl FnMut(u32) -> Result<ControlFlow<()>>,
) -> Result<Generated> {
    let mut sequence = Sequence::new(request, model.max_positions())?;
    let memory = &request.drafting.memory;
    let mut timings = Timings::default();
    let mut started = Instant::now();
    let mut cache = model.new_cache(sequence.capacity())?;
    let mut is_prompt = true;
    let finish_reason = loop {
        if is_prompt && sequence.is_cancelled() {
            break FinishReason::Cancelled;
        }
        sequence.plan(PREFILL_CHUNK, Company::ALONE);
        let (ids, keep) = sequence.run();
        let pass = Instant::now();
        let mut scores = model.forward(ids, &mut cache, keep)?;
        let (rows, seconds) = (ids.len(), pass.elapsed().as_secs_f64());
        if is_prompt {
            memory.record_prefill(rows, seconds);
            timings.prefill_seconds = started.elapsed().as_secs_f64();
            if keep > 0 {
                (is_prompt, started) = (false, Instant::now());
            }
        } else {
            memory.record_pass(rows, seconds);
        }
        if let Some(reason) = sequence.take(&mut scores, &mut on_token)? {
            break reason;
        }
        model.truncate(&mut cache, sequence.cached());
    };
    if is_prompt {
        timings.prefill_seconds = started.elapsed().as_secs_f64();
    } else {
        timings.decode_seconds = started.elapsed().as_secs_f64();
    }
    let counts = sequence.draft_counts();
    Ok(Generated {
        ids: sequence.output().to_vec(),
        finish_reason,
        draft_proposed: counts.proposed,
        draft_accepted: counts.accepted,
        timings,
    })
}

/// What a model says of a token that is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Its log-probability, in nats.
    pub logprob: f64,
    /// The token that the model holds most probable in its place; the first of several.
    pub most_probable: u32,
}

/// What a model says of each of `target` after `prompt`.
///
/// The logits of at most 64 positions are held at a time.
///
/// # Errors
/// When both together are longer than the context, or the model fails.
pub fn score_tokens<L: CausalLm>(model: &L, prompt: &[u32], target: &[u32]) -> Result<Vec<TokenScore>> {
    each_score(model, prompt, target, score_at)
}

/// What `score` makes of the logits in the place of each of `target`, and its id; `None` of logits that are not numbers.
pub(crate) fn each_score<L: CausalLm, T>(
    model: &L,
    prompt: &[u32],
    target: &[u32],
    score: impl Fn(&[f32], u32) -> Option<T>,
) -> Result<Vec<T>> {
    const CHUNK: usize = 64;
    let (tokens, max_positions) = (prompt.len() + target.len(), model.max_positions());
    if prompt.is_empty() {
        return Err(InferError::EmptyPrompt);
    }
    if tokens > max_positions {
        return Err(InferError::TargetTooLong {
            prompt_tokens: prompt.len(),
            target_tokens: target.len(),
            max_positions,
        });
    }
    let mut cache = model.new_cache(tokens)?;
    let (head, last) = prompt.split_at(prompt.len() - 1);
    for chunk in head.chunks(PREFILL_CHUNK) {
        model.forward(chunk, &mut cache, 0)?;
    }
    // Each target token is predicted by the token before it; the last one predicts nothing.
    let inputs: Vec<u32> = last.iter().chain(target).copied().take(target.len()).collect();
    let mut scores = Vec::with_capacity(target.len());
    for (inputs, targets) in inputs.chunks(CHUNK).zip(target.chunks(CHUNK)) {
        let logits = model.forward(inputs, &mut cache, inputs.len())?;
        for (row, &id) in logits.chunks(model.vocab_size()).zip(targets) {
            scores.push(score(row, id).ok_or(InferError::BadLogits {
                position: prompt.len() + scores.len(),
            })?);
        }
    }
    Ok(scores)
}

pub(crate) fn score_at(logits: &[f32], id: u32) -> Option<TokenScore> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most_probable = logits.iter().position(|&logit| logit == highest)?;
    let highest = f64::from(highest);
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - highest).exp())
        .sum();
    let score = f64::from(*logits.get(id as usize)?) - highest - sum.ln();
    (!score.is_nan()).then_some(TokenScore {
        logprob: score,
        most_probable: most_probable as u32,
    })
}
