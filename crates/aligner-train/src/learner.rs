//! The model as burn-train sees it: one item is one optimizer step.

use std::sync::Arc;

use aligner_model::CausalDecoder;
use burn::module::{Module, ModuleDisplay};
use burn::optim::GradientsAccumulator;
use burn::tensor::{ExecutionError, Tensor};
use burn_train::metric::{Adaptor, LossInput};
use burn_train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};

use crate::batches::StepBatch;
use crate::dashboard::{GradNorm, TokensPerSecond};
use crate::objective::Objective;

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
    /// Pairs a decoder with an objective.
    pub fn new(decoder: CausalDecoder, objective: Arc<dyn Objective>) -> Self {
        Self { decoder, objective }
    }
}

/// What one step or validation batch gave.
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// Sum of the losses of the target tokens, in nats.
    pub loss_sum: f64,
    /// Tokens that carry loss.
    pub target_tokens: u64,
    /// Tokens that are not padding.
    pub tokens: u64,
    /// Norm of the gradient; 0 until it is known.
    pub grad_norm: f64,
    /// Speed; 0 until it is known.
    pub tokens_per_second: f64,
    /// Why the loss could not be read from the device.
    pub failure: Option<String>,
}

impl StepOutput {
    fn of(batch: &StepBatch) -> Self {
        Self {
            target_tokens: batch.target_tokens,
            tokens: batch.tokens,
            ..Self::default()
        }
    }

    /// Mean loss of a target token, in nats.
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.target_tokens.max(1) as f64
    }

    fn add(&mut self, loss_sum: Tensor<1>) {
        match loss_sum.try_into_scalar::<f32>() {
            Ok(value) => self.loss_sum += f64::from(value),
            Err(error) => self.failure = Some(error.to_string()),
        }
    }
}

impl TrainStep for TrainedModel {
    type Input = StepBatch;
    type Output = StepOutput;

    /// Forward and backward of all micro-batches.
    ///
    /// Each loss is divided by the target tokens of the *whole step*: the gradient is that of one large batch, however
    /// the rows are cut into micro-batches.
    fn step(&self, batch: StepBatch) -> TrainOutput<StepOutput> {
        let mut output = StepOutput::of(&batch);
        let scale = 1.0 / batch.target_tokens.max(1) as f64;
        let mut accumulator = GradientsAccumulator::new();
        for micro_batch in &batch.micro_batches {
            let loss = self.objective.loss_sum(&self.decoder, micro_batch);
            let gradients = (loss.clone() * scale).backward();
            output.add(loss.inner());
            let gradients = burn::optim::GradientsParams::from_grads(gradients, self);
            accumulator.accumulate(self, gradients);
        }
        TrainOutput {
            grads: accumulator.grads(),
            item: output,
        }
    }
}

impl InferenceStep for TrainedModel {
    type Input = StepBatch;
    type Output = StepOutput;

    fn step(&self, batch: StepBatch) -> StepOutput {
        let mut output = StepOutput::of(&batch);
        for micro_batch in &batch.micro_batches {
            output.add(self.objective.loss_sum(&self.decoder, micro_batch));
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
