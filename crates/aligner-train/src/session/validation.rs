//! Validation: the loss of held-out rows, what the model writes, and whether that is the best so far.

use std::time::Instant;

use aligner_model::Loaded;
use burn::module::Module;
use burn_train::InferenceStep;

use super::{Screen, Session};
use crate::batches::StepBatch;
use crate::checkpoint::Best;
use crate::error::Result;
use crate::evaluation::{ModelInMemory, TextMetrics};
use crate::learner::{StepOutput, TrainedModel};
use crate::metrics::{Split, StepRecord};

impl Session {
    /// Computes the validation rows, lets the model write, and chooses the best.
    pub(super) fn validate(
        &mut self,
        model: &TrainedModel,
        valid: &[StepBatch],
        screen: &mut dyn Screen,
    ) -> Result<()> {
        let started = Instant::now();
        let model = model.valid();
        let mut sum = StepOutput::default();
        let mut last = None;
        screen.validating(valid.len());
        for (index, batch) in valid.iter().enumerate() {
            let mut output = InferenceStep::step(&model, batch.clone());
            if let Some(reason) = output.failure.take() {
                return Err(self.device_failed(self.state.step, reason));
            }
            sum.loss_sum += output.loss_sum;
            sum.tokens += output.tokens;
            sum.units += output.units;
            sum.target_tokens += output.target_tokens;
            sum.pairs.add(&output.pairs);
            if let Some(output) = last.replace(output) {
                screen.validated_batch(output, index, valid.len());
            }
        }
        let record = self.record(Split::Valid, &sum, started.elapsed().as_secs_f64());
        let text = self.evaluate(&model)?;
        // burn-train's metrics are told of batches alone: what the model writes comes with the last one.
        if let Some(output) = last {
            screen.validated_batch(StepOutput { text, ..output }, valid.len(), valid.len());
        }
        screen.validated();
        let record = StepRecord {
            text,
            pairs: sum.pairs.metrics(),
            ..record
        };
        self.tell(&record)?;
        self.judge(&record, &model)
    }

    /// What the model writes on the sample.
    fn evaluate(&mut self, model: &TrainedModel) -> Result<Option<TextMetrics>> {
        let Some(evaluation) = &mut self.evaluation else {
            return Ok(None);
        };
        let stage = self.plan.stage_of(self.state.step).kind;
        let model = ModelInMemory {
            loaded: Loaded {
                config: self.saver.form.config.clone(),
                decoder: model.decoder.clone(),
            },
            device: self.device.clone(),
            tokenizer: self.saver.tokenizer.clone(),
            template: self.saver.manifest.template.clone(),
        };
        evaluation.run(model, stage, &mut self.state)
    }

    /// Whether a validation is the best so far. The stages before the last one choose none: the model that they end with,
    /// like that of step 0, is what the last one has to beat, and is not kept.
    fn judge(&mut self, record: &StepRecord, model: &TrainedModel) -> Result<()> {
        let step = self.state.step;
        if !self.plan.in_last_stage(step) {
            return Ok(());
        }
        let this = Best {
            step,
            loss: record.loss,
            exact_match: record.text.map(|text| text.exact_match),
        };
        let by = self.config.best_by;
        if self.state.best.is_some_and(|best| !this.beats(&best, by)) {
            self.state.validations_without_gain += 1;
            return Ok(());
        }
        self.state.best = Some(this);
        self.state.validations_without_gain = 0;
        if self.plan.at(step).done > 0 {
            self.saver
                .save(&self.run.best(), &model.decoder, &self.plan, step)?;
        }
        Ok(())
    }
}
