//! The direction: a difference of means (Rimsky et al. 2023, arXiv 2312.06681).

use std::ops::Range;

use aligner_data::Record;
use aligner_model::{ModelError, Sequences, on_pool};
use burn::tensor::{Int, Tensor};

use super::fit::Pair;
use crate::causal_lm::CausalLm;
use crate::corrector::Corrector;
use crate::decoder::DecoderLm;
use crate::error::{InferError, Result};

/// Tokens of a correction whose hidden states are looked at, counted from the last token of the prompt.
const LOOKED_AT: usize = 8;
/// Tokens that go through the model at once.
pub(super) const BATCH_TOKENS: usize = 1024;

/// Sums of the residual stream over the looked-at tokens of rows.
///
/// Each row is looked at twice, with the same correction to be written: once behind its answer, which is to be corrected, and
/// once behind the correction itself, which is to be copied. The tokens written are the same, so what differs is not what is
/// written but whether it is a copy.
#[derive(Debug, Default)]
pub(super) struct Contrast {
    /// For each layer the sum of `correcting − copying`, `[hidden_size]`.
    difference: Vec<Vec<f64>>,
    tokens: usize,
}

/// One pass over a row: its tokens, and the positions that are looked at.
struct Look {
    ids: Vec<u32>,
    at: Range<usize>,
    sign: f64,
}

impl Contrast {
    pub fn of(corrector: &Corrector<DecoderLm>, pairs: &[Pair]) -> Result<Self> {
        let mut contrast = Self::default();
        let mut batch = Vec::new();
        for pair in pairs {
            let looks = [
                look(&pair.answer_prompt, pair, 1.0),
                look(&pair.copy_prompt, pair, -1.0),
            ];
            contrast.tokens += looks[0].at.len();
            batch.extend(looks);
            if batch.iter().map(|look| look.ids.len()).sum::<usize>() >= BATCH_TOKENS {
                contrast.add(corrector.model(), &std::mem::take(&mut batch))?;
            }
        }
        if !batch.is_empty() {
            contrast.add(corrector.model(), &batch)?;
        }
        Ok(contrast)
    }

    /// Mean difference behind each layer, `[hidden_size]`.
    pub fn means(&self) -> Vec<Vec<f32>> {
        let tokens = self.tokens.max(1) as f64;
        let mean = |sum: &Vec<f64>| sum.iter().map(|value| (value / tokens) as f32).collect();
        self.difference.iter().map(mean).collect()
    }

    fn add(&mut self, model: &DecoderLm, batch: &[Look]) -> Result<()> {
        let layers = on_pool(|| states(model, batch))?;
        let signs: Vec<f64> = batch
            .iter()
            .flat_map(|look| look.at.clone().map(|_| look.sign))
            .collect();
        self.difference.resize(layers.len(), Vec::new());
        for (sum, states) in self.difference.iter_mut().zip(&layers) {
            let width = states.len() / signs.len();
            sum.resize(width, 0.0);
            for (state, sign) in states.chunks(width).zip(&signs) {
                for (sum, &value) in sum.iter_mut().zip(state) {
                    *sum += sign * f64::from(value);
                }
            }
        }
        Ok(())
    }
}

fn look(prompt: &[u32], pair: &Pair, sign: f64) -> Look {
    let seen = pair.correction.len().min(LOOKED_AT);
    let mut ids = prompt.to_vec();
    let start = ids.len() - 1;
    // The last token predicts nothing.
    ids.extend(&pair.correction[..seen - 1]);
    let at = start..start + seen;
    Look { ids, at, sign }
}

/// The residual stream behind each layer at the looked-at tokens, `[tokens, hidden_size]`.
fn states(model: &DecoderLm, batch: &[Look]) -> Result<Vec<Vec<f32>>> {
    let (decoder, device) = model.parts();
    let lengths: Vec<usize> = batch.iter().map(|look| look.ids.len()).collect();
    let ids: Vec<i32> = batch
        .iter()
        .flat_map(|look| &look.ids)
        .map(|&id| id as i32)
        .collect();
    let mut rows = Vec::new();
    let mut start = 0;
    for look in batch {
        rows.extend(look.at.clone().map(|at| (start + at) as i32));
        start += look.ids.len();
    }
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), device);
    let rows = Tensor::<1, Int>::from_ints(rows.as_slice(), device);
    let layers = decoder.residual_stream(ids, &Sequences::new(lengths), rows);
    let values = layers.into_iter().map(|layer| {
        let values = layer.try_into_vec_as::<f32>();
        values.map_err(|error| ModelError::Execution(error.to_string()).into())
    });
    values.collect()
}

impl Pair {
    /// A row behind its answer and behind its correction; `None` when nothing is to be learned from it.
    pub(super) fn of(corrector: &Corrector<DecoderLm>, row: &Record) -> Result<Option<Self>> {
        let Some(correction) = row.correction.as_deref() else {
            return Ok(None);
        };
        let (tokenizer, template, model) = (corrector.tokenizer(), corrector.template(), corrector.model());
        let target = |text: &str| {
            let mut ids = tokenizer.encode_target(text)?;
            ids.push(tokenizer.eos_id());
            Ok::<_, InferError>(ids)
        };
        let prompt =
            |answer: &str| tokenizer.encode_prompt(template, &row.question, answer, &row.chat_history);
        let pair = Self {
            answer_prompt: prompt(&row.answer)?,
            copy_prompt: prompt(correction)?,
            copy: target(&row.answer)?,
            correction: target(correction)?,
        };
        let fits = pair.fits(model.max_positions(), model.vocab_size());
        Ok((fits && pair.copy != pair.correction).then_some(pair))
    }

    fn fits(&self, max_positions: usize, vocab_size: usize) -> bool {
        let prompts = [&self.answer_prompt, &self.copy_prompt];
        let longest = self.copy.len().max(self.correction.len());
        let has_room = |ids: &&Vec<u32>| !ids.is_empty() && ids.len() + longest <= max_positions;
        let mut ids = prompts
            .into_iter()
            .chain([&self.copy, &self.correction])
            .flatten();
        prompts.iter().all(has_room) && ids.all(|&id| (id as usize) < vocab_size)
    }
}
