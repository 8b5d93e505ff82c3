//! `aligner steer`

use std::io::Write;
use std::path::{Path, PathBuf};

use aligner_data::{Encoder, Fields, ReadOptions, Record, RowReader};
use aligner_hub::Files;
use aligner_infer::{Corrector, StrengthEffect, sign_steering};
use aligner_model::{CausalDecoder, Loaded, LoraAdapter, RuntimeWeights, SteeringVector, load_dir};
use aligner_train::{SteeringModel, fit_steering};

use super::{builder, fetched_base};
use crate::args::{ModelArgs, SteerFitArgs};
use crate::error::{CliError, Result, stdout_error};
use crate::runs::model_dir;
use crate::terminal::{progress, say};

/// The strengths at which answers are corrected.
const STRENGTHS: [f64; 7] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5];

/// Writes `steering.safetensors` beside the model; prints what each strength does, a JSON object each.
pub fn fit(args: &SteerFitArgs) -> Result<()> {
    if args.model.weights != RuntimeWeights::F32 {
        return Err(CliError::Usage(
            "the vector is fitted to the weights as they were trained: leave --weights out; it is used with all of them".into(),
        ));
    }
    let (dir, base) = place(&args.model)?;
    if SteeringVector::read(&dir).is_ok_and(|found| found.is_some()) && !args.overwrite {
        let dir = dir.display();
        return Err(CliError::Usage(format!(
            "{dir} has a steering.safetensors already: --overwrite it"
        )));
    }
    let held_out = if args.valid.is_none() { args.valid_rows } else { 0 };
    let mut rows = sample(args, &args.data, args.rows + held_out)?;
    let valid = match &args.valid {
        Some(valid) => sample(args, valid, args.valid_rows)?,
        // Of few rows at least half are for the direction.
        None => rows.split_off(rows.len() - held_out.min(rows.len() / 2)),
    };
    let corrector = builder(&args.model)?.build()?;
    let mut fit = {
        let Loaded { config, decoder } = trained(args, &dir, base.as_deref())?;
        let model = SteeringModel {
            decoder: &decoder,
            encoder: Encoder::new(
                corrector.tokenizer().clone(),
                corrector.template().clone(),
                config.max_positions,
            ),
        };
        fit_steering(&model, &rows, args.options())?
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

/// The model on a device with gradients, of which its own weights need none.
fn trained(args: &SteerFitArgs, dir: &Path, base: Option<&Path>) -> Result<Loaded> {
    let device = args.model.device.open()?.autodiff();
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

/// What each strength does to the answers of rows, printed as it is known.
fn effects(corrector: &Corrector, vector: &SteeringVector, rows: &[Record]) -> Result<Vec<StrengthEffect>> {
    let mut effects = Vec::new();
    if rows.is_empty() {
        return Ok(effects);
    }
    let bar = progress(Some(STRENGTHS.len() as u64), "correcting");
    for strength in STRENGTHS {
        let steered = corrector.with_strength(vector, strength)?;
        let effect = StrengthEffect::measure(&steered, strength, rows)?;
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

/// Up to `count` rows, each row of the file as likely as the others and the same in every run (Vitter 1985, algorithm R).
fn sample(args: &SteerFitArgs, path: &Path, count: usize) -> Result<Vec<Record>> {
    let options = ReadOptions {
        columns: args.columns.clone(),
        fields: Fields::Triple,
        format: args.format,
        ..ReadOptions::default()
    };
    let mut rows = Vec::new();
    let mut state = 0u64;
    for (seen, record) in RowReader::open(path, options)?.enumerate() {
        let record = record?;
        if rows.len() < count {
            rows.push(record);
            continue;
        }
        let place = (next(&mut state) % (seen as u64 + 1)) as usize;
        if let Some(row) = rows.get_mut(place) {
            *row = record;
        }
    }
    // The first rows stand where they stood; whoever splits them wants any.
    for last in (1..rows.len()).rev() {
        rows.swap(last, (next(&mut state) % (last as u64 + 1)) as usize);
    }
    Ok(rows)
}

/// The next of a row of numbers (Steele et al. 2014, SplitMix64).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
