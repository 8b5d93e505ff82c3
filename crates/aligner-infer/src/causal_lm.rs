//! What the engine needs of a model.

use crate::error::Result;

/// One sequence's part of a batch: [`CausalLm::forward`]'s arguments.
#[derive(Debug)]
pub struct Run<'a, C> {
    /// Tokens to append.
    pub ids: &'a [u32],
    /// The sequence's own cache.
    pub cache: &'a mut C,
    /// Tokens, counted from the end of `ids`, whose scores are wanted.
    pub keep: usize,
}

/// A causal language model with a cache: ids in, scores of the next token out.
///
/// The engine knows a model only through this trait, so that it can be tested without weights and run on any device.
pub trait CausalLm: Send + Sync {
    /// Keys and values of the tokens seen so far.
    type Cache: Send;

    /// Number of scores for each token.
    fn vocab_size(&self) -> usize;

    /// Tokens the context holds.
    fn max_positions(&self) -> usize;

    /// An empty cache for up to `capacity` tokens.
    ///
    /// # Errors
    /// When the device has no room for it.
    fn new_cache(&self, capacity: usize) -> Result<Self::Cache>;

    /// Tokens in the cache.
    fn cache_len(&self, cache: &Self::Cache) -> usize;

    /// Forgets all but the first `len` tokens.
    fn truncate(&self, cache: &mut Self::Cache, len: usize);

    /// Bytes that [`new_cache`](Self::new_cache) takes at most for `capacity` tokens; 0 where that is not accounted.
    fn cache_bytes(&self, capacity: usize) -> usize {
        let _ = capacity;
        0
    }

    /// A cache of its own for up to `capacity` tokens that begins with the first `len` of `cache`; `None` where that cannot be
    /// done, and the tokens are computed again.
    ///
    /// # Errors
    /// When the device has no room for it.
    fn fork(&self, cache: &Self::Cache, len: usize, capacity: usize) -> Result<Option<Self::Cache>> {
        let _ = (cache, len, capacity);
        Ok(None)
    }

    /// Appends `ids` to the cache and returns the scores behind each of the last `keep` of them, row-major
    /// `[keep, vocab_size]`.
    ///
    /// # Errors
    /// When the device fails.
    fn forward(&self, ids: &[u32], cache: &mut Self::Cache, keep: usize) -> Result<Vec<f32>>;

    /// [`forward`](Self::forward) of several sequences, each with its own cache; a result for each, in order.
    ///
    /// A model that reads its weights once for all of them does better than one by one, which is what this does by itself.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); what the caches hold is not defined then.
    fn forward_batch(&self, runs: &mut [Run<'_, Self::Cache>]) -> Result<Vec<Vec<f32>>> {
        runs.iter_mut()
            .map(|run| self.forward(run.ids, run.cache, run.keep))
            .collect()
    }
}
