//! [`CausalLm`] by Burn's decoder.

use aligner_model::{
    CachedRun, CausalDecoder, KvCache, KvFormat, Loaded, LoraAdapter, ModelError, SteeringVector, on_pool,
};
use burn::tensor::{Device, Tensor};

use crate::causal_lm::{CausalLm, Run};
use crate::error::Result;

/// A decoder on a device.
#[derive(Debug)]
pub struct DecoderLm {
    decoder: CausalDecoder,
    device: Device,
    vocab_size: usize,
    max_positions: usize,
}

impl DecoderLm {
    /// The engine's view of a model that was loaded on `device`.
    pub fn new(loaded: Loaded, device: Device) -> Self {
        let Loaded { config, decoder } = loaded;
        Self {
            decoder,
            device,
            vocab_size: config.vocab_size,
            max_positions: config.cached_positions(),
        }
    }

    /// Holds the keys and values of new caches in this format; f32 at first.
    #[must_use]
    pub fn with_kv_format(mut self, format: KvFormat) -> Self {
        self.decoder = self.decoder.with_kv_format(format);
        self
    }

    /// The same model with an adapter over its weights, which both share.
    ///
    /// # Errors
    /// When the adapter does not fit the model.
    pub fn with_adapter(&self, adapter: &LoraAdapter) -> Result<Self> {
        Ok(Self {
            decoder: self.decoder.with_adapter(adapter)?,
            device: self.device.clone(),
            ..*self
        })
    }

    /// The same model at another strength, by a control vector that was fitted to it; they share the weights. 0 leaves more of an
    /// answer as it is, 1 is the model as it was trained, more than 1 changes more.
    ///
    /// # Errors
    /// When the vector does not fit the model.
    pub fn with_steering(&self, vector: &SteeringVector, strength: f64) -> Result<Self> {
        Ok(Self {
            decoder: self.decoder.with_steering(vector, strength - 1.0)?,
            device: self.device.clone(),
            ..*self
        })
    }
}

impl CausalLm for DecoderLm {
    type Cache = KvCache;

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn new_cache(&self, capacity: usize) -> Result<KvCache> {
        Ok(self.decoder.new_cache(1, capacity))
    }

    fn cache_bytes(&self, capacity: usize) -> usize {
        self.decoder.cache_bytes(capacity)
    }

    fn fork(&self, cache: &KvCache, len: usize, capacity: usize) -> Result<Option<KvCache>> {
        Ok(cache.fork(len, capacity))
    }

    fn cache_len(&self, cache: &KvCache) -> usize {
        cache.len()
    }

    fn truncate(&self, cache: &mut KvCache, len: usize) {
        cache.truncate(len);
    }

    fn forward(&self, ids: &[u32], cache: &mut KvCache, keep: usize) -> Result<Vec<f32>> {
        self.logits(vec![CachedRun { ids, cache, keep }])
    }

    fn forward_batch(&self, runs: &mut [Run<'_, KvCache>]) -> Result<Vec<Vec<f32>>> {
        let kept: Vec<usize> = runs.iter().map(|run| run.keep.min(run.ids.len())).collect();
        let cached = runs.iter_mut().map(|run| CachedRun {
            ids: run.ids,
            cache: &mut *run.cache,
            keep: run.keep,
        });
        let mut logits = self.logits(cached.collect())?;
        if let [_] = kept[..] {
            return Ok(vec![logits]);
        }
        // From the last to the first, so that each is cut off the end.
        let mut parts: Vec<Vec<f32>> = (kept.iter().rev())
            .map(|kept| logits.split_off(logits.len() - kept * self.vocab_size))
            .collect();
        parts.reverse();
        Ok(parts)
    }
}

impl DecoderLm {
    /// Scores of all kept tokens, one behind the other.
    fn logits(&self, mut runs: Vec<CachedRun<'_>>) -> Result<Vec<f32>> {
        runs.retain(|run| !run.ids.is_empty());
        if runs.is_empty() {
            return Ok(Vec::new());
        }
        let keeps = runs.iter().any(|run| run.keep > 0);
        // The decoder keeps one row at least; that of a part of a prompt costs no more than its last MLP.
        if let Some(last) = runs.last_mut() {
            last.keep = last.keep.max(usize::from(!keeps));
        }
        self.compute(|| {
            let hidden = self.decoder.forward_cached(&mut runs);
            if !keeps {
                return Ok(Vec::new());
            }
            host(self.decoder.logits_of_rows(hidden))
        })
    }

    /// The hidden states of all kept tokens behind the last layer and its norm, one behind the other.
    pub(crate) fn hidden_states(&self, runs: &mut [CachedRun<'_>]) -> Result<Vec<f32>> {
        self.compute(|| host(self.decoder.forward_cached(runs)))
    }

    /// The residual stream of the last `keep` of `ids`, before the first layer and behind each: `[layers + 1, keep, hidden_size]`.
    pub(crate) fn residual_stream(&self, ids: &[u32], cache: &mut KvCache, keep: usize) -> Result<Vec<f32>> {
        self.compute(|| {
            let stream = self
                .decoder
                .residual_stream(&mut [CachedRun { ids, cache, keep }]);
            let parts = stream.into_iter().map(host).collect::<Result<Vec<_>>>()?;
            Ok(parts.concat())
        })
    }

    /// Number of layers.
    pub(crate) fn layers(&self) -> usize {
        self.decoder.layers.len()
    }

    fn compute<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        // The CPU's operations are shared out by threads of their own.
        if self.device == Device::flex() {
            what()
        } else {
            on_pool(what)
        }
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    let values = tensor.try_into_vec_as::<f32>();
    Ok(values.map_err(|error| ModelError::Execution(error.to_string()))?)
}
