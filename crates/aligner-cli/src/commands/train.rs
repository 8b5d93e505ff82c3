//! `aligner train`

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use aligner_data::{AlignerManifest, PromptTemplate};
use aligner_hub::Files;
use aligner_train::{
    Ending, Event, Interrupter, LoraChoice, Outcome, PairMetrics, RunDir, RunOptions, Split, StageKind,
    StagePlan, StepRecord, TemplateChoice, TextMetrics, TrainConfig, TrainError, WarmupChoice, fine_tune,
    resume,
};

use super::{demo, fit};
use crate::args::{TrainArgs, template};
use crate::error::{CliError, Result, stdout_error};
use crate::evaluator::GreedyEvaluator;
use crate::terminal::{Throttle, say};
use crate::{allocator, hub, runs};

/// Trains, resumes, or trains the embedded default.
pub fn run(args: &TrainArgs) -> Result<()> {
    allocator::keep_freed_memory();
    if args.resume {
        return resume_run(args);
    }
    if args.model.is_none() && args.data.is_empty() && args.config.is_none() {
        if args.fit {
            let reason = "--fit is for a model of yours: give --model, or leave it out";
            return Err(CliError::Usage(reason.into()));
        }
        if args.objective.is_some_and(|objective| !objective.corrects()) {
            let reason = "the generated task is one of correction: another --objective needs a model (--model) and rows (--data)";
            return Err(CliError::Usage(reason.into()));
        }
        return demo::run(args);
    }
    let mut config = resolve(args, Files::Model)?;
    if args.fit && config.objective.takes_pairs() {
        let reason =
            "--fit counts one sequence a row, and pairs of answers are two; choose --micro-batch yourself";
        return Err(CliError::Usage(reason.into()));
    }
    if args.fit {
        fit::apply(&mut config, args.memory)?;
    }
    end(args, &config.out, fine_tune(&config, options(args, &config.out)?))
}

fn resume_run(args: &TrainArgs) -> Result<()> {
    let out = match &args.out {
        Some(out) => out.clone(),
        None => runs::latest()?,
    };
    let run = RunDir::new(&out);
    let mut devices = args.device.clone();
    if run.config().is_file() {
        let recorded = run.read_config()?;
        let mut asked = recorded.clone();
        if let Some(path) = &args.config {
            asked = TrainConfig::read(path)?;
            // What was left to the model was decided when the run was started.
            if asked.warmup.data.is_empty() {
                asked.warmup.share = asked.warmup.share.or(recorded.warmup.share);
            }
        }
        apply(args, &mut asked)?;
        if asked.model != recorded.model {
            asked.model = hub::local(&asked.model, Files::Model)?;
        }
        if asked.device != recorded.device {
            devices = Some(asked.devices()?);
        }
        let same_place = TrainConfig {
            out: recorded.out.clone(),
            // Another template and other devices are the changes that can be asked for.
            template: recorded.template.clone(),
            device: recorded.device.clone(),
            // Whether it is watched changes nothing in the run.
            tensorboard: recorded.tensorboard,
            ..asked
        };
        let different = recorded.differences(&same_place);
        if !different.is_empty() {
            return Err(CliError::Usage(format!(
                "a resumed run goes on as it was started; it was started with other values of: {}",
                different.join(", ")
            )));
        }
    }
    let mut options = options(args, &out)?;
    options.devices = devices;
    options.template = args.template.as_deref().map(template_choice).transpose()?;
    end(args, &out, resume(&out, options))
}

/// Draws the run's page, and says how it ended or how it can go on.
fn end(args: &TrainArgs, out: &Path, ended: aligner_train::Result<Outcome>) -> Result<()> {
    match ended {
        Ok(outcome) => {
            write_page(args, out);
            report(&outcome)
        }
        Err(error) => {
            if RunDir::new(out).metrics().is_file() && !is_refusal(&error) {
                write_page(args, out);
                // The same step would give the same number again.
                if !matches!(error, TrainError::NotFinite { .. }) {
                    say(format!(
                        "the run is kept; when the cause is gone, go on with: aligner train --resume --out {}",
                        out.display()
                    ));
                }
            }
            Err(error.into())
        }
    }
}

/// Whether a run did not even begin to go on.
fn is_refusal(error: &TrainError) -> bool {
    matches!(
        error,
        TrainError::RunExists(_)
            | TrainError::Locked(_)
            | TrainError::Config { .. }
            | TrainError::NothingToResume { .. }
            | TrainError::NoUsableCheckpoint { .. }
            | TrainError::Changed { .. }
    )
}

/// Draws the run's page unless it is not wanted.
pub fn write_page(args: &TrainArgs, out: &Path) {
    if !args.no_report {
        super::report::after(out);
    }
}

/// The configuration that is meant: a file's or the default, with the flags over it.
pub fn resolve(args: &TrainArgs, wanted: Files) -> Result<TrainConfig> {
    let mut config = match &args.config {
        Some(path) => TrainConfig::read(path)?,
        None => TrainConfig::default(),
    };
    apply(args, &mut config)?;
    if config.out.as_os_str().is_empty() {
        config.out = runs::free_dir(&hub::short_name(&config.model));
    }
    config.model = hub::local(&config.model, wanted)?;
    // An Aligner that is trained further keeps its template unless another one is named.
    if args.template.is_none()
        && args.config.is_none()
        && let Some(earlier) = AlignerManifest::read(&config.model)?
    {
        config.template = choice_of(&earlier.template);
    }
    Ok(config)
}

/// Puts the flags that were given over a configuration.
pub fn apply(args: &TrainArgs, config: &mut TrainConfig) -> Result<()> {
    fn set<T: Clone>(place: &mut T, given: &Option<T>) {
        if let Some(value) = given {
            *place = value.clone();
        }
    }
    set(&mut config.model, &args.model);
    set(&mut config.objective, &args.objective);
    set(&mut config.chat_format, &args.chat_format);
    set(&mut config.beta, &args.beta);
    set(&mut config.out, &args.out);
    set(&mut config.epochs, &args.epochs);
    set(&mut config.micro_batch, &args.micro_batch);
    set(&mut config.accumulate, &args.accumulate);
    set(&mut config.lr, &args.lr);
    set(&mut config.schedule, &args.schedule);
    set(&mut config.warmup_ratio, &args.warmup_ratio);
    set(&mut config.weight_decay, &args.weight_decay);
    set(&mut config.max_grad_norm, &args.max_grad_norm);
    set(&mut config.max_length, &args.max_length);
    config.checkpointing |= args.checkpointing;
    set(&mut config.on_long_row, &args.on_long_row);
    set(&mut config.on_bad_row, &args.on_bad_row);
    set(&mut config.columns, &args.columns);
    set(&mut config.format, &args.format.map(|format| format.to_string()));
    set(&mut config.seed, &args.seed);
    set(&mut config.shuffle, &args.shuffle);
    set(&mut config.save_every, &args.save_every);
    set(&mut config.keep, &args.keep);
    set(&mut config.eval_every, &args.eval_every);
    set(&mut config.patience, &args.patience);
    set(&mut config.eval_sample, &args.eval_sample);
    set(&mut config.best_by, &args.best_by);
    set(&mut config.identity_share, &args.identity_share);
    set(&mut config.data_licence, &args.data_licence);
    set(&mut config.base_weights, &args.base_weights);
    set(&mut config.precision, &args.precision);
    config.tensorboard &= !args.no_tensorboard;
    let devices = args.device.as_ref().map(ToString::to_string);
    set(&mut config.device, &devices);
    if args.steps.is_some() {
        config.steps = args.steps;
    } else if args.epochs.is_some() {
        config.steps = None;
    }
    for (place, given) in [(&mut config.data, &args.data), (&mut config.valid, &args.valid)] {
        if !given.is_empty() {
            place.clone_from(given);
        }
    }
    if let Some(typed) = &args.template {
        config.template = template_choice(typed)?;
    }
    apply_warmup(args, &mut config.warmup);
    apply_lora(args, config)
}

fn apply_warmup(args: &TrainArgs, warmup: &mut WarmupChoice) {
    if args.warmup_share.is_some() {
        (warmup.share, warmup.data) = (args.warmup_share, Vec::new());
    }
    if !args.warmup_data.is_empty() {
        (warmup.share, warmup.data) = (None, args.warmup_data.clone());
    }
    warmup.from = args.warmup_from.unwrap_or(warmup.from);
    warmup.lr = args.warmup_lr.or(warmup.lr);
    if let Some(epochs) = args.warmup_epochs {
        (warmup.epochs, warmup.steps) = (epochs, None);
    }
    warmup.steps = args.warmup_steps.or(warmup.steps);
}

fn template_choice(typed: &str) -> Result<TemplateChoice> {
    Ok(choice_of(&template(typed)?))
}

/// A template as `run.toml` names it.
fn choice_of(template: &PromptTemplate) -> TemplateChoice {
    let (id, text) = (template.id(), template.text());
    match PromptTemplate::builtin(id) {
        Ok(builtin) if builtin.text() == text => TemplateChoice::Builtin(id.to_string()),
        _ => TemplateChoice::Custom {
            id: id.to_string(),
            text: text.to_string(),
        },
    }
}

fn apply_lora(args: &TrainArgs, config: &mut TrainConfig) -> Result<()> {
    let (rank, alpha, dropout) = (args.lora_rank, args.lora_alpha, args.lora_dropout);
    let has_targets = !args.lora_targets.is_empty();
    if let Some(rank) = rank {
        config.lora = Some(LoraChoice {
            rank,
            alpha: 2.0 * rank as f64,
            ..config.lora.take().unwrap_or_default()
        });
    }
    let Some(lora) = &mut config.lora else {
        if alpha.is_some() || dropout.is_some() || has_targets || args.lora_rslora {
            return Err(CliError::Usage(
                "the --lora-… options belong to an adapter: give --lora-rank".into(),
            ));
        }
        return Ok(());
    };
    lora.alpha = alpha.unwrap_or(lora.alpha);
    lora.dropout = dropout.unwrap_or(lora.dropout);
    lora.rslora |= args.lora_rslora;
    if has_targets {
        lora.target_modules.clone_from(&args.lora_targets);
    }
    Ok(())
}

/// What a run needs besides its configuration: dashboard or lines, and an ear for signals. Once it has begun it is the latest.
pub fn options(args: &TrainArgs, out: &Path) -> Result<RunOptions> {
    let interrupter = Interrupter::new();
    let for_signal = interrupter.clone();
    let handler = move || {
        if for_signal.should_stop() {
            std::process::exit(130);
        }
        for_signal.stop(Some("signal"));
        say("stopping after this step; once more to stop at once");
    };
    ctrlc::set_handler(handler)
        .map_err(|error| CliError::Failed(format!("cannot catch signals: {error}")))?;
    let dashboard = !args.no_dashboard && std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let mut lines = Lines {
        quiet: dashboard,
        ..Lines::default()
    };
    let out = out.to_path_buf();
    Ok(RunOptions {
        dashboard,
        observer: Some(Box::new(move |event: &Event<'_>| {
            if let Event::Started { .. } = event {
                runs::remember(&out);
            }
            lines.tell(event);
        })),
        interrupter,
        evaluator: Some(Box::new(GreedyEvaluator)),
        no_tensorboard: args.no_tensorboard,
        ..RunOptions::default()
    })
}

/// Says how a run ended; the model's place goes to stdout.
pub fn report(outcome: &Outcome) -> Result<()> {
    let run = outcome.run.display();
    match outcome.ending {
        Ending::Finished => say(format!("done after {} steps", outcome.steps)),
        Ending::StoppedEarly => say(format!(
            "stopped early after {} steps: validation stopped gaining",
            outcome.steps
        )),
        Ending::Interrupted => {
            say(format!(
                "stopped after {} steps; go on with: aligner train --resume --out {run}",
                outcome.steps
            ));
        }
    }
    if let Some(best) = outcome.best {
        let exact = best.exact_match.map_or_else(String::new, |exact| {
            format!(", {:.1} % of the sample exact", 100.0 * exact)
        });
        say(format!(
            "best validation after step {}: loss {:.4}{exact}",
            best.step, best.loss
        ));
    }
    let place: PathBuf = outcome.model_dir.clone();
    print_path(&place)
}

fn print_path(path: &Path) -> Result<()> {
    writeln!(std::io::stdout(), "{}", path.display()).map_err(stdout_error)
}

/// Plain lines for a run without a dashboard.
#[derive(Default)]
struct Lines {
    quiet: bool,
    throttle: Throttle,
    total_steps: u64,
}

impl Lines {
    fn tell(&mut self, event: &Event<'_>) {
        if self.quiet && !matches!(event, Event::DamagedCheckpoint(_)) {
            return;
        }
        match event {
            Event::Tokenising {
                rows,
                tokens,
                seconds,
            } => say(format!(
                "tokenising: {rows} rows, {tokens} tokens, {:.0} rows/s",
                *rows as f64 / seconds
            )),
            Event::Source { path, rows, share } => say(format!(
                "{}: {rows} rows, {:.1} % of those that are drawn",
                path.display(),
                100.0 * share
            )),
            Event::Started {
                done,
                total_steps,
                rows,
                tokens,
                skipped,
                parameters,
                trained_parameters,
                ..
            } => {
                self.total_steps = *total_steps;
                let left_out = if *skipped > 0 {
                    format!(", {skipped} left out")
                } else {
                    String::new()
                };
                let trained = if trained_parameters < parameters {
                    format!(", of which {:.2} M are trained", *trained_parameters as f64 / 1e6)
                } else {
                    String::new()
                };
                say(format!(
                    "{rows} rows{left_out}, {tokens} tokens; {:.1} M weights{trained}; {total_steps} steps{}",
                    *parameters as f64 / 1e6,
                    if *done > 0 {
                        format!(", {done} done")
                    } else {
                        String::new()
                    },
                ));
            }
            Event::DamagedCheckpoint(damage) => say(format!("damaged checkpoint passed over: {damage}")),
            Event::StageStarted(stage) => say(stage_line(stage)),
            Event::Recorded(record) => self.record(record),
            _ => {}
        }
    }

    fn record(&mut self, record: &StepRecord) {
        let StepRecord {
            step,
            epoch,
            loss,
            tokens_per_second,
            seconds,
            ..
        } = record;
        let total = self.total_steps;
        if record.split == Split::Valid {
            say(format!(
                "step {step}/{total}  validation loss {loss:.4}{}{}  {:.1} s",
                record.text.as_ref().map_or_else(String::new, text_metrics),
                record.pairs.as_ref().map_or_else(String::new, pair_metrics),
                seconds + record.text.map_or(0.0, |text| text.eval_seconds)
            ));
        } else if self.throttle.allows() || *step == total {
            let (lr, norm) = (record.lr.unwrap_or(0.0), record.grad_norm.unwrap_or(0.0));
            say(format!(
                "step {step}/{total}  epoch {epoch:.2}  loss {loss:.4}  lr {lr:.2e}  grad norm {norm:.2}  \
                 {tokens_per_second:.0} tokens/s"
            ));
        }
    }
}

fn stage_line(stage: &StagePlan) -> String {
    let StagePlan {
        rows,
        identity_rows,
        steps,
        schedule,
        ..
    } = stage;
    let lr = schedule.peak;
    match stage.kind {
        StageKind::Warmup => format!("warm-up: {rows} rows to copy, {steps} steps, lr {lr:.1e}"),
        StageKind::Correction => {
            let copies = match identity_rows {
                0 => String::new(),
                copies => format!(", {copies} of them to copy"),
            };
            format!("correction: {rows} rows{copies}, {steps} steps, lr {lr:.1e}")
        }
        kind => format!("{kind}: {rows} rows, {steps} steps, lr {lr:.1e}"),
    }
}

fn pair_metrics(pairs: &PairMetrics) -> String {
    let signs = pairs.sign_accuracy.map_or_else(String::new, |share| {
        format!("  signs right {:.1} %", 100.0 * share)
    });
    format!(
        "  pairs right {:.1} %  margin {:.3}{signs}",
        100.0 * pairs.pair_accuracy,
        pairs.pair_margin
    )
}

fn text_metrics(text: &TextMetrics) -> String {
    format!(
        "  exact {:.1} %  copies {:.1} %  edit ratio {:.2}  right ones kept {:.1} %",
        100.0 * text.exact_match,
        100.0 * text.copy_rate,
        text.edit_ratio,
        100.0 * text.copy_retention
    )
}
