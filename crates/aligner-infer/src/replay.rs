//! Known texts through a real model: what drafts are worth on corrections that somebody else wrote.
//!
//! A model that was not trained as an Aligner does not write what one writes, and what drafts gain depends on just that.
//! [`Replay`] computes every pass of the model as it is, with its costs, and then puts the recorded token first.

use crate::causal_lm::{CausalLm, Run};
use crate::error::Result;

/// A model that writes a recorded text behind a prompt of known length, whatever it would write itself.
#[derive(Debug)]
pub struct Replay<'a, L> {
    model: &'a L,
    prompt_tokens: usize,
    recorded: &'a [u32],
}

impl<'a, L: CausalLm> Replay<'a, L> {
    /// Writes `recorded` behind a prompt of `prompt_tokens`; what comes behind it is the model's own.
    pub fn new(model: &'a L, prompt_tokens: usize, recorded: &'a [u32]) -> Self {
        Self {
            model,
            prompt_tokens,
            recorded,
        }
    }

    /// Puts the recorded tokens first in the scores of a pass that ended at `len` tokens.
    fn force(&self, scores: &mut [f32], len: usize) {
        let vocab_size = self.model.vocab_size().max(1);
        let rows = scores.len() / vocab_size;
        for (index, row) in scores.chunks_mut(vocab_size).enumerate() {
            // The scores behind a token are about the next one.
            let position = len + index + 1 - rows;
            let recorded = position
                .checked_sub(self.prompt_tokens)
                .and_then(|index| self.recorded.get(index));
            if let Some(score) = recorded.and_then(|&id| row.get_mut(id as usize)) {
                *score = f32::MAX;
            }
        }
    }
}

impl<L: CausalLm> CausalLm for Replay<'_, L> {
    type Cache = L::Cache;

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_positions(&self) -> usize {
        self.model.max_positions()
    }

    fn new_cache(&self, capacity: usize) -> Result<Self::Cache> {
        self.model.new_cache(capacity)
    }

    fn cache_bytes(&self, capacity: usize) -> usize {
        self.model.cache_bytes(capacity)
    }

    fn fork(&self, cache: &Self::Cache, len: usize, capacity: usize) -> Result<Option<Self::Cache>> {
        self.model.fork(cache, len, capacity)
    }

    fn cache_len(&self, cache: &Self::Cache) -> usize {
        self.model.cache_len(cache)
    }

    fn truncate(&self, cache: &mut Self::Cache, len: usize) {
        self.model.truncate(cache, len);
    }

    fn forward(&self, ids: &[u32], cache: &mut Self::Cache, keep: usize) -> Result<Vec<f32>> {
        let mut scores = self.model.forward(ids, cache, keep)?;
        self.force(&mut scores, self.model.cache_len(cache));
        Ok(scores)
    }

    fn forward_batch(&self, runs: &mut [Run<'_, Self::Cache>]) -> Result<Vec<Vec<f32>>> {
        let mut batch = self.model.forward_batch(runs)?;
        for (scores, run) in batch.iter_mut().zip(runs) {
            self.force(scores, self.model.cache_len(run.cache));
        }
        Ok(batch)
    }
}
