//! `aligner eval metrics`

use std::io::Write;
use std::path::Path;

use aligner_eval::metrics::{MetricOptions, Similarity, TextMetrics};
use aligner_eval::stats::Interval;
use aligner_eval::{Outcome, facts, outcomes, summary};
use aligner_hub::Files;
use aligner_infer::Corrector;
use serde_json::{Value, json};

use super::{METRICS, OUTCOMES, described};
use crate::args::EvalMetricsArgs;
use crate::error::{CliError, Result, stdout_error};
use crate::runs::model_dir;

/// Measures what is there, prints it, and writes it down.
pub fn run(args: &EvalMetricsArgs) -> Result<()> {
    let outcomes = outcomes::read(&args.dir.join(OUTCOMES))?;
    let model = args
        .embed
        .as_deref()
        .map(|model| model_dir(Some(model), Files::Model))
        .transpose()?;
    let corrector = match &model {
        // A base model has no template; for embeddings it needs none.
        Some(model) => Some(
            Corrector::builder(model)
                .template(aligner_data::PromptTemplate::default())
                .allow_mismatch()
                .device(args.place.device)
                .weights(args.place.weights)
                .build()?,
        ),
        None => None,
    };
    let embedder = corrector.as_ref().map(|corrector| {
        move |texts: &[&str]| -> aligner_eval::Result<Vec<Vec<f32>>> {
            let embed = |text: &&str| {
                corrector.embed(text).map_err(|error| {
                    let start: String = text.chars().take(40).collect();
                    aligner_eval::EvalError::Invalid(format!("{start:?}… cannot be embedded: {error}"))
                })
            };
            texts.iter().map(embed).collect()
        }
    });
    let options = MetricOptions {
        seed: args.seed,
        ngram: args.ngram,
        embedder: embedder.as_ref().map(|embedder| embedder as _),
        ..MetricOptions::default()
    };
    let embedder = model.as_deref().map(described::model).transpose()?;
    let metrics = measure(&outcomes, &args.dir, &options, embedder)?;
    if args.json {
        let text =
            serde_json::to_string_pretty(&metrics).map_err(|error| CliError::Failed(error.to_string()))?;
        return writeln!(std::io::stdout(), "{text}").map_err(stdout_error);
    }
    print(&metrics)
}

/// Measures outcomes, and writes down the figures and how they were measured.
pub fn measure(
    outcomes: &[Outcome],
    dir: &Path,
    options: &MetricOptions<'_>,
    embedder: Option<Value>,
) -> Result<Vec<TextMetrics>> {
    let metrics = summary::measure(outcomes, options, &dir.join(METRICS))?;
    facts::set(
        dir,
        "metrics",
        json!({"seed": options.seed, "ngram": options.ngram, "embedder": embedder}),
    )?;
    Ok(metrics)
}

/// Prints the most telling figures.
pub fn print(metrics: &[TextMetrics]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for each in metrics {
        write!(stdout, "{}", lines(each)).map_err(stdout_error)?;
    }
    Ok(())
}

fn lines(metrics: &TextMetrics) -> String {
    let mut lines = format!(
        "{} + {} on {}, {} rows\n",
        metrics.upstream, metrics.aligner, metrics.dataset, metrics.rows
    );
    let mut line = |name: &str, value: String| lines += &format!("  {name:<26} {value}\n");
    line("copied", percent(metrics.copy_rate));
    line("edit ratio", percent(metrics.edit_ratio));
    if let Some(ratio) = metrics.length.ratio {
        line("length", format!("{} of the answer's words", percent(ratio)));
    }
    if let Some(second) = &metrics.second_pass {
        line("copied by a second pass", percent(second.copy_rate));
    }
    let refusals = &metrics.refusals;
    line(
        "refusals",
        format!(
            "{} before, {} after",
            percent(refusals.original_rate),
            percent(refusals.output_rate)
        ),
    );
    if let Some(rate) = refusals.over_refusal_rate {
        line("newly refused", percent(rate));
    }
    if let Some(rate) = refusals.removed_rate {
        line("refusals removed", percent(rate));
    }
    if metrics.cut_rate.value > 0.0 {
        line("cut at the limit", percent(metrics.cut_rate));
    }
    for (name, similarity) in [("ROUGE-L", &metrics.rouge_l), ("embedding", &metrics.embedding)] {
        if let Some(similarity) = similarity {
            line(name, like(similarity));
        }
    }
    if let Some(perplexity) = &metrics.reference_perplexity {
        line(
            "perplexity of references",
            format!("{:.2}", perplexity.value.value),
        );
    }
    if let Some(contamination) = &metrics.contamination {
        line(
            "overlap with references",
            format!(
                "{} before, {} after",
                percent(contamination.original_overlap_rate),
                percent(contamination.output_overlap_rate)
            ),
        );
    }
    lines
}

/// Likeness to right references, and how often it is above that to wrong ones.
fn like(similarity: &Similarity) -> String {
    let (before, after) = (&similarity.original, &similarity.output);
    let correct = format!(
        "{:.3} before, {:.3} after",
        before.correct.value, after.correct.value
    );
    match (before.accuracy, after.accuracy) {
        (Some(before), Some(after)) => format!(
            "{correct}; nearer to a right answer: {} before, {} after",
            percent(before),
            percent(after)
        ),
        _ => correct,
    }
}

fn percent(interval: Interval) -> String {
    format!(
        "{:.1} % ({:.1} to {:.1})",
        100.0 * interval.value,
        100.0 * interval.low,
        100.0 * interval.high
    )
}
