//! `aligner steer`

use std::io::Write;
use std::path::{Path, PathBuf};

use aligner_data::{Encoder, Fields, ReadOptions, Record, Target};
use aligner_hub::Files;
use aligner_infer::{Corrector, InferError, sign_steering};
use aligner_model::{CausalDecoder, Loaded, LoraAdapter, RuntimeWeights, SteeringVector, load_dir};
use aligner_train::{SampleRow, SteeringModel, TextMetrics, draw_rows, fit_steering};
use serde::Serialize;

use super::{builder, fetched_base};
use crate::args::{ModelArgs, SteerFitArgs};
use crate::error::{CliError, Result, stdout_error};
use crate::evaluator::verdict;
use crate::runs::model_dir;
use crate::terminal::{progress, say};

/// The strengths at which answers are corrected.
const STRENGTHS: [f64; 7] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5];
/// Which rows are drawn: the same each time.
const SEED: u64 = 0;

/// Writes `steering.safetensors` beside the model; prints what each strength does, a JSON object each.
pub fn fit(args: &SteerFitArgs) -> Result<()> {
    if args.model.place.weights != RuntimeWeights::F32 {
        return Err(CliError::Usage(
            "the vector is fitted to the weights as they were trained: leave --weights out; it is used with all of them".into(),
        ));
    }
    let (dir, base) = place(&args.model)?;
    // A damaged one is somebody's too.
    if !args.overwrite && !matches!(SteeringVector::read(&dir), Ok(None)) {
        let dir = dir.display();
        return Err(CliError::Usage(format!(
            "{dir} has a steering.safetensors already: --overwrite it"
        )));
    }
    let corrector = builder(&args.model)?.build()?;
    let (mut fit, valid) = {
        let Loaded { config, decoder } = trained(args, &dir, base.as_deref())?;
        let (tokenizer, template) = (corrector.tokenizer().clone(), corrector.template().clone());
        let encoder = Encoder::new(tokenizer, template, config.cached_positions());
        let (rows, valid) = rows(args, &encoder)?;
        let decoder = &decoder;
        let fit = fit_steering(&SteeringModel { decoder, encoder }, &rows, args.options())?;
        (fit, valid)
    };
    say(format!(
        "layer {}, from {} rows whose corrections are more probable than copies by {:.2} nats",
        fit.layer, fit.rows, fit.preference
    ));
    let effects = effects(&corrector, &fit.vector, &valid)?;
    let facts = serde_json::to_string(&effects).map_err(|error| CliError::Failed(error.to_string()))?;
    fit.vector.facts.insert("effects".into(), facts);
    sign_steering(&mut fit.vector, &dir, base.as_deref(), corrector.template())?;
    let path = fit.vector.write(&dir)?;
    say(path.display().to_string());
    if effects
        .windows(2)
        .any(|pair| pair[0].edit_ratio > pair[1].edit_ratio)
    {
        say(
            "the edit ratio does not rise at every step: try more --valid-rows, or another --layer or --shift",
        );
    }
    Ok(())
}

/// The rows that the direction is taken from, and those that are corrected at several strengths.
fn rows(args: &SteerFitArgs, encoder: &Encoder) -> Result<(Vec<Record>, Vec<SampleRow>)> {
    let options = ReadOptions {
        columns: args.columns.clone(),
        fields: Fields::Triple,
        format: args.format,
        ..ReadOptions::default()
    };
    let copies = encoder.clone().with_target(Target::AnswerUnchanged);
    let draw = |file: &PathBuf, count| {
        let fits = |row: &Record| encoder.encode(row).is_ok() && copies.encode(row).is_ok();
        draw_rows(std::slice::from_ref(file), &options, count, SEED, fits)
    };
    if let Some(valid) = &args.valid {
        let valid = draw(valid, args.valid_rows)?.into_iter().map(SampleRow::from);
        return Ok((draw(&args.data, args.rows)?, valid.collect()));
    }
    let all = draw(&args.data, args.rows.saturating_add(args.valid_rows))?;
    // From everywhere in the file; of few rows at least half are for the direction.
    let (count, held_out) = (all.len(), args.valid_rows.min(all.len() / 2));
    let (mut rows, mut valid) = (Vec::new(), Vec::new());
    for (index, row) in all.into_iter().enumerate() {
        match index * held_out / count == (index + 1) * held_out / count {
            true => rows.push(row),
            false => valid.push(SampleRow::from(row)),
        }
    }
    Ok((rows, valid))
}

/// The model on a device with gradients, of which its own weights need none.
fn trained(args: &SteerFitArgs, dir: &Path, base: Option<&Path>) -> Result<Loaded> {
    let device = args.model.place.device.open()?.autodiff();
    let Loaded { config, decoder } = load_dir(base.unwrap_or(dir), &device)?;
    let decoder: CausalDecoder = match base {
        Some(_) => {
            let mut adapter = LoraAdapter::read(dir)?;
            // On a device with gradients it would drop inputs as in training.
            adapter.config.dropout = 0.0;
            decoder.with_adapter(&adapter)?
        }
        None => decoder,
    };
    let decoder = decoder.without_gradients();
    Ok(Loaded { config, decoder })
}

/// What the model does to rows at one strength.
#[derive(Debug, Clone, Copy, Serialize)]
struct Effect {
    strength: f64,
    edit_ratio: f64,
    copy_rate: f64,
    copy_retention: f64,
    exact_match: f64,
}

/// What each strength does, printed as it is known.
fn effects(corrector: &Corrector, vector: &SteeringVector, rows: &[SampleRow]) -> Result<Vec<Effect>> {
    let mut effects = Vec::new();
    let bar = progress(Some(STRENGTHS.len() as u64), "correcting");
    for strength in STRENGTHS {
        let steered = corrector.with_strength(vector, strength)?;
        let verdicts = rows.iter().map(|row| verdict(&steered, row));
        let Some(metrics) = TextMetrics::of(&verdicts.collect::<Result<Vec<_>, InferError>>()?, 0.0) else {
            break;
        };
        let effect = Effect {
            strength,
            edit_ratio: metrics.edit_ratio,
            copy_rate: metrics.copy_rate,
            copy_retention: metrics.copy_retention,
            exact_match: metrics.exact_match,
        };
        let line = serde_json::to_string(&effect).map_err(|error| CliError::Failed(error.to_string()))?;
        bar.suspend(|| writeln!(std::io::stdout(), "{line}"))
            .map_err(stdout_error)?;
        bar.inc(1);
        effects.push(effect);
    }
    bar.finish_and_clear();
    Ok(effects)
}

/// The directory of the model or adapter, and an adapter's base.
fn place(args: &ModelArgs) -> Result<(PathBuf, Option<PathBuf>)> {
    let model = model_dir(args.model.as_deref(), Files::Model)?;
    if let Some(adapter) = &args.adapter {
        return Ok((model_dir(Some(adapter), Files::Model)?, Some(model)));
    }
    if !LoraAdapter::is_in(&model) {
        return Ok((model, None));
    }
    let base = match fetched_base(&model)? {
        Some(base) => base,
        None => LoraAdapter::read(&model)?.base_dir(&model)?,
    };
    Ok((model, Some(base)))
}
