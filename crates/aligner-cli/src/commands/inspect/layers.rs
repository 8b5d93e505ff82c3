//! `aligner inspect layers`

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use aligner_data::{Fields, ReadOptions, Record};
use aligner_eval::probe::{LayerProbe, ProbeRow, probe_layers};
use aligner_infer::{
    BatchOptions, CorrectOptions, Correction, Corrector, FinishReason, InferError, Input, diff, edit_ratio,
};
use aligner_report::write_page;
use aligner_train::draw_rows;

use super::super::open;
use crate::args::{InspectLayersArgs, Label};
use crate::error::{CliError, Result, stdout_error};
use crate::terminal::{progress, say};

/// Prints how well copies are told from corrections by each layer; writes the same as JSON and as a picture.
pub fn run(args: &InspectLayersArgs) -> Result<()> {
    if args.tokens == 0 {
        return Err(CliError::Usage(
            "--tokens 0 looks at nothing: 1 is the first output token".into(),
        ));
    }
    let started = Instant::now();
    let corrector = open(&args.model)?;
    let records = records(args)?;
    let rows = corrections(args, &corrector, &records)?;
    let (rows, places) = states(args, &corrector, &rows)?;
    let read = started.elapsed().as_secs_f64();
    let found = probe_layers(&rows, places, args.seed)?;
    let total = started.elapsed().as_secs_f64();
    write(args, &found)?;
    std::io::stdout()
        .write_all(found.table().as_bytes())
        .map_err(stdout_error)?;
    summary(&found);
    say(format!(
        "{read:.0} s to read the states, {:.0} s to probe them",
        total - read
    ));
    Ok(())
}

fn records(args: &InspectLayersArgs) -> Result<Vec<Record>> {
    let options = ReadOptions {
        columns: args.columns.clone(),
        fields: match args.label {
            Label::Own => Fields::Pair,
            Label::Given => Fields::Triple,
        },
        format: args.format,
        ..ReadOptions::default()
    };
    // Without an answer there is nothing to copy.
    let is_wanted = |row: &Record| {
        !row.answer.trim().is_empty() && (args.label == Label::Own || row.correction.is_some())
    };
    Ok(draw_rows(&args.data, &options, args.rows, args.seed, is_wanted)?)
}

/// A row and the correction that is looked at.
struct Corrected<'a> {
    record: &'a Record,
    ids: Vec<u32>,
    is_copy: bool,
}

fn input(record: &Record) -> Input<'_> {
    Input {
        question: &record.question,
        answer: &record.answer,
        chat_history: &record.chat_history,
    }
}

/// The corrections of rows.
fn corrections<'a>(
    args: &InspectLayersArgs,
    corrector: &Corrector,
    records: &'a [Record],
) -> Result<Vec<Corrected<'a>>> {
    let row = |record: &'a Record, text: &str, ids| Corrected {
        record,
        ids,
        is_copy: edit_ratio(&diff(&record.answer, text)) <= args.edit_ratio,
    };
    if args.label == Label::Own {
        let own = own_corrections(args, corrector, records)?;
        let rows = own
            .into_iter()
            .map(|(record, own)| row(record, &own.text, own.ids));
        return Ok(rows.collect());
    }
    let mut rows = Vec::new();
    for record in records {
        if let Some(text) = &record.correction {
            let ids = corrector.correction_ids(text);
            rows.push(row(record, text, ids.map_err(|error| failed(record, error))?));
        }
    }
    Ok(rows)
}

/// What the model makes of rows; those whose corrections were cut off are left out.
fn own_corrections<'a>(
    args: &InspectLayersArgs,
    corrector: &Corrector,
    records: &'a [Record],
) -> Result<Vec<(&'a Record, Correction)>> {
    let options = CorrectOptions {
        max_new_tokens: args.max_new_tokens,
        ..CorrectOptions::default()
    };
    let batch = BatchOptions {
        max_running: args.parallel.max(1),
        ..BatchOptions::default()
    };
    let bar = progress(Some(records.len() as u64), "correcting");
    let mut rows = Vec::new();
    let corrections = corrector.correct_many(records.iter().map(input), &options, batch);
    for (record, correction) in records.iter().zip(corrections) {
        let correction = correction.map_err(|error| failed(record, error))?;
        bar.inc(1);
        if correction.finish_reason == FinishReason::Stop {
            rows.push((record, correction));
        }
    }
    bar.finish_and_clear();
    if rows.len() < records.len() {
        say(format!(
            "{} of {} rows left out: their corrections did not end within {} tokens (--max-new-tokens)",
            records.len() - rows.len(),
            records.len(),
            args.max_new_tokens
        ));
    }
    Ok(rows)
}

fn failed(record: &Record, error: InferError) -> CliError {
    CliError::Failed(format!("{}: {error}", record.origin))
}

/// The hidden states of rows, and the places where they are read.
fn states(
    args: &InspectLayersArgs,
    corrector: &Corrector,
    rows: &[Corrected<'_>],
) -> Result<(Vec<ProbeRow>, usize)> {
    let bar = progress(Some(rows.len() as u64), "reading");
    let mut places = 0;
    let mut out = Vec::with_capacity(rows.len());
    for Corrected { record, ids, is_copy } in rows {
        let states = corrector
            .output_states(input(record), ids, args.tokens)
            .map_err(|error| failed(record, error))?;
        places = states.places;
        out.push(ProbeRow {
            label: *is_copy,
            // Answers to one question are alike: a probe must not have seen them.
            group: record.question.clone(),
            steps: states.tokens,
            states: states.values,
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((out, places))
}

fn write(args: &InspectLayersArgs, found: &LayerProbe) -> Result<()> {
    let failed = |error: serde_json::Error| CliError::Failed(error.to_string());
    let name = |path: &Path| path.display().to_string();
    let mut json = serde_json::json!({
        "created_by": format!("aligner {}", env!("CARGO_PKG_VERSION")),
        "model": args.model.model.as_deref().map(name),
        "adapter": args.model.adapter.as_deref().map(name),
        "weights": args.model.place.weights.to_string(),
        "data": args.data.iter().map(|path| name(path)).collect::<Vec<_>>(),
        "label": args.label.name(),
        "edit_ratio": args.edit_ratio,
    });
    if let (serde_json::Value::Object(all), serde_json::Value::Object(probe)) =
        (&mut json, serde_json::to_value(found).map_err(failed)?)
    {
        all.extend(probe);
    }
    std::fs::create_dir_all(&args.out).map_err(CliError::io("make", &args.out))?;
    let what = match args.label {
        Label::Own => "does the model copy the answer or correct it?",
        Label::Given => "should the answer be copied or corrected?",
    };
    let picture = args.out.join("layers.svg");
    let text = serde_json::to_string_pretty(&json).map_err(failed)? + "\n";
    write_page(&args.out.join("layers.json"), &text)?;
    write_page(&picture, &found.picture(what))?;
    say(picture.display());
    Ok(())
}

fn summary(found: &LayerProbe) {
    say(format!(
        "{} rows of {} questions, {} of them copies",
        found.rows, found.groups, found.labelled
    ));
    for step in &found.steps {
        let Some(best) = step.best() else { continue };
        let above = match step.above_majority() {
            Some([first, last]) => format!(
                "surely above the majority from {} to {}",
                named(first.layer),
                named(last.layer)
            ),
            None => "nowhere surely above the majority".to_string(),
        };
        say(format!(
            "token {}: {above}; best behind {}, {:.1} % (majority {:.1} %)",
            step.step,
            named(best.layer),
            100.0 * best.probe.accuracy.value,
            100.0 * step.majority
        ));
    }
}

fn named(layer: Option<usize>) -> String {
    layer.map_or_else(|| "the embedding".into(), |layer| format!("layer {layer}"))
}
