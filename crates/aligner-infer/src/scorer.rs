//! Scores of answers by a reward or cost model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aligner_data::{ChatFormat, Tokenizer};
use aligner_model::{
    DeviceSpec, RuntimeWeights, ScoreKind, ScoreModel, WeightsCache, load_score_dir_quantized, on_pool,
};
use burn::tensor::Device;

use crate::corrector::Input;
use crate::error::{InferError, Result};

/// Tokens of a pass through the model: more are cut into several, so that a large batch takes no more memory.
const PASS_TOKENS: usize = 4096;

/// Scores answers with one reward or cost model; cheap to clone, usable from many threads.
///
/// The conversation is written as the model was trained: as [`ChatFormat::of`] finds recorded or told.
///
/// ```no_run
/// use aligner_infer::{Input, Scorer};
///
/// let scorer = Scorer::open("models/reward")?;
/// let score = scorer.score(Input::new("Is the earth flat?", "No, it is round."))?;
/// println!("{} {score}", scorer.kind());
/// # Ok::<(), aligner_infer::InferError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Scorer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    model: ScoreModel,
    tokenizer: Tokenizer,
    chat: ChatFormat,
    device: Device,
}

/// Opens a [`Scorer`] that differs from the default.
#[derive(Debug, Clone)]
pub struct ScorerBuilder {
    dir: PathBuf,
    device: DeviceSpec,
    weights: RuntimeWeights,
    cache: WeightsCache,
    chat: Option<ChatFormat>,
}

impl ScorerBuilder {
    /// Runs on this device instead of the CPU.
    #[must_use]
    pub fn device(self, device: DeviceSpec) -> Self {
        Self { device, ..self }
    }

    /// Holds the weights in fewer bits than f32, which is smaller and faster on the CPU.
    #[must_use]
    pub fn weights(self, weights: RuntimeWeights) -> Self {
        Self { weights, ..self }
    }

    /// Where such weights are kept for the next start, instead of beside the model.
    #[must_use]
    pub fn weights_cache(self, cache: WeightsCache) -> Self {
        Self { cache, ..self }
    }

    /// Writes conversations so, whatever chat template lies beside the model.
    #[must_use]
    pub fn chat(self, format: ChatFormat) -> Self {
        Self {
            chat: Some(format),
            ..self
        }
    }

    /// Reads the model.
    ///
    /// # Errors
    /// When a file is missing or damaged, the model is one that writes or gives more than one score, its chat template is not
    /// known, or the device is not there or does not take such weights.
    pub fn build(self) -> Result<Scorer> {
        let Self {
            dir,
            device: place,
            weights,
            cache,
            chat,
        } = self;
        if weights != RuntimeWeights::F32 && place != DeviceSpec::Cpu {
            return Err(InferError::WeightsOfDevice {
                weights,
                device: place,
            });
        }
        let tokenizer = Tokenizer::from_dir(&dir)?;
        // Before the weights are read, which takes a while.
        let chat = match chat {
            Some(chat) => chat,
            None => ChatFormat::of(&tokenizer)?,
        };
        let device = place.open()?;
        let model = ScoreModel::new(load_score_dir_quantized(&dir, weights, &cache, &device)?)?;
        let outputs = model.head().outputs;
        if outputs != 1 {
            return Err(InferError::ManyScores {
                model: dir.display().to_string(),
                outputs,
            });
        }
        Ok(Scorer {
            inner: Arc::new(Inner {
                model,
                tokenizer,
                chat,
                device,
            }),
        })
    }
}

impl Scorer {
    /// Opens the directory of a reward or cost model on the CPU: transformers' `…ForSequenceClassification` with one label, or
    /// Safe-RLHF's `…ForScore`.
    ///
    /// # Errors
    /// As [`ScorerBuilder::build`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder(dir).build()
    }

    /// Opens it otherwise.
    pub fn builder(dir: impl AsRef<Path>) -> ScorerBuilder {
        ScorerBuilder {
            dir: dir.as_ref().to_path_buf(),
            device: DeviceSpec::Cpu,
            weights: RuntimeWeights::F32,
            cache: WeightsCache::BesideModel,
            chat: None,
        }
    }

    /// What the scores are of: of a reward higher is better, of a cost higher is worse.
    pub fn kind(&self) -> ScoreKind {
        self.inner.model.head().kind
    }

    /// How conversations are written for the model.
    pub fn chat(&self) -> &ChatFormat {
        &self.inner.chat
    }

    /// The score of an answer.
    ///
    /// # Errors
    /// When the conversation is longer than the context, the tokenizer fails on it, or the score is not a number.
    pub fn score(&self, input: Input<'_>) -> Result<f64> {
        let ids = self.encode(input)?;
        let scores = self.pass(&[&ids])?;
        scores.first().copied().ok_or(InferError::EmptyPrompt)
    }

    /// The scores of several answers, in their order; on the CPU each is, to the last bit, that of its answer alone.
    ///
    /// # Errors
    /// As [`score`](Self::score), of the first answer that has none.
    pub fn score_batch(&self, inputs: &[Input<'_>]) -> Result<Vec<f64>> {
        let encoded: Vec<Vec<u32>> = inputs
            .iter()
            .map(|input| self.encode(*input))
            .collect::<Result<_>>()?;
        let mut scores = Vec::with_capacity(encoded.len());
        let mut rest = encoded.as_slice();
        while !rest.is_empty() {
            let (pass, others) = rest.split_at(rows_of_pass(rest));
            let rows: Vec<&[u32]> = pass.iter().map(Vec::as_slice).collect();
            scores.extend(self.pass(&rows)?);
            rest = others;
        }
        Ok(scores)
    }

    /// The conversation's tokens, which the model knows and has room for.
    fn encode(&self, input: Input<'_>) -> Result<Vec<u32>> {
        let Inner {
            model,
            tokenizer,
            chat,
            ..
        } = &*self.inner;
        let ids = tokenizer.encode_conversation(chat, input.question, input.answer, input.chat_history)?;
        if ids.is_empty() {
            return Err(InferError::EmptyPrompt);
        }
        if ids.len() > model.max_positions() {
            return Err(InferError::ConversationTooLong {
                tokens: ids.len(),
                max_positions: model.max_positions(),
            });
        }
        let vocab_size = model.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            None => Ok(ids),
            // An id beyond the embedding would read memory that is not there.
            Some(&id) => Err(InferError::UnknownToken { id, vocab_size }),
        }
    }

    fn pass(&self, rows: &[&[u32]]) -> Result<Vec<f64>> {
        let model = &self.inner.model;
        // The CPU's operations are shared out by threads of their own.
        let scores = if self.inner.device == Device::flex() {
            model.scores(rows)
        } else {
            on_pool(|| model.scores(rows))
        }?;
        let first = scores.iter().zip(rows).map(|(scores, ids)| {
            let score = scores.first().copied().unwrap_or(f64::NAN);
            match score.is_finite() {
                true => Ok(score),
                false => Err(InferError::BadLogits {
                    position: ids.len() - 1,
                }),
            }
        });
        first.collect()
    }
}

/// How many of the first rows go through the model at once: at least one.
fn rows_of_pass(rows: &[Vec<u32>]) -> usize {
    let mut tokens = 0;
    let fit = rows.iter().take_while(|ids| {
        tokens += ids.len();
        tokens <= PASS_TOKENS
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_holds_what_fits_and_at_least_one_row() {
        let rows = |lengths: &[usize]| lengths.iter().map(|&n| vec![0; n]).collect::<Vec<_>>();
        assert_eq!(rows_of_pass(&rows(&[PASS_TOKENS - 1, 1, 1])), 2);
        assert_eq!(rows_of_pass(&rows(&[PASS_TOKENS + 1, 1])), 1);
        assert_eq!(rows_of_pass(&rows(&[3])), 1);
    }

    #[test]
    fn a_scorer_goes_from_thread_to_thread() {
        fn check<T: Send + Sync + Clone + 'static>() {}
        check::<Scorer>();
    }
}
