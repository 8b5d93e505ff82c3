//! The model as burn-train sees it: one item is one optimizer step.

use std::sync::Arc;

use aligner_data::Batch;
use aligner_model::{CausalDecoder, with_dropout_seed};
use burn::module::{Module, ModuleDisplay};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{ExecutionError, Tensor};
use burn_train::metric::{Adaptor, LossInput};
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};

use crate::batches::StepBatch;
use crate::dashboard::{CopyRate, CopyRetention, EditRatio, ExactMatch, GradNorm, TokensPerSecond};
use crate::evaluation::TextMetrics;
use crate::metrics::PairMetrics;
use crate::objective::{Measured, Objective, Unit};

/// A decoder with the objective it is trained for.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct TrainedModel {
    /// The decoder.
    pub decoder: CausalDecoder,
    #[module(skip)]
    objective: Arc<dyn Objective>,
}

impl ModuleDisplay for TrainedModel {}

impl TrainedModel {
    /// What the loss of a step is a mean over.
    pub fn unit(&self) -> Unit {
        self.objective.unit()
    }

    /// Pairs a decoder with an objective.
    pub fn new(decoder: CausalDecoder, objective: Arc<dyn Objective>) -> Self {
        Self { decoder, objective }
    }

    /// Forward and backward of micro-batches, their gradients summed in their order.
    ///
    /// Each loss is divided by the target tokens, or rows, of the *whole step*: the gradient is that of one large batch, however
    /// the rows are cut into micro-batches.
    ///
    /// # Errors
    /// When a loss cannot be read from the device.
    pub(crate) fn gradients(&self, share: &Share) -> Result<ShareOutput, String> {
        let mut accumulator = GradientsAccumulator::new();
        let mut losses = Vec::with_capacity(share.micro_batches.len());
        for (index, micro_batch) in &share.micro_batches {
            let loss = self.loss_sum(micro_batch, share.seed_of(*index));
            let gradients = (loss.clone() * share.scale).backward();
            losses.push(read(loss.inner())?);
            accumulator.accumulate(self, GradientsParams::from_grads(gradients, self));
        }
        Ok(ShareOutput {
            gradients: accumulator.grads(),
            losses,
        })
    }

    /// The loss; with a seed, what an adapter's dropout drops is a function of it.
    fn loss_sum(&self, micro_batch: &Batch, seed: Option<u64>) -> Tensor<1> {
        let loss = || self.objective.loss_sum(&self.decoder, micro_batch);
        match seed {
            Some(seed) => with_dropout_seed(seed, loss),
            None => loss(),
        }
    }

    /// [`TrainStep::step`] with the seed of the step's dropout.
    pub(crate) fn seeded_step(&self, batch: StepBatch, seed: Option<u64>) -> TrainOutput<StepOutput> {
        let mut output = StepOutput::of(&batch, self.unit());
        let grads = match self.gradients(&Share::whole(batch, seed, self.unit())) {
            Ok(share) => {
                output.loss_sum = share.losses.iter().sum();
                share.gradients
            }
            Err(reason) => {
                output.failure = Some(reason);
                GradientsParams::new()
            }
        };
        TrainOutput { grads, item: output }
    }
}

/// Some micro-batches of a step, and what they have to know of the whole.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    /// With their places in the step.
    pub micro_batches: Vec<(usize, Batch)>,
    /// One over what the loss of the whole step is a mean over.
    pub scale: f64,
    /// What dropout drops in the step is a function of it; `None` when nothing is dropped.
    pub seed: Option<u64>,
}

impl Share {
    /// All micro-batches of a step.
    pub fn whole(batch: StepBatch, seed: Option<u64>, unit: Unit) -> Self {
        Self {
            scale: 1.0 / unit.of(&batch).max(1) as f64,
            micro_batches: batch.micro_batches.into_iter().enumerate().collect(),
            seed,
        }
    }

    /// A micro-batch drops the same wherever it is computed.
    fn seed_of(&self, index: usize) -> Option<u64> {
        self.seed.map(|seed| seed.wrapping_add((index as u64) << 32))
    }
}

/// What a [`Share`] gave.
#[derive(Debug)]
pub(crate) struct ShareOutput {
    /// The sum of the gradients.
    pub gradients: GradientsParams,
    /// Sum of the losses of each micro-batch's target tokens, in nats.
    pub losses: Vec<f64>,
}

/// What one step or validation batch gave.
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// Sum of the losses of the target tokens or rows, in nats.
    pub loss_sum: f64,
    /// What the loss is a mean over: target tokens or rows.
    pub units: u64,
    /// Tokens that carry loss.
    pub target_tokens: u64,
    /// Tokens that are not padding.
    pub tokens: u64,
    /// Norm of the gradient; 0 until it is known.
    pub grad_norm: f64,
    /// Speed; 0 until it is known.
    pub tokens_per_second: f64,
    /// What the model writes, with the last batch of a validation that looks.
    pub text: Option<TextMetrics>,
    /// How pairs of answers were told apart, in validation.
    pub pairs: PairCounts,
    /// Why the loss could not be read from the device.
    pub failure: Option<String>,
}

/// Pairs of answers and labelled answers, and how many of them were told right.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairCounts {
    /// Pairs.
    pub pairs: u64,
    /// Those whose chosen answer is ahead.
    pub right: u64,
    /// Sum of how far it is ahead.
    pub margin_sum: f64,
    /// Labelled answers.
    pub labelled: u64,
    /// Those whose cost has the sign of its label.
    pub signed_right: u64,
}

impl PairCounts {
    /// Counts another batch.
    pub fn add(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.right += other.right;
        self.margin_sum += other.margin_sum;
        self.labelled += other.labelled;
        self.signed_right += other.signed_right;
    }

    /// The shares; `None` without pairs.
    pub fn metrics(&self) -> Option<PairMetrics> {
        let share = |right: u64, all: u64| right as f64 / all as f64;
        (self.pairs > 0).then(|| PairMetrics {
            pair_accuracy: share(self.right, self.pairs),
            pair_margin: self.margin_sum / self.pairs as f64,
            sign_accuracy: (self.labelled > 0).then(|| share(self.signed_right, self.labelled)),
        })
    }

    fn read(margins: Option<Tensor<1>>, signed: Option<Tensor<1>>) -> Result<Self, String> {
        let host = |tensor: Option<Tensor<1>>| match tensor {
            Some(tensor) => tensor.try_into_vec_as::<f32>().map_err(|error| error.to_string()),
            None => Ok(Vec::new()),
        };
        let positive = |values: &[f32]| values.iter().filter(|value| **value > 0.0).count() as u64;
        let (margins, signed) = (host(margins)?, host(signed)?);
        Ok(Self {
            pairs: margins.len() as u64,
            right: positive(&margins),
            margin_sum: margins.iter().map(|&margin| f64::from(margin)).sum(),
            labelled: signed.len() as u64,
            signed_right: positive(&signed),
        })
    }
}

impl StepOutput {
    pub(crate) fn of(batch: &StepBatch, unit: Unit) -> Self {
        Self {
            units: unit.of(batch),
            target_tokens: batch.target_tokens,
            tokens: batch.tokens,
            ..Self::default()
        }
    }

    /// Mean loss of a target token, or row, in nats.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.units.max(1) as f64
    }

    fn add(&mut self, measured: Measured) {
        let Measured {
            loss_sum,
            margins,
            signed,
        } = measured;
        match read(loss_sum).and_then(|loss| Ok((loss, PairCounts::read(margins, signed)?))) {
            Ok((loss, pairs)) => {
                self.loss_sum += loss;
                self.pairs.add(&pairs);
            }
            Err(reason) => self.failure = Some(reason),
        }
    }
}

fn read(loss_sum: Tensor<1>) -> Result<f64, String> {
    let value = loss_sum.try_into_scalar::<f32>();
    value.map(f64::from).map_err(|error| error.to_string())
}

impl TrainStep for TrainedModel {
    type Input = StepBatch;
    type Output = StepOutput;

    /// Forward and backward of all micro-batches, without dropout's seed.
    fn step(&self, batch: StepBatch) -> TrainOutput<StepOutput> {
        self.seeded_step(batch, None)
    }
}

impl InferenceStep for TrainedModel {
    type Input = StepBatch;
    type Output = StepOutput;

    fn step(&self, batch: StepBatch) -> StepOutput {
        let mut output = StepOutput::of(&batch, self.unit());
        for micro_batch in &batch.micro_batches {
            output.add(self.objective.measured(&self.decoder, micro_batch));
        }
        output
    }
}

impl ItemLazy for StepOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<LossInput> for StepOutput {
    fn adapt(&self) -> LossInput {
        LossInput::new(Tensor::from_floats(
            [self.loss() as f32],
            &burn::tensor::Device::flex(),
        ))
    }
}

impl Adaptor<GradNorm> for StepOutput {
    fn adapt(&self) -> GradNorm {
        GradNorm(self.grad_norm)
    }
}

impl Adaptor<TokensPerSecond> for StepOutput {
    fn adapt(&self) -> TokensPerSecond {
        TokensPerSecond(self.tokens_per_second)
    }
}

macro_rules! adapt_text {
    ($($measure:ident: $field:ident),+) => {$(
        impl Adaptor<$measure> for StepOutput {
            fn adapt(&self) -> $measure {
                $measure(self.text.map(|text| text.$field))
            }
        }
    )+};
}
adapt_text!(ExactMatch: exact_match, CopyRate: copy_rate, EditRatio: edit_ratio, CopyRetention: copy_retention);
