//! A few layers with new weights, trained on rows of nothing in particular.

use std::sync::Arc;
use std::time::Instant;

use aligner_data::{Batch, Cursor, Example};
use aligner_model::{CausalDecoder, LoraAdapter, ModelConfig, on_pool};
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use burn_train::TrainStep;

use crate::batches::StepBatch;
use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::learner::TrainedModel;
use crate::memory_plan::{MemoryChoices, layer_matrices};
use crate::objective::Sft;
use crate::optimizer::{AdamW, gradient_norm};

/// Multiplications and additions of one pass that a probe may take: seconds on a processor.
const MOST_FLOP: f64 = 8e11;
/// Tokens beyond which no product gets faster.
const MOST_TOKENS: usize = 2048;
/// A pass is repeated, and the fastest counts, for at most so long.
const REPEAT_SECONDS: f64 = 2.5;
const SEED: u64 = 1;

/// How much is computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub rows: usize,
    pub length: usize,
    /// Layers of the smaller model: none where something else is trained, too.
    pub shallow: usize,
    /// Layers of the larger model.
    pub deep: usize,
}

impl Sizes {
    pub fn of(config: &ModelConfig, choices: &MemoryChoices) -> Self {
        let of_layer = 6.0 * layer_matrices(config) / config.layers.max(1) as f64;
        let head = 6.0 * config.vocab_size as f64 * config.hidden_size as f64;
        let affordable = (MOST_FLOP / (of_layer + head)) as usize;
        let tokens = affordable.clamp(64, MOST_TOKENS);
        let length = choices.max_length.min(tokens).max(2);
        let rows = (tokens / length).clamp(1, choices.micro_batch.max(1));
        let more = (MOST_FLOP / (of_layer * (rows * length) as f64)) as usize;
        let shallow = usize::from(choices.lora.is_some());
        Self {
            rows,
            length,
            shallow,
            deep: shallow + more.clamp(1, 4),
        }
    }

    /// Target tokens of a row: those of a short correction.
    pub fn few_targets(&self) -> usize {
        (self.length / 8).max(1)
    }

    /// Target tokens of a row without a prompt.
    pub fn all_targets(&self) -> usize {
        self.length - 1
    }

    /// How much more a token costs in rows of full length than in the probe's: the attention of a token grows with the tokens
    /// before it, twice forward and five times backward.
    pub fn longer_rows(&self, config: &ModelConfig, choices: &MemoryChoices) -> f64 {
        let matrices = 6.0 * layer_matrices(config) / config.layers.max(1) as f64;
        let queries = (config.heads * config.head_dim) as f64;
        let of_token = |length: usize| matrices + 7.0 * length as f64 * queries;
        of_token(choices.max_length) / of_token(self.length)
    }
}

/// The model with another number of layers, each as one that it has.
pub(super) fn with_layers(config: &ModelConfig, layers: usize) -> ModelConfig {
    let mut config = config.clone();
    config.layer_kinds = config.layer_kinds.iter().copied().cycle().take(layers).collect();
    config.layers = layers;
    config
}

/// A model that is ready to be trained.
pub(super) struct Probe {
    model: TrainedModel,
    device: Device,
    vocab_size: usize,
    trained: usize,
}

impl Probe {
    pub fn new(
        config: &ModelConfig,
        choices: &MemoryChoices,
        layers: usize,
        device: &Device,
    ) -> Result<Self> {
        let mut with_gradients = device.clone().autodiff();
        if choices.checkpointing {
            with_gradients = with_gradients.gradient_checkpointing();
        }
        let mut decoder = CausalDecoder::random(&with_layers(config, layers), SEED, &with_gradients)?;
        let mut trained = decoder.num_params();
        if let Some(lora) = &choices.lora {
            let adapter = LoraAdapter::new(lora, &decoder, SEED)?;
            decoder = decoder.frozen_with_adapter(&adapter)?;
            trained = decoder.adapter_parameters();
        }
        let decoder = decoder
            .with_recompute(choices.checkpointing)
            .with_precision(choices.precision);
        Ok(Self {
            model: TrainedModel::new(decoder, Arc::new(Sft)),
            device: device.clone(),
            vocab_size: config.vocab_size,
            trained,
        })
    }

    /// Seconds of a micro-batch, forward and backward, with so many target tokens in each row.
    pub fn seconds(&self, sizes: &Sizes, targets: usize) -> Result<f64> {
        fastest(|| {
            let started = Instant::now();
            self.gradients(sizes, targets)?;
            Ok(started.elapsed().as_secs_f64())
        })
    }

    /// Seconds of the gradients' norm and an update, and how many weights it updates.
    pub fn update_seconds(self, sizes: &Sizes) -> Result<(f64, usize)> {
        let trained = self.trained;
        let mut optimizer = AdamW::new(TrainConfig::default().adamw());
        optimizer.prepare(&self.model);
        let mut probe = Some(self);
        let seconds = fastest(|| {
            let Some(held) = probe.take() else {
                return Ok(0.0);
            };
            let gradients = held.gradients(sizes, 1)?;
            let started = Instant::now();
            gradient_norm(&held.model, &gradients).map_err(TrainError::Probe)?;
            let model = on_pool(|| optimizer.step(held.model, gradients, 1e-5, 1.0));
            held.device
                .sync()
                .map_err(|error| TrainError::Probe(error.to_string()))?;
            let seconds = started.elapsed().as_secs_f64();
            probe = Some(Self { model, ..held });
            Ok(seconds)
        })?;
        Ok((seconds, trained))
    }

    fn gradients(&self, sizes: &Sizes, targets: usize) -> Result<GradientsParams> {
        let ids: Vec<u32> = (0..sizes.length)
            .map(|index| (index * 7919 % self.vocab_size.max(1)) as u32)
            .collect();
        let batch = Batch::new((0..sizes.rows).map(|_| Example {
            ids: &ids,
            prompt_len: sizes.length - targets,
        }));
        let step = StepBatch {
            target_tokens: batch.target_tokens() as u64,
            tokens: batch.tokens() as u64,
            rows: sizes.rows as u64,
            micro_batches: vec![batch],
            start: Cursor::default(),
            end: Cursor::default(),
        };
        let computed = on_pool(|| TrainStep::step(&self.model, step));
        if let Some(reason) = computed.item.failure {
            return Err(TrainError::Probe(reason));
        }
        self.device
            .sync()
            .map_err(|error| TrainError::Probe(error.to_string()))?;
        Ok(computed.grads)
    }
}

/// The fastest of a few runs: the first one finds no memory that it could use again.
fn fastest(mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    let started = Instant::now();
    let mut best = run()?;
    for _ in 0..3 {
        if started.elapsed().as_secs_f64() > REPEAT_SECONDS {
            break;
        }
        best = run()?.min(best);
    }
    Ok(best)
}
