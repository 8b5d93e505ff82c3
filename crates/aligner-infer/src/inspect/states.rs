//! Hidden states by layer where the first tokens of a correction are chosen.

use crate::causal_lm::CausalLm;
use crate::corrector::{Corrector, Input};
use crate::decoder::DecoderLm;
use crate::engine::PREFILL_CHUNK;
use crate::error::{InferError, Result};

/// Hidden states that the first tokens of a correction were chosen from.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputStates {
    /// The embedding, and behind each layer.
    pub places: usize,
    /// Tokens that are chosen: as many as were asked for, or all of a shorter correction.
    pub tokens: usize,
    /// `[places, tokens, hidden_size]`.
    pub values: Vec<f32>,
}

impl Corrector<DecoderLm> {
    /// Hidden states from which each of the first `tokens` tokens of a correction is chosen, the final norm not yet applied. The
    /// first token's are those of the prompt's last token, which has seen nothing of the correction; those of later ones have seen
    /// the tokens before them.
    ///
    /// # Errors
    /// When the prompt is longer than the context, or the model fails or does not have one of the tokens.
    pub fn output_states(&self, input: Input<'_>, correction: &[u32], tokens: usize) -> Result<OutputStates> {
        let (voice, model) = (self.voice(), self.model());
        let prompt = voice.prompt(input)?;
        voice.check_ids(correction)?;
        let tokens = tokens.min(correction.len());
        let places = model.layers() + 1;
        let Some((head, last)) = prompt.split_at_checked(prompt.len().wrapping_sub(1)) else {
            return Err(InferError::EmptyPrompt);
        };
        if prompt.len() + tokens > model.max_positions() {
            return Err(InferError::TargetTooLong {
                prompt_tokens: prompt.len(),
                target_tokens: tokens,
                max_positions: model.max_positions(),
            });
        }
        let mut values = Vec::new();
        if tokens > 0 {
            let mut cache = model.new_cache(prompt.len() + tokens)?;
            for chunk in head.chunks(PREFILL_CHUNK) {
                model.forward(chunk, &mut cache, 0)?;
            }
            // The last of them is chosen, and goes in no more.
            let ids: Vec<u32> = last.iter().chain(correction).copied().take(tokens).collect();
            values = model.residual_stream(&ids, &mut cache, tokens)?;
        }
        Ok(OutputStates {
            places,
            tokens,
            values,
        })
    }
}
