//! Texts as vectors: what a decoder makes of them, averaged.

use aligner_model::CachedRun;

use crate::causal_lm::CausalLm;
use crate::corrector::Corrector;
use crate::decoder::DecoderLm;
use crate::error::{InferError, Result};

/// Tokens of a pass: the states of more are read one part after the other.
const CHUNK: usize = 256;

impl Corrector<DecoderLm> {
    /// The mean over a text's tokens of the hidden states behind the last layer, `[hidden_size]`. A decoder was not trained to
    /// compare texts: what is near in these vectors is near in words and topic more than in what is claimed. Of a text that is longer than
    /// the context, each context's length of tokens is read by itself.
    ///
    /// # Errors
    /// When the text has no tokens, or the model fails.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>> {
        let (model, ids) = (self.model(), self.tokenizer().encode_target(text)?);
        if ids.is_empty() {
            return Err(InferError::EmptyPrompt);
        }
        self.voice().check_ids(&ids)?;
        let mut sum: Vec<f32> = Vec::new();
        for window in ids.chunks(model.max_positions().max(1)) {
            let mut cache = model.new_cache(window.len())?;
            for ids in window.chunks(CHUNK) {
                let keep = ids.len();
                let hidden = model.hidden_states(&mut [CachedRun {
                    ids,
                    cache: &mut cache,
                    keep,
                }])?;
                let width = hidden.len() / keep;
                sum.resize(width, 0.0);
                for row in hidden.chunks(width) {
                    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            }
        }
        sum.iter_mut().for_each(|value| *value /= ids.len() as f32);
        Ok(sum)
    }
}
