//! A whole run: from a configuration to a trained model.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use aligner_data::{AlignerManifest, Cursor, Dataset};
use aligner_model::CausalDecoder;
use aligner_model::weights::named_parameters;
use burn::module::Module;
use burn::optim::AdamWConfig as UnusedOptimizer;
use burn::optim::lr_scheduler::constant::ConstantLr;
use burn::tensor::Device;
use burn_train::logger::InMemoryMetricLogger;
use burn_train::metric::{LearningRateMetric, LossMetric};
use burn_train::renderer::MetricsRenderer;
use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};

use crate::batches::{Portions, StepLoader};
use crate::checkpoint::{Checkpoint, CheckpointStore, RunState, recover_dir};
use crate::config::{BestBy, ObjectiveKind, TemplateChoice, TrainConfig, WarmupChoice};
use crate::dashboard::{
    CopyRate, CopyRetention, EditRatio, ExactMatch, GradNorm, NoDashboard, QuantityMetric, TokensPerSecond,
};
use crate::devices::{DeviceList, with_gradients};
use crate::error::{Result, TrainError};
use crate::evaluation::{Evaluation, Evaluator};
use crate::learner::TrainedModel;
use crate::loader::PlanLoader;
use crate::materials::Materials;
use crate::objective::{Cost, Dpo, Objective, Reward, Sft};
use crate::optimizer::AdamW;
use crate::plan::Plan;
use crate::records::Records;
use crate::run_dir::{RunDir, RunLock};
use crate::saver::{ModelSaver, lineage};
use crate::session::{Event, MOMENTS, Observer, Outcome, Session};
use crate::stages::check_rereadable;
use crate::strategy::LanguageModelStrategy;
use crate::trainee::{Form, Start, Trainee};
use crate::workers::Workers;

/// What a run needs besides its configuration.
#[derive(Default)]
pub struct RunOptions {
    /// Draw burn-train's terminal dashboard.
    pub dashboard: bool,
    /// Is told what happens.
    pub observer: Option<Box<dyn Observer>>,
    /// Stops the run: it finishes its step, saves and ends.
    pub interrupter: Interrupter,
    /// Resume on this prompt template, whatever the run was started on: the change is a warning instead of an error, and
    /// the losses that follow are no longer those of an undisturbed run.
    pub template: Option<TemplateChoice>,
    /// Lets the model correct a sample of the validation rows at each validation.
    pub evaluator: Option<Box<dyn Evaluator>>,
    /// Write no event files for TensorBoard, whatever the configuration says.
    pub no_tensorboard: bool,
    /// Resume on these devices, whatever the run was started on; recorded in its configuration.
    pub devices: Option<DeviceList>,
    /// Is given burn-train's metrics instead of its terminal dashboard.
    pub renderer: Option<Box<dyn MetricsRenderer>>,
    /// What is minimised instead of what the configuration says, over the same rows. It is not recorded: a run is resumed with
    /// what it was started with.
    pub objective: Option<Arc<dyn Objective>>,
}

impl std::fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunOptions")
            .field("dashboard", &self.dashboard)
            .finish_non_exhaustive()
    }
}

/// Starts a run in a directory that holds none.
///
/// # Errors
/// When the configuration, the model or the data cannot be used, the directory holds a run already or is in use, or
/// training fails; see [`TrainError`].
pub fn fine_tune(config: &TrainConfig, mut options: RunOptions) -> Result<Outcome> {
    let config = &resolved(config)?;
    let run = RunDir::new(&config.out);
    if run.config().exists() {
        return Err(TrainError::RunExists(config.out.clone()));
    }
    let lock = run.lock()?;
    // Once more: another process may have begun and ended a run since.
    if run.config().exists() {
        return Err(TrainError::RunExists(config.out.clone()));
    }
    let start = Start::of(config)?;
    let materials = Materials::load(config, &start, &mut options.observer)?;
    if config.objective.corrects() {
        warn_of_other_template(config, &materials)?;
    }
    if options.evaluator.is_some() && looks_at_text(config) {
        check_rereadable("eval_sample", &config.valid)?;
    }
    run.write_config(config)?;
    launch_run(config.clone(), run, lock, (start, materials), None, options)
}

/// The configuration with what the model decides: one that is an Aligner already has learned to copy.
pub(crate) fn resolved(config: &TrainConfig) -> Result<TrainConfig> {
    config.validate()?;
    let mut config = config.clone();
    if !config.objective.corrects() {
        config.warmup.share.get_or_insert(0.0);
    }
    if config.warmup.share.is_none() && config.warmup.data.is_empty() {
        let earlier = AlignerManifest::read(&config.model)?;
        let is_aligner = earlier.is_some_and(|manifest| !manifest.stages.is_empty());
        config.warmup.share = Some(if is_aligner {
            0.0
        } else {
            WarmupChoice::DEFAULT_SHARE
        });
    }
    if !config.warmup.is_on() && config.warmup.is_described() {
        tracing::warn!(
            "this run has no warm-up, so that what is said of it (warmup-steps, -epochs, -lr, -from) changes nothing: an Aligner \
             that is trained further has none unless --warmup-share asks for it"
        );
    }
    Ok(config)
}

/// A model that was an Aligner's on another template loses what it learned.
fn warn_of_other_template(config: &TrainConfig, materials: &Materials) -> Result<()> {
    if let Some(earlier) = AlignerManifest::read(&config.model)?
        && earlier.template_fingerprint != materials.template.fingerprint()
    {
        tracing::warn!(
            "{} was trained on template {:?} ({}), this run trains on {:?} ({})",
            config.model.display(),
            earlier.template.id(),
            earlier.template_fingerprint,
            materials.template.id(),
            materials.template.fingerprint(),
        );
    }
    Ok(())
}

/// Continues the run in `out` from its newest usable checkpoint, or from the beginning when it has none.
///
/// The losses that follow are those of a run that was never stopped, to the last bit on the CPU.
///
/// # Errors
/// When there is no run, all its checkpoints are damaged, or its data or template changed; otherwise as [`fine_tune`].
pub fn resume(out: &Path, mut options: RunOptions) -> Result<Outcome> {
    let run = RunDir::new(out);
    if !run.config().is_file() {
        let reason = "it has no run.toml".to_string();
        return Err(TrainError::NothingToResume {
            path: out.to_path_buf(),
            reason,
        });
    }
    let mut config = run.read_config()?;
    config.out = out.to_path_buf();
    // A run that was started before there was a warm-up has none.
    if config.warmup.data.is_empty() {
        config.warmup.share.get_or_insert(0.0);
    }
    let new_template = options.template.take();
    if let Some(template) = &new_template {
        config.template = template.clone();
    }
    let new_devices = options.devices.take().map(|devices| devices.to_string());
    let moves = new_devices
        .as_ref()
        .is_some_and(|devices| *devices != config.device);
    if let Some(devices) = new_devices {
        config.device = devices;
    }
    config.validate()?;
    let lock = run.lock()?;
    for place in [run.best(), run.finished()] {
        recover_dir(&place)?;
    }
    let store = CheckpointStore::new(run.checkpoints(), config.keep);
    store.clean()?;
    let found = store.latest()?;
    if let Some(observer) = &mut options.observer {
        found
            .damaged
            .iter()
            .for_each(|damaged| observer.on_event(&Event::DamagedCheckpoint(damaged)));
    }
    if found.checkpoint.is_none() && !found.damaged.is_empty() {
        return Err(TrainError::NoUsableCheckpoint {
            path: run.checkpoints(),
            damaged: found.damaged,
        });
    }
    let start = Start::of(&config)?;
    let materials = Materials::load(&config, &start, &mut options.observer)?;
    let mut checkpoint = found.checkpoint;
    if let Some(checkpoint) = &mut checkpoint {
        materials.check_against(&checkpoint.state, new_template.is_some())?;
        let recorded = std::mem::take(&mut checkpoint.state);
        checkpoint.state = materials.signed(recorded.clone());
        checkpoint.is_as_saved = checkpoint.state == recorded;
    }
    if new_template.is_some() || moves {
        run.write_config(&config)?;
    }
    launch_run(config, run, lock, (start, materials), checkpoint, options)
}

fn launch_run(
    config: TrainConfig,
    run: RunDir,
    lock: RunLock,
    (start, materials): (Start, Materials),
    checkpoint: Option<Checkpoint>,
    mut options: RunOptions,
) -> Result<Outcome> {
    let device = config.devices()?.first().open()?;
    let place = checkpoint.as_ref().map(|checkpoint| checkpoint.dir.as_path());
    let trained_on = with_gradients(device.clone(), config.checkpointing);
    let reference = match config.objective {
        ObjectiveKind::Dpo => Some(Trainee::reference(&config, &start, &device)?),
        _ => None,
    };
    let Trainee { decoder, form } = Trainee::load(&config, start, place, &trained_on)?;
    if !config.precision.is_native() {
        tracing::warn!(
            "this processor does not multiply numbers of {}: they are rounded all the same, which takes time",
            config.precision
        );
    }
    let decoder = decoder
        .with_recompute(config.checkpointing)
        .with_precision(config.precision);
    materials.check_fit(&config, &form.config)?;
    let plan = materials.stages.plan(&config);
    let (plan, state) = match &checkpoint {
        Some(checkpoint) => continued(plan, &checkpoint.state, &config)?,
        None => {
            let state = materials.fresh_state(&config, &plan);
            (plan, state)
        }
    };
    let evaluation = evaluation(&config, &run, &materials, &form, &state, options.evaluator.take())?;
    if let Some(observer) = &mut options.observer {
        materials.tell_sources(&config, observer.as_mut());
        let parameters = decoder.num_params();
        observer.on_event(&Event::Started {
            done: state.step,
            total_steps: state.total_steps,
            plan: &plan,
            rows: materials.train.len(),
            tokens: materials.train.tokens(),
            skipped: materials.train.skipped().count(),
            parameters,
            trained_parameters: match form.adapter {
                Some(_) => decoder.adapter_parameters(),
                None => parameters,
            },
        });
    }
    let own = || objective(&config, &form, reference);
    let objective = options.objective.take().unwrap_or_else(own);
    let model = TrainedModel::new(decoder, objective);
    let loaders = loaders(&config, &materials, (&plan, &state));
    let session = session(
        config,
        run,
        &materials,
        form,
        (plan, state, checkpoint),
        evaluation,
        &mut options,
        &model,
        &device,
    )?;
    let outcome = launch(session, model, loaders, options);
    drop(lock);
    outcome
}

/// What the configuration says is minimised.
fn objective(config: &TrainConfig, form: &Form, reference: Option<CausalDecoder>) -> Arc<dyn Objective> {
    match (config.objective, form.config.score.clone(), reference) {
        (ObjectiveKind::Reward, Some(head), _) => Arc::new(Reward::new(head)),
        (ObjectiveKind::Cost, Some(head), _) => Arc::new(Cost::new(head)),
        (ObjectiveKind::Dpo, _, Some(reference)) => Arc::new(Dpo::new(config.beta, reference)),
        _ => Arc::new(Sft),
    }
}

/// The plan of a run that is resumed, and its state: it lasts as long as it was to last when it was started.
fn continued(plan: Plan, state: &RunState, config: &TrainConfig) -> Result<(Plan, RunState)> {
    let mut state = state.clone();
    if state.stage_steps.is_empty() {
        // A checkpoint of before there were stages.
        state.stage_steps = vec![state.total_steps];
    }
    let now = plan.steps();
    match plan.lasting(&state.stage_steps, config) {
        Some(plan) => Ok((plan, state)),
        None => Err(TrainError::Changed {
            what: "list of stages",
            recorded: format!("{:?} steps", state.stage_steps),
            found: format!("{now:?} steps"),
        }),
    }
}

/// Whether validations look at what the model writes on a sample, where there is somebody who does.
fn looks_at_text(config: &TrainConfig) -> bool {
    config.objective.corrects() && config.eval_sample > 0 && !config.valid.is_empty()
}

/// What looks at the model's corrections, where somebody does and there are rows to correct.
fn evaluation(
    config: &TrainConfig,
    run: &RunDir,
    materials: &Materials,
    form: &Form,
    state: &RunState,
    evaluator: Option<Box<dyn Evaluator>>,
) -> Result<Option<Evaluation>> {
    let Some(evaluator) = evaluator.filter(|_| looks_at_text(config)) else {
        if config.best_by == BestBy::ExactMatch {
            let reason = "exact_match needs somebody who corrects the sample: RunOptions::evaluator";
            return Err(TrainError::config("best_by", reason));
        }
        return Ok(None);
    };
    let rows = materials.sample(config, form.config.cached_positions())?;
    if rows.is_empty() {
        tracing::warn!("no validation row fits the model's context twice: none is corrected");
    }
    Evaluation::new(evaluator, rows, &run.samples(), state).map(Some)
}

fn loaders(
    config: &TrainConfig,
    materials: &Materials,
    (plan, state): (&Plan, &RunState),
) -> (PlanLoader, Option<StepLoader>) {
    let now = plan.at(state.step);
    let stages = materials.stages.iter().zip(plan.stages()).enumerate();
    let stages = stages.map(|(index, (stage, plan))| {
        let (start, done) = match index.cmp(&now.index) {
            Ordering::Less => (Cursor::default(), plan.steps),
            Ordering::Equal => (state.cursor, now.done),
            Ordering::Greater => (Cursor::default(), 0),
        };
        let portions = Portions {
            order: stage.order().clone(),
            start,
            done,
            total_steps: plan.steps,
            micro_batch: config.micro_batch,
            rows_per_step: plan.rows_per_step,
            total_rows: plan.total_rows,
        };
        StepLoader::new(stage.rows.clone(), portions)
    });
    let train = PlanLoader::new(stages.collect());
    let valid = materials
        .valid
        .as_ref()
        .map(|rows| StepLoader::one_pass(Arc::clone(rows), config.micro_batch));
    (train, valid)
}

#[allow(clippy::too_many_arguments)] // assembles the one struct that holds them all
fn session(
    config: TrainConfig,
    run: RunDir,
    materials: &Materials,
    form: Form,
    (plan, state, checkpoint): (Plan, RunState, Option<Checkpoint>),
    evaluation: Option<Evaluation>,
    options: &mut RunOptions,
    model: &TrainedModel,
    device: &Device,
) -> Result<Session> {
    let manifest = lineage(&config, materials, &form)?;
    let saver = ModelSaver {
        form,
        tokenizer: materials.tokenizer.clone(),
        manifest,
        chat: materials.chat().cloned(),
    };
    let mut optimizer = match &checkpoint {
        Some(checkpoint) => {
            let names = named_parameters(&model.decoder);
            AdamW::load(
                config.adamw(),
                plan.at(state.step).done,
                &names,
                &checkpoint.dir.join(MOMENTS),
                device,
            )?
        }
        None => AdamW::new(config.adamw()),
    };
    optimizer.prepare(model);
    let devices = config.devices()?;
    Ok(Session {
        device_name: devices.names().swap_remove(0),
        workers: Workers::start(&devices, config.checkpointing)?,
        plan,
        store: CheckpointStore::new(run.checkpoints(), config.keep),
        log: Records::open(
            &run,
            state.step,
            state.metrics_bytes,
            config.tensorboard && !options.no_tensorboard,
        )?,
        saver,
        observer: options.observer.take(),
        interrupter: options.interrupter.clone(),
        device: device.clone(),
        evaluation,
        is_resumed: checkpoint.is_some(),
        saved_step: checkpoint
            .as_ref()
            .filter(|checkpoint| checkpoint.is_as_saved)
            .map(|_| state.step),
        optimizer,
        config,
        run,
        state,
    })
}

fn launch(
    session: Session,
    model: TrainedModel,
    (train, valid): (PlanLoader, Option<StepLoader>),
    options: RunOptions,
) -> Result<Outcome> {
    let root = session.run.root().to_path_buf();
    let valid = valid.unwrap_or_else(|| StepLoader::one_pass(Arc::new(Dataset::default()), 1));
    let looks_at_text = session.evaluation.is_some();
    let strategy = Arc::new(LanguageModelStrategy::new(session));
    let mut training = SupervisedTraining::new(root, Arc::new(train), Arc::new(valid))
        .metrics((LossMetric::new(),))
        .metric_train_numeric(LearningRateMetric::new())
        .metric_train_numeric(QuantityMetric::<GradNorm>::default())
        .metric_train_numeric(QuantityMetric::<TokensPerSecond>::default())
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_application_logger(None)
        .with_interrupter(options.interrupter)
        .with_training_strategy(TrainingStrategy::Custom(strategy.clone()));
    if looks_at_text {
        training = training
            .metric_valid_numeric(QuantityMetric::<ExactMatch>::default())
            .metric_valid_numeric(QuantityMetric::<CopyRate>::default())
            .metric_valid_numeric(QuantityMetric::<EditRatio>::default())
            .metric_valid_numeric(QuantityMetric::<CopyRetention>::default());
    }
    match options.renderer {
        Some(renderer) => training = training.renderer(renderer),
        None if options.dashboard => {}
        None => training = training.renderer(Box::new(NoDashboard)),
    }
    // The session owns optimizer and schedule; the learner's own are never asked.
    let learner = Learner::new(model, UnusedOptimizer::new().init(), ConstantLr::from(0.0));
    let result = training.launch(learner);
    let outcome = strategy.result()?;
    match result.error {
        Some(error) => Err(TrainError::Learner(error.to_string())),
        None => Ok(outcome),
    }
}
