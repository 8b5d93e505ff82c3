//! The decoding loop.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::causal_lm::CausalLm;
use crate::error::{InferError, Result};
use crate::sampler::{Sampler, SamplingParams};

/// Prompt tokens that go through the model at once; a request can be cancelled between two such runs.
const PREFILL_CHUNK: usize = 512;

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
    let prompt_tokens = request.prompt.len();
    let max_positions = model.max_positions();
    if prompt_tokens == 0 {
        return Err(InferError::EmptyPrompt);
    }
    if prompt_tokens >= max_positions {
        return Err(InferError::PromptTooLong {
            prompt_tokens,
            max_positions,
        });
    }
    let mut sampler = Sampler::new(request.sampling)?;
    let limit = request.max_new_tokens.min(max_positions - prompt_tokens);
    let mut out = Generated {
        ids: Vec::new(),
        finish_reason: FinishReason::Length,
        timings: Timings::default(),
    };
    let started = Instant::now();
    let mut cache = model.new_cache(prompt_tokens + limit)?;
    let logits = prefill(model, request, &mut cache)?;
    out.timings.prefill_seconds = started.elapsed().as_secs_f64();
    let Some(mut logits) = logits else {
        out.finish_reason = FinishReason::Cancelled;
        return Ok(out);
    };
    let started = Instant::now();
    let mut seen = request.prompt.to_vec();
    while out.ids.len() < limit {
        let token = sampler.sample(&mut logits, &seen)?;
        out.ids.push(token);
        seen.push(token);
        if request.stop_ids.contains(&token) {
            out.finish_reason = FinishReason::Stop;
            break;
        }
        if on_token(token)?.is_break() || request.cancel.is_cancelled() {
            out.finish_reason = FinishReason::Cancelled;
            break;
        }
        if out.ids.len() < limit {
            logits = model.forward(&[token], &mut cache, 1)?;
        }
    }
    out.timings.decode_seconds = started.elapsed().as_secs_f64();
    Ok(out)
}

/// Scores behind the prompt's last token; `None` when cancelled.
fn prefill<L: CausalLm>(model: &L, request: &Request<'_>, cache: &mut L::Cache) -> Result<Option<Vec<f32>>> {
    let mut logits = Vec::new();
    let chunks = request.prompt.chunks(PREFILL_CHUNK);
    let last = chunks.len() - 1;
    for (index, chunk) in chunks.enumerate() {
        if request.cancel.is_cancelled() {
            return Ok(None);
        }
        logits = model.forward(chunk, cache, usize::from(index == last))?;
    }
    Ok(Some(logits))
}

/// Log-probability of each of `target` after `prompt`, in nats.
///
/// The logits of at most 64 positions are held at a time.
///
/// # Errors
/// When both together are longer than the context, or the model fails.
pub fn log_probabilities<L: CausalLm>(model: &L, prompt: &[u32], target: &[u32]) -> Result<Vec<f64>> {
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
            scores.push(log_softmax_at(row, id).ok_or(InferError::BadLogits {
                position: prompt.len() + scores.len(),
            })?);
        }
    }
    Ok(scores)
}

fn log_softmax_at(logits: &[f32], id: u32) -> Option<f64> {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - highest).exp())
        .sum();
    let score = f64::from(*logits.get(id as usize)?) - highest - sum.ln();
    (!score.is_nan()).then_some(score)
}
