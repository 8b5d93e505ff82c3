//! One request on its way through the model: what goes in next, and what comes out of the scores.

use std::ops::ControlFlow;

use crate::draft::Proposer;
use crate::engine::{CancelToken, FinishReason, Request};
use crate::error::{InferError, Result};
use crate::policy::{Company, Draft, Drafter};
use crate::sampler::Sampler;
use crate::verify::verify;

/// A request's tokens, and how far they are computed. It owns no cache: who runs the model does.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Prompt and output.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// New tokens at most.
    limit: usize,
    stop_ids: Vec<u32>,
    cancel: CancelToken,
    sampler: Sampler,
    drafter: Option<Drafter>,
    /// Tokens that the cache holds and that count.
    cached: usize,
    /// What the next pass computes behind them.
    run: Vec<u32>,
    /// Drafted tokens at the end of `run`.
    drafted: usize,
    counts: DraftCounts,
}

/// Drafted tokens of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DraftCounts {
    /// Tokens that were verified.
    pub proposed: usize,
    /// Those of them that were right.
    pub accepted: usize,
}

impl Sequence {
    /// A request, once it is known to be possible.
    pub fn new(request: &Request<'_>, max_positions: usize) -> Result<Self> {
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(InferError::EmptyPrompt);
        }
        if prompt_tokens >= max_positions {
            return Err(InferError::PromptTooLong {
                prompt_tokens,
                max_positions,
            });
        }
        let drafting = &request.drafting;
        let drafter = (drafting.mode != Draft::Off).then(|| {
            let proposer = Proposer::new(request.prompt, drafting.answer, drafting.prediction);
            Drafter::new(drafting.mode, proposer, drafting.memory.clone())
        });
        Ok(Self {
            tokens: request.prompt.to_vec(),
            prompt_tokens,
            limit: request.max_new_tokens.min(max_positions - prompt_tokens),
            stop_ids: request.stop_ids.to_vec(),
            cancel: request.cancel.clone(),
            sampler: Sampler::new(request.sampling)?,
            drafter,
            cached: 0,
            run: Vec::new(),
            drafted: 0,
            counts: DraftCounts::default(),
        })
    }

    /// Tokens of prompt and output together, at most.
    pub fn capacity(&self) -> usize {
        self.prompt_tokens + self.limit
    }

    /// Tokens of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_tokens]
    }

    /// New tokens.
    pub fn output(&self) -> &[u32] {
        &self.tokens[self.prompt_tokens..]
    }

    /// Drafted tokens so far.
    pub fn draft_counts(&self) -> DraftCounts {
        self.counts
    }

    /// Whether the caller wants no more.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Whether tokens of the prompt are still to be computed.
    pub fn is_in_prompt(&self) -> bool {
        self.cached < self.prompt_tokens
    }

    /// Tokens in the cache that count: what comes behind them was drafted and is wrong.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Takes the first `tokens` of the prompt as computed: the cache has them already.
    pub fn skip(&mut self, tokens: usize) {
        // The last token must be computed for its scores.
        self.cached = tokens.min(self.prompt_tokens - 1);
    }

    /// Decides what the next pass computes: up to `chunk` tokens of the prompt, or the last token; and behind the last of them
    /// a draft.
    pub fn plan(&mut self, chunk: usize, company: Company) {
        let end = if self.is_in_prompt() {
            self.prompt_tokens.min(self.cached + chunk)
        } else {
            self.tokens.len()
        };
        let is_prompt = self.is_in_prompt();
        self.run.clear();
        self.run.extend(&self.tokens[self.cached..end]);
        self.drafted = 0;
        let own = self.run.len();
        // A pass gives one token more than were drafted.
        let most = self.limit.saturating_sub(self.output().len() + 1);
        let Some(drafter) = &mut self.drafter else {
            return;
        };
        if is_prompt {
            drafter.spend(own);
        }
        if end == self.tokens.len() {
            let draft = drafter.draft(most, own, company);
            self.drafted = draft.len();
            self.run.extend(draft);
        }
    }

    /// What the pass computes, and for how many of the last of these tokens it gives scores.
    pub fn run(&self) -> (&[u32], usize) {
        let is_whole = self.cached + self.run.len() - self.drafted == self.tokens.len();
        (&self.run, if is_whole { self.drafted + 1 } else { 0 })
    }

    /// Takes what the pass gave; the reason when that was the last one. `on_token` is called with every new token but a stopping
    /// one.
    pub fn take(
        &mut self,
        scores: &mut [f32],
        mut on_token: impl FnMut(u32) -> Result<ControlFlow<()>>,
    ) -> Result<Option<FinishReason>> {
        self.cached += self.run.len() - self.drafted;
        if self.is_in_prompt() {
            return Ok(None);
        }
        if self.limit == 0 {
            return Ok(Some(FinishReason::Length));
        }
        let Self {
            tokens,
            sampler,
            drafter,
            stop_ids,
            cancel,
            run,
            ..
        } = self;
        let draft = &run[run.len() - self.drafted..];
        let mut left = self.limit - (tokens.len() - self.prompt_tokens);
        let verified = verify(sampler, scores, draft, tokens, |token| {
            left -= 1;
            if stop_ids.contains(&token) {
                return Ok(ControlFlow::Break(FinishReason::Stop));
            }
            if let Some(drafter) = drafter {
                drafter.push(token);
            }
            if on_token(token)?.is_break() || cancel.is_cancelled() {
                return Ok(ControlFlow::Break(FinishReason::Cancelled));
            }
            Ok(match left {
                0 => ControlFlow::Break(FinishReason::Length),
                _ => ControlFlow::Continue(()),
            })
        })?;
        self.counts.proposed += self.drafted;
        self.counts.accepted += verified.accepted;
        self.cached += verified.accepted;
        if let Some(drafter) = drafter {
            drafter.settle(verified.accepted);
        }
        Ok(verified.ended)
    }
}
