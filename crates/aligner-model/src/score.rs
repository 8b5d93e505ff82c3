//! Scores of whole sequences: the head of reward and cost models.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::config::{ModelConfig, ScoreConfig};
use crate::decoder::{CachedRun, CausalDecoder};
use crate::error::{ModelError, Result};
use crate::kernels::Sequences;
use crate::nn::{KvCache, Projection, ProjectionWeight};
use crate::weights::{HostTensor, Loaded, new_matrix};

/// A model that scores answers, as it runs.
#[derive(Debug)]
pub struct ScoreModel {
    decoder: CausalDecoder,
    score: ScoreConfig,
    vocab_size: usize,
    max_positions: usize,
}

impl ScoreModel {
    /// The model of a directory that was loaded.
    ///
    /// # Errors
    /// When it is a model that writes.
    pub fn new(loaded: Loaded) -> Result<Self> {
        let Loaded { config, decoder } = loaded;
        match config.score {
            Some(score) => Ok(Self {
                decoder,
                score,
                vocab_size: config.vocab_size,
                max_positions: config.max_positions,
            }),
            None => Err(ModelError::NoScoreModel {
                found: config.architecture,
            }),
        }
    }

    /// What its head is.
    pub fn head(&self) -> &ScoreConfig {
        &self.score
    }

    /// Number of tokens it knows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Tokens the context holds.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// The scores of each sequence, one for each output of the head. On the CPU those of a sequence do not depend, to the last
    /// bit, on the sequences beside it.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When a sequence is empty or longer than the context, or has an id beyond the vocabulary: the caller knows them.
    pub fn scores(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f64>>> {
        if sequences.is_empty() {
            return Ok(Vec::new());
        }
        // No token sees those behind it: what lies behind the one that is scored need not be computed.
        let scored = sequences.iter().map(|ids| &ids[..=self.score.end_of(ids)]);
        let mut caches: Vec<(&[u32], KvCache)> = scored
            .map(|ids| (ids, self.decoder.new_cache(1, ids.len())))
            .collect();
        let mut runs: Vec<CachedRun<'_>> = caches
            .iter_mut()
            .map(|(ids, cache)| CachedRun { ids, cache, keep: 1 })
            .collect();
        let hidden_states = self.decoder.forward_cached(&mut runs);
        let values = self.decoder.score_of_rows(hidden_states).try_into_vec_as::<f32>();
        let values = values.map_err(|error| ModelError::Execution(error.to_string()))?;
        let rows = values.chunks(self.score.outputs);
        Ok(rows.map(|row| self.score.normalized(row)).collect())
    }
}

impl CausalDecoder {
    /// The decoder of a model that writes with a new head that scores, as `config` describes it, in place of the output
    /// projection: normal with the configuration's deviation, the same for the same seed.
    #[must_use]
    pub fn with_new_score(mut self, config: &ModelConfig, seed: u64, device: &Device) -> Self {
        let Some(score) = &config.score else {
            return self;
        };
        let HostTensor { shape, values } = new_matrix(
            seed,
            "score.weight",
            [score.outputs, config.hidden_size],
            config.initializer_range,
        )
        .transposed();
        let weight = Tensor::<2>::from_data(TensorData::new(values, shape), device);
        let weight = if device.is_autodiff() {
            weight.require_grad()
        } else {
            weight
        };
        self.lm_head = None;
        self.score = Some(Projection {
            weight: ProjectionWeight::Dense(Param::initialized(ParamId::new(), weight)),
            bias: None,
            lora: None,
        });
        self
    }

    /// Scores of hidden states, not normalised.
    ///
    /// # Shapes
    /// - `rows`: `[rows, hidden_size]`
    /// - output: `[rows, outputs]`
    ///
    /// # Panics
    /// When the decoder is one of a model that writes, which the caller knows.
    pub fn score_of_rows(&self, rows: Tensor<2>) -> Tensor<2> {
        match &self.score {
            Some(head) => head.forward(rows),
            None => unreachable!("a decoder without a score head was asked for scores"),
        }
    }

    /// Scores of sequences that lie one behind the other, each at one of its tokens, not normalised.
    ///
    /// # Shapes
    /// - `ids`: `[tokens]`, those of all `sequences`
    /// - `ends`: positions among them, such as each sequence's last
    /// - output: `[ends, outputs]`
    ///
    /// # Panics
    /// When the lengths do not add up to `tokens`, or the decoder is one of a model that writes.
    pub fn scores_at(&self, ids: Tensor<1, Int>, sequences: &Sequences, ends: &[u32]) -> Tensor<2> {
        let ends: Vec<i32> = ends.iter().map(|&end| end as i32).collect();
        let rows = Tensor::<1, Int>::from_ints(ends.as_slice(), &ids.device());
        let hidden_states = self.packed_rows(ids, sequences, Some(rows));
        self.score_of_rows(hidden_states)
    }
}
