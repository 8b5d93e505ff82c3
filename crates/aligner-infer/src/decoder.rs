//! [`CausalLm`] by Burn's decoder.

use aligner_model::{CausalDecoder, KvCache, Loaded, LoraAdapter, ModelError, SteeringVector, on_pool};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::causal_lm::CausalLm;
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
            max_positions: config.max_positions,
        }
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

    /// The same model at another strength of correction; 1 is the model as it was trained.
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

    pub(crate) fn parts(&self) -> (&CausalDecoder, &Device) {
        (&self.decoder, &self.device)
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

    fn cache_len(&self, cache: &KvCache) -> usize {
        cache.len()
    }

    fn truncate(&self, cache: &mut KvCache, len: usize) {
        cache.truncate(len);
    }

    fn forward(&self, ids: &[u32], cache: &mut KvCache, keep: usize) -> Result<Vec<f32>> {
        on_pool(|| self.logits(ids, cache, keep))
    }
}

impl DecoderLm {
    fn logits(&self, ids: &[u32], cache: &mut KvCache, keep: usize) -> Result<Vec<f32>> {
        let values: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let input = Tensor::<2, Int>::from_data(TensorData::new(values, [1, ids.len()]), &self.device);
        let hidden = self.decoder.forward(input, Some(cache));
        if keep == 0 {
            return Ok(Vec::new());
        }
        let keep = keep.min(ids.len());
        let logits = self.decoder.logits(hidden.narrow(1, ids.len() - keep, keep));
        let values = logits.try_into_vec_as::<f32>();
        Ok(values.map_err(|error| ModelError::Execution(error.to_string()))?)
    }
}
