//! The training loop: from a batch to a better model, a line of metrics, and now and then a checkpoint.

mod validation;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aligner_data::Cursor;
use aligner_model::on_pool;
use aligner_model::weights::named_parameters;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use burn_train::{Interrupter, TrainOutput};

use crate::batches::StepBatch;
use crate::checkpoint::{Best, CheckpointStore, RunState};
use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::evaluation::Evaluation;
use crate::learner::{StepOutput, TrainedModel};
use crate::metrics::{Split, StepRecord, peak_rss_bytes};
use crate::optimizer::{AdamW, gradient_norm};
use crate::plan::{Plan, StagePlan};
use crate::records::Records;
use crate::run_dir::RunDir;
use crate::saver::ModelSaver;
use crate::workers::Workers;

/// Name of the optimizer's moments in a checkpoint.
pub(crate) const MOMENTS: &str = "optimizer.safetensors";

/// Something worth telling during a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Rows are being tokenised; told every two seconds, for what takes so long.
    Tokenising {
        /// Rows so far.
        rows: u64,
        /// Tokens so far.
        tokens: u64,
        /// Time since the beginning.
        seconds: f64,
    },
    /// A file that rows are drawn from by weight; one event for each, before `Started`.
    Source {
        /// The file.
        path: &'a Path,
        /// Its rows.
        rows: u64,
        /// Its share of the rows that are drawn, in 0..1.
        share: f64,
    },
    /// The data are read and the first step is about to begin.
    Started {
        /// Steps already done, by the run that is resumed.
        done: u64,
        /// Steps of the whole run.
        total_steps: u64,
        /// What is trained, stage after stage.
        plan: &'a Plan,
        /// Training rows.
        rows: usize,
        /// Tokens of the training rows.
        tokens: usize,
        /// Rows that were left out.
        skipped: u64,
        /// Weights of the model, an adapter's included.
        parameters: usize,
        /// Those that are trained.
        trained_parameters: usize,
    },
    /// The first step of a stage is about to begin.
    StageStarted(&'a StagePlan),
    /// A damaged checkpoint was passed over.
    DamagedCheckpoint(&'a str),
    /// A step or a validation is done.
    Recorded(&'a StepRecord),
    /// A checkpoint was saved.
    Saved(&'a Path),
}

/// Is told what happens during a run.
pub trait Observer: Send {
    /// Takes an event.
    fn on_event(&mut self, event: &Event<'_>);
}

impl<F: FnMut(&Event<'_>) + Send> Observer for F {
    fn on_event(&mut self, event: &Event<'_>) {
        self(event);
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// Validation stopped gaining.
    StoppedEarly,
    /// It was asked to stop; it can be resumed.
    Interrupted,
}

/// What a run gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// Optimizer steps done.
    pub steps: u64,
    /// The run directory.
    pub run: PathBuf,
    /// The model: `final/`, or the last checkpoint of a run that was interrupted.
    pub model_dir: PathBuf,
    /// The best validation.
    pub best: Option<Best>,
}

/// The parts of a run that change while it goes on, and the fixed ones they need.
pub(crate) struct Session {
    pub config: TrainConfig,
    pub run: RunDir,
    pub state: RunState,
    pub plan: Plan,
    pub optimizer: AdamW,
    pub store: CheckpointStore,
    pub log: Records,
    pub saver: ModelSaver,
    pub observer: Option<Box<dyn Observer>>,
    pub interrupter: Interrupter,
    /// The device of weights and moments, and its name in messages.
    pub device: Device,
    pub device_name: String,
    /// Of a run on several devices.
    pub workers: Option<Workers>,
    /// What the model writes at each validation, where somebody looks.
    pub evaluation: Option<Evaluation>,
    /// Whether it goes on from a checkpoint.
    pub is_resumed: bool,
    /// Step of the newest checkpoint that is as the run is now.
    pub saved_step: Option<u64>,
}

/// The dashboard's view of the loop.
pub(crate) trait Screen {
    fn trained(&mut self, output: StepOutput, record: &StepRecord);
    fn validating(&mut self, batches: usize);
    fn validated_batch(&mut self, output: StepOutput, done: usize, total: usize);
    fn validated(&mut self);
}

impl Session {
    /// Goes from where the run stands to its end; the model comes back whatever happens.
    pub fn run(
        &mut self,
        mut model: TrainedModel,
        mut train: impl Iterator<Item = Result<StepBatch>>,
        valid: &[StepBatch],
        screen: &mut dyn Screen,
    ) -> (TrainedModel, Result<Outcome>) {
        if let Err(error) = self.begin(&model, valid, screen) {
            return (model, Err(error));
        }
        let ending = loop {
            if self.stopped_gaining() {
                break Ending::StoppedEarly;
            }
            let asked = Instant::now();
            let batch = match train.next() {
                None => break Ending::Finished,
                Some(Ok(batch)) => batch,
                Some(Err(error)) => {
                    let saved = self.save(&model);
                    return (model, saved.and(Err(error)));
                }
            };
            let waited = asked.elapsed();
            if self.interrupter.should_stop() {
                break Ending::Interrupted;
            }
            let stepped;
            (model, stepped) = self.step(model, batch, waited, screen);
            if let Err(error) = stepped.and_then(|()| self.after_step(&model, valid, screen)) {
                return (model, Err(error));
            }
        };
        let outcome = self.finish(&model, ending);
        (model, outcome)
    }

    /// A new run looks at the model as it is; one that goes on otherwise than its checkpoint says has it written anew, so that
    /// it can be resumed as it is now.
    fn begin(&mut self, model: &TrainedModel, valid: &[StepBatch], screen: &mut dyn Screen) -> Result<()> {
        if !self.is_resumed {
            return match valid.is_empty() {
                true => Ok(()),
                false => self.validate(model, valid, screen),
            };
        }
        self.save(model).map(drop)
    }

    /// Whether validation has not gained for as long as the run is to wait; a run whose steps are all done has not.
    fn stopped_gaining(&self) -> bool {
        let patience = self.config.patience;
        let is_last = self.state.step == self.state.total_steps;
        patience > 0 && self.state.validations_without_gain >= patience && !is_last
    }

    fn step(
        &mut self,
        model: TrainedModel,
        batch: StepBatch,
        waited: Duration,
        screen: &mut dyn Screen,
    ) -> (TrainedModel, Result<()>) {
        let started = Instant::now();
        let end = batch.end;
        self.announce_stage();
        let (gradients, mut output) = match self.gradients(&model, batch) {
            Ok(computed) => computed,
            Err(error) => return (model, Err(error)),
        };
        let place = self.plan.at(self.state.step);
        let lr = place.stage.schedule.rate(place.done);
        let model = self.update(model, gradients, lr, output.grad_norm);
        let seconds = started.elapsed().as_secs_f64();
        self.state.step += 1;
        self.state.cursor = end;
        self.state.tokens += output.tokens;
        self.state.seconds += seconds;
        output.tokens_per_second = output.tokens as f64 / seconds.max(1e-9);
        let record = StepRecord {
            lr: Some(lr),
            grad_norm: Some(output.grad_norm),
            data_wait_seconds: Some(waited.as_secs_f64()),
            ..self.record(Split::Train, &output, seconds)
        };
        let told = self.tell(&record);
        screen.trained(output, &record);
        (model, told)
    }

    /// Forward and backward; a loss or gradient that is not finite saves the state before this step and is an error.
    fn gradients(&mut self, model: &TrainedModel, batch: StepBatch) -> Result<(GradientsParams, StepOutput)> {
        let (start, rows, step) = (batch.start, batch.rows, self.state.step + 1);
        let TrainOutput {
            grads: gradients,
            item: mut output,
        } = self.compute(model, batch, step)?;
        if let Some(reason) = output.failure.take() {
            return Err(self.device_failed(step, reason));
        }
        output.grad_norm =
            gradient_norm(model, &gradients).map_err(|reason| self.device_failed(step, reason))?;
        for (quantity, value) in [("loss", output.loss()), ("gradient norm", output.grad_norm)] {
            if !value.is_finite() {
                self.save(model)?;
                let (epoch, first_row) = (start.epoch, start.position);
                return Err(TrainError::NotFinite {
                    quantity,
                    step,
                    value,
                    epoch,
                    first_row,
                    rows,
                });
            }
        }
        Ok((gradients, output))
    }

    /// The step's micro-batches on the run's device or devices.
    fn compute(
        &mut self,
        model: &TrainedModel,
        batch: StepBatch,
        step: u64,
    ) -> Result<TrainOutput<StepOutput>> {
        // What is dropped is a function of seed and step, so that a resumed run drops the same.
        let seed = self
            .saver
            .has_dropout()
            .then(|| self.state.seed.wrapping_add(step));
        let Some(workers) = &self.workers else {
            return Ok(on_pool(|| model.seeded_step(batch, seed)));
        };
        workers.step(model, batch, seed).map_err(|failure| {
            // The weights are still those before this step.
            if let Err(error) = self.save(model) {
                tracing::warn!("the state before step {step} could not be saved: {error}");
            }
            TrainError::Device {
                device: failure.device,
                step,
                reason: failure.reason,
            }
        })
    }

    fn device_failed(&self, step: u64, reason: String) -> TrainError {
        TrainError::Device {
            device: self.device_name.clone(),
            step,
            reason,
        }
    }

    /// Validation and checkpoint where they are due.
    fn after_step(
        &mut self,
        model: &TrainedModel,
        valid: &[StepBatch],
        screen: &mut dyn Screen,
    ) -> Result<()> {
        let is_last = self.state.step == self.state.total_steps;
        let ends_stage = self.plan.ends_stage(self.state.step);
        if !valid.is_empty() && (is_due(self.state.step, self.config.eval_every) || ends_stage) {
            self.validate(model, valid, screen)?;
        }
        if ends_stage && !is_last {
            self.enter_next_stage(model);
        }
        // A run that ends is saved by its end.
        if !self.stopped_gaining() && is_due(self.state.step, self.config.save_every) {
            self.save(model)?;
        }
        Ok(())
    }

    /// The next stage begins as a run of its own would: at its first row, without the moments of the stage before.
    ///
    /// Copying is soon learned, and leaves second moments of almost nothing; carried over, they would make the first steps
    /// of the correction many times as large as its rate says.
    fn enter_next_stage(&mut self, model: &TrainedModel) {
        self.state.stage = self.plan.at(self.state.step).stage.kind;
        self.state.cursor = Cursor::default();
        self.optimizer.reset(model);
    }

    fn announce_stage(&mut self) {
        let place = self.plan.at(self.state.step);
        if place.done == 0
            && let Some(observer) = &mut self.observer
        {
            observer.on_event(&Event::StageStarted(place.stage));
        }
    }

    fn finish(&mut self, model: &TrainedModel, ending: Ending) -> Result<Outcome> {
        let checkpoint = self.save(model)?;
        let model_dir = if ending == Ending::Interrupted {
            checkpoint
        } else {
            self.saver
                .save(&self.run.finished(), &model.decoder, &self.plan, self.state.step)?;
            self.run.finished()
        };
        Ok(Outcome {
            ending,
            steps: self.state.step,
            run: self.run.root().to_path_buf(),
            model_dir,
            best: self.state.best,
        })
    }

    fn update(
        &mut self,
        model: TrainedModel,
        gradients: GradientsParams,
        lr: f64,
        grad_norm: f64,
    ) -> TrainedModel {
        let limit = self.config.max_grad_norm;
        // torch.nn.utils.clip_grad_norm_: limit / (norm + 1e-6), at most 1.
        let scale = if limit > 0.0 {
            (limit / (grad_norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        on_pool(|| self.optimizer.step(model, gradients, lr, scale))
    }

    fn record(&self, split: Split, output: &StepOutput, seconds: f64) -> StepRecord {
        let cursor = self.state.cursor;
        let stage = self.plan.stage_of(self.state.step);
        StepRecord {
            step: self.state.step,
            epoch: cursor.epoch as f64 + cursor.position as f64 / stage.rows.max(1) as f64,
            split,
            stage: stage.kind,
            loss: output.loss(),
            lr: None,
            grad_norm: None,
            tokens: output.tokens,
            target_tokens: output.target_tokens,
            tokens_per_second: output.tokens as f64 / seconds.max(1e-9),
            seconds,
            data_wait_seconds: None,
            peak_rss_bytes: peak_rss_bytes(),
            text: None,
            pairs: None,
        }
    }

    fn tell(&mut self, record: &StepRecord) -> Result<()> {
        self.log.append(record)?;
        self.state.metrics_bytes = self.log.bytes();
        self.event(&Event::Recorded(record));
        Ok(())
    }

    fn event(&mut self, event: &Event<'_>) {
        if let Some(observer) = &mut self.observer {
            observer.on_event(event);
        }
    }

    /// Saves a checkpoint unless this step has one.
    fn save(&mut self, model: &TrainedModel) -> Result<PathBuf> {
        let place = self.store.dir().join(format!("step-{:08}", self.state.step));
        if self.saved_step == Some(self.state.step) {
            return Ok(place);
        }
        self.log.sync()?;
        if let Some(evaluation) = &self.evaluation {
            evaluation.sync()?;
        }
        let names = named_parameters(&model.decoder);
        let place = self.store.save(&self.state, |dir| {
            self.saver
                .fill(dir, &model.decoder, &self.plan, self.state.step)?;
            Ok(self.optimizer.save(&names, &dir.join(MOMENTS))?)
        })?;
        self.saved_step = Some(self.state.step);
        self.event(&Event::Saved(&place));
        Ok(place)
    }
}

fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
