//! A whole run: from a configuration to a trained model.

use std::path::Path;
use std::sync::Arc;

use aligner_data::{AlignerManifest, Dataset, Stage};
use aligner_model::{DeviceSpec, weights::named_parameters};
use burn::module::Module;
use burn::optim::AdamWConfig as UnusedOptimizer;
use burn::optim::lr_scheduler::constant::ConstantLr;
use burn::tensor::Device;
use burn_train::logger::InMemoryMetricLogger;
use burn_train::metric::{LearningRateMetric, LossMetric};
use burn_train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};

use crate::batches::{Portions, StepLoader};
use crate::checkpoint::{Checkpoint, CheckpointStore, RunState, recover_dir};
use crate::config::{TemplateChoice, TrainConfig};
use crate::dashboard::{GradNorm, NoDashboard, QuantityMetric, TokensPerSecond};
use crate::error::{Result, TrainError};
use crate::learner::TrainedModel;
use crate::materials::Materials;
use crate::metrics::MetricsLog;
use crate::objective::Sft;
use crate::optimizer::AdamW;
use crate::run_dir::{RunDir, RunLock};
use crate::schedule::Schedule;
use crate::session::{Event, MOMENTS, ModelSaver, Observer, Outcome, Session};
use crate::strategy::LanguageModelStrategy;
use crate::trainee::{Form, Start, Trainee};

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
    config.validate()?;
    let run = RunDir::new(&config.out);
    if run.config().exists() {
        return Err(TrainError::RunExists(config.out.clone()));
    }
    let lock = run.lock()?;
    let start = Start::of(config)?;
    let materials = Materials::load(config, &start, &mut options.observer)?;
    warn_of_other_template(config, &materials)?;
    std::fs::write(run.config(), config.to_toml()?).map_err(TrainError::io("write", &run.config()))?;
    launch_run(config.clone(), run, lock, (start, materials), None, options)
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
    let mut config = TrainConfig::read(&run.config())?;
    config.out = out.to_path_buf();
    let new_template = options.template.take();
    if let Some(template) = &new_template {
        config.template = template.clone();
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
        checkpoint.state = materials.signed(std::mem::take(&mut checkpoint.state));
    }
    if new_template.is_some() {
        let text = config.to_toml()?;
        std::fs::write(run.config(), text).map_err(TrainError::io("write", &run.config()))?;
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
    let device = config.device.parse::<DeviceSpec>()?.open()?;
    let place = checkpoint.as_ref().map(|checkpoint| checkpoint.dir.as_path());
    let Trainee { decoder, form } = Trainee::load(&config, start, place, &device.clone().autodiff())?;
    materials.check_fit(&config, &form.config)?;
    let state = match &checkpoint {
        Some(checkpoint) => checkpoint.state.clone(),
        None => materials.fresh_state(&config),
    };
    if let Some(observer) = &mut options.observer {
        materials.tell_sources(observer.as_mut());
        let parameters = decoder.num_params();
        observer.on_event(&Event::Started {
            done: state.step,
            total_steps: state.total_steps,
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
    let loaders = loaders(&config, &materials, &state)?;
    let model = TrainedModel::new(decoder, Arc::new(Sft));
    let session = session(
        config,
        run,
        &materials,
        form,
        (state, checkpoint),
        &mut options,
        &model,
        &device,
    )?;
    let outcome = launch(session, model, loaders, &options);
    drop(lock);
    outcome
}

fn loaders(
    config: &TrainConfig,
    materials: &Materials,
    state: &RunState,
) -> Result<(StepLoader, Option<StepLoader>)> {
    let rows = materials.train.len();
    let rows_per_step = (config.micro_batch * config.accumulate) as u64;
    let portions = Portions {
        order: materials.order(config)?,
        start: state.cursor,
        done: state.step,
        total_steps: state.total_steps,
        micro_batch: config.micro_batch,
        rows_per_step,
        // A run by steps fills each of them; a run by epochs ends with the last row.
        total_rows: match config.steps {
            Some(steps) => steps * rows_per_step,
            None => config.epochs * rows as u64,
        },
    };
    let valid = materials
        .valid
        .as_ref()
        .map(|rows| StepLoader::one_pass(Arc::clone(rows), config.micro_batch));
    Ok((StepLoader::new(Arc::clone(&materials.train), portions), valid))
}

#[allow(clippy::too_many_arguments)] // assembles the one struct that holds them all
fn session(
    config: TrainConfig,
    run: RunDir,
    materials: &Materials,
    form: Form,
    (state, checkpoint): (RunState, Option<Checkpoint>),
    options: &mut RunOptions,
    model: &TrainedModel,
    device: &Device,
) -> Result<Session> {
    let mut manifest = AlignerManifest::new(
        materials.template.clone(),
        materials.tokenizer.hash(),
        &base_name(
            form.adapter
                .as_ref()
                .map_or(&config.model, |adapter| &adapter.base),
        ),
    );
    if let Some(earlier) = AlignerManifest::read(&config.model)? {
        manifest.base_model = earlier.base_model;
        manifest.stages = earlier.stages;
    }
    manifest.stages.push(Stage {
        kind: "correction".into(),
        steps: state.total_steps,
        rows: materials.train.len() as u64,
        data_fingerprint: materials.fingerprint.clone(),
        sources: materials.sources(),
    });
    manifest.data_licence = (!config.data_licence.is_empty()).then(|| config.data_licence.clone());
    let optimizer = match &checkpoint {
        Some(checkpoint) => {
            let names = named_parameters(&model.decoder);
            AdamW::load(
                config.adamw(),
                state.step,
                &names,
                &checkpoint.dir.join(MOMENTS),
                device,
            )?
        }
        None => AdamW::new(config.adamw()),
    };
    Ok(Session {
        schedule: Schedule {
            kind: config.schedule,
            peak: config.lr,
            warmup_steps: (config.warmup_ratio * state.total_steps as f64) as u64,
            total_steps: state.total_steps,
        },
        store: CheckpointStore::new(run.checkpoints(), config.keep),
        log: MetricsLog::open(&run.metrics(), state.metrics_bytes)?,
        saver: ModelSaver {
            form,
            tokenizer: materials.tokenizer.clone(),
            manifest,
        },
        observer: options.observer.take(),
        interrupter: options.interrupter.clone(),
        device: device.clone(),
        rows: materials.train.len() as u64,
        saved_step: checkpoint.as_ref().map(|_| state.step),
        optimizer,
        config,
        run,
        state,
    })
}

/// What a model is called, without where it lay: the last part of its path, or `org/name@commit` when it lies in the
/// cache of the Hugging Face Hub. With the commit, because a branch moves on; `--model` takes it as it is.
fn base_name(model: &Path) -> String {
    let absolute = std::fs::canonicalize(model).unwrap_or_else(|_| model.to_path_buf());
    if let Some(name) = hub_name(&absolute) {
        return name;
    }
    absolute
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// `…/models--org--name/snapshots/COMMIT` as `org/name@COMMIT`.
fn hub_name(snapshot: &Path) -> Option<String> {
    let commit = snapshot.file_name()?.to_str()?;
    let folder = snapshot.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let id = folder.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    // No part of a repository's name holds two hyphens in a row.
    Some(format!("{}@{commit}", id.replace("--", "/")))
}

fn launch(
    session: Session,
    model: TrainedModel,
    (train, valid): (StepLoader, Option<StepLoader>),
    options: &RunOptions,
) -> Result<Outcome> {
    let root = session.run.root().to_path_buf();
    let valid = valid.unwrap_or_else(|| StepLoader::one_pass(Arc::new(Dataset::default()), 1));
    let strategy = Arc::new(LanguageModelStrategy::new(session));
    let mut training = SupervisedTraining::new(root, Arc::new(train), Arc::new(valid))
        .metrics((LossMetric::new(),))
        .metric_train_numeric(LearningRateMetric::new())
        .metric_train_numeric(QuantityMetric::<GradNorm>::default())
        .metric_train_numeric(QuantityMetric::<TokensPerSecond>::default())
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_application_logger(None)
        .with_interrupter(options.interrupter.clone())
        .with_training_strategy(TrainingStrategy::Custom(strategy.clone()));
    if !options.dashboard {
        training = training.renderer(Box::new(NoDashboard));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_from_the_hub_is_named_as_there() {
        let name = |path: &str| base_name(Path::new(path));
        let commit = "1111111111111111111111111111111111111111";
        let snapshot = format!("/cache/hub/models--org--name-1.5/snapshots/{commit}");
        assert_eq!(name(&snapshot), format!("org/name-1.5@{commit}"));
        assert_eq!(name("/models/base"), "base");
        assert_eq!(name("/models/snapshots/base"), "base");
    }
}
