//! What the steps of an evaluation found, put together for a report.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{EvalError, Result};
use crate::files::{named, write_whole};
use crate::metrics::{MetricOptions, Similarity, TextMetrics, text_metrics};
use crate::report::{Difference, EditRatios, Figure, Group, Report, Row, Table, Unit, Verdicts};
use crate::row::{Known, OfOutcome, Outcome};
use crate::{facts, judge, outcomes, scores};

/// Figures, and of which outcomes.
#[derive(Serialize, Deserialize)]
struct Measured {
    outcomes: u64,
    digest: String,
    metrics: Vec<TextMetrics>,
}

/// Measures outcomes and writes the figures to `path`, whole or not at all.
///
/// # Errors
/// As [`text_metrics`], and when the file cannot be written.
pub fn measure(outcomes: &[Outcome], options: &MetricOptions<'_>, path: &Path) -> Result<Vec<TextMetrics>> {
    let metrics = text_metrics(outcomes, options)?;
    let measured = Measured {
        outcomes: outcomes.len() as u64,
        digest: digest(outcomes)?,
        metrics,
    };
    let text =
        serde_json::to_string_pretty(&measured).map_err(|error| EvalError::file(path, error.to_string()))?;
    write_whole(path, &(text + "\n"))?;
    Ok(measured.metrics)
}

/// Everything that the directory of an evaluation holds.
///
/// # Errors
/// When it has no outcomes, or a file in it cannot be used.
pub fn gather(dir: &Path, title: &str, seed: u64) -> Result<Report> {
    let outcomes = outcomes::read(&dir.join("outcomes.jsonl"))?;
    let mut notes = Vec::new();
    let metrics = metrics(dir, &outcomes, seed, &mut notes)?;
    let known = Known::of(&outcomes);
    let mut judgements = match dir.join("judgements.jsonl") {
        path if path.is_file() => judge::read(&path)?,
        _ => Vec::new(),
    };
    keep_known(&mut judgements, &known, "judgements", &mut notes);
    let verdicts = judge::table(&judgements, seed)?;
    let unread: u64 = verdicts.iter().map(|row| row.unread_replies).sum();
    if unread > 0 {
        notes.push(format!(
            "{unread} replies of judges could not be read and count nowhere."
        ));
    }
    let mut scored = match dir.join("scores.jsonl") {
        path if path.is_file() => scores::read(&path)?,
        _ => Vec::new(),
    };
    keep_known(&mut scored, &known, "scores", &mut notes);
    Ok(Report {
        title: title.to_string(),
        facts: facts::read(dir)?,
        notes,
        verdicts: verdicts.into_iter().map(verdicts_of).collect(),
        differences: Difference::of(&scored, seed),
        tables: tables(&metrics),
        edit_ratios: metrics.iter().map(edit_ratios).collect(),
        outcomes,
    })
}

/// Leaves out rows of texts that are not there any more.
fn keep_known<T: OfOutcome>(rows: &mut Vec<T>, known: &Known, what: &str, notes: &mut Vec<String>) {
    let before = rows.len();
    rows.retain(|row| known.has(row));
    let others = before - rows.len();
    if others > 0 {
        notes.push(format!(
            "{others} of {before} {what} are of other answers or corrections than those of this evaluation; they are left out."
        ));
    }
}

/// Figures that [`measure`] wrote, where they are of these outcomes.
///
/// # Errors
/// When the file is there and cannot be read, or holds no figures.
pub fn measured(path: &Path, outcomes: &[Outcome]) -> Result<Option<Vec<TextMetrics>>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EvalError::io("read", path)(error)),
    };
    let measured: Measured = serde_json::from_slice(&text)
        .map_err(|error| EvalError::file(path, format!("{error}; measure anew")))?;
    Ok((measured.digest == digest(outcomes)?).then_some(measured.metrics))
}

/// The figures that were written down, where they are of these outcomes; else new ones.
fn metrics(dir: &Path, outcomes: &[Outcome], seed: u64, notes: &mut Vec<String>) -> Result<Vec<TextMetrics>> {
    let path = dir.join("metrics.json");
    if let Some(metrics) = measured(&path, outcomes)? {
        return Ok(metrics);
    }
    if path.is_file() {
        notes.push("The figures of metrics.json are of other outcomes; these were measured anew.".into());
    }
    let options = MetricOptions {
        seed,
        ..MetricOptions::default()
    };
    text_metrics(outcomes, &options)
}

fn digest(outcomes: &[Outcome]) -> Result<String> {
    let mut hash = Sha256::new();
    for outcome in outcomes {
        let row = serde_json::to_vec(outcome).map_err(|error| EvalError::Invalid(error.to_string()))?;
        hash.update(row);
    }
    Ok(named(hash))
}

fn group(metrics: &TextMetrics) -> Group {
    Group {
        upstream: metrics.upstream.clone(),
        dataset: metrics.dataset.clone(),
        aligner: metrics.aligner.clone(),
    }
}

fn edit_ratios(metrics: &TextMetrics) -> EditRatios {
    EditRatios {
        group: group(metrics),
        counts: metrics.edit_ratio_histogram.to_vec(),
    }
}

fn verdicts_of(row: judge::Row) -> Verdicts {
    Verdicts {
        group: Group {
            upstream: row.upstream,
            dataset: row.dataset,
            aligner: row.aligner,
        },
        dimension: row.dimension,
        tally: row.tally,
        win_rate: row.win_rate,
        p: Some(row.sign_test_p),
        contradictions: Some(row.contradictions),
        judge: row.judge,
    }
}

/// Tables of figures; those without any figure are left out.
fn tables(metrics: &[TextMetrics]) -> Vec<Table> {
    type Figures = fn(&TextMetrics) -> Vec<Figure>;
    let parts: [(&str, &str, Figures); 4] = [
        (
            "Changes",
            "How many answers were left as they are, and how much of the words of each was changed. A second pass corrects corrections: a good Aligner copies them.",
            changes,
        ),
        (
            "Refusals",
            "Answers and corrections that decline; of answers that did not, how many corrections do, and of those that did, how many do not any more.",
            refusals,
        ),
        (
            "Likeness to references",
            "The highest likeness to a right reference, and the share of rows in which it is above the highest likeness to a wrong one.",
            likeness,
        ),
        (
            "Words",
            "Distinct n-grams of all texts together, and runs of words shared with references, which hint at answers that were known beforehand.",
            words,
        ),
    ];
    let tables = parts.into_iter().map(|(title, about, figures)| Table {
        title: title.into(),
        about: about.into(),
        rows: metrics
            .iter()
            .map(|metrics| Row {
                group: group(metrics),
                figures: figures(metrics),
            })
            .filter(|row| !row.figures.is_empty())
            .collect(),
    });
    tables.filter(|table| !table.rows.is_empty()).collect()
}

fn changes(metrics: &TextMetrics) -> Vec<Figure> {
    let mut figures = vec![
        Figure::new("rows", metrics.rows as f64, Unit::Count),
        Figure::new("copied", metrics.copy_rate, Unit::Share),
        Figure::new("edit ratio", metrics.edit_ratio, Unit::Share),
    ];
    if let Some(ratio) = metrics.length.ratio {
        figures.push(Figure::new("length", ratio, Unit::Share));
    }
    if let Some(second) = &metrics.second_pass {
        figures.push(Figure::new(
            "copied by a second pass",
            second.copy_rate,
            Unit::Share,
        ));
    }
    figures.push(Figure::new("cut", metrics.cut_rate, Unit::Share));
    if let Some(perplexity) = &metrics.reference_perplexity {
        figures.push(Figure::new(
            "perplexity of references",
            perplexity.value,
            Unit::Plain,
        ));
    }
    figures
}

fn refusals(metrics: &TextMetrics) -> Vec<Figure> {
    let refusals = &metrics.refusals;
    let mut figures = vec![
        Figure::new("before", refusals.original_rate, Unit::Share),
        Figure::new("after", refusals.output_rate, Unit::Share),
    ];
    if let Some(rate) = refusals.over_refusal_rate {
        figures.push(Figure::new("newly refused", rate, Unit::Share));
    }
    if let Some(rate) = refusals.removed_rate {
        figures.push(Figure::new("removed", rate, Unit::Share));
    }
    figures
}

fn likeness(metrics: &TextMetrics) -> Vec<Figure> {
    let kinds = [("ROUGE-L", &metrics.rouge_l), ("embedding", &metrics.embedding)];
    let known = kinds
        .into_iter()
        .filter_map(|(name, found)| found.as_ref().map(|found| (name, found)));
    known
        .flat_map(|(name, found)| of_similarity(name, found))
        .collect()
}

fn of_similarity(name: &str, found: &Similarity) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (when, scores) in [("before", &found.original), ("after", &found.output)] {
        figures.push(Figure::new(format!("{name} {when}"), scores.correct, Unit::Plain));
        if let Some(accuracy) = scores.accuracy {
            figures.push(Figure::new(
                format!("{name}, nearer to right, {when}"),
                accuracy,
                Unit::Share,
            ));
        }
    }
    figures
}

fn words(metrics: &TextMetrics) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (index, (before, after)) in metrics
        .distinct
        .original
        .iter()
        .zip(metrics.distinct.output)
        .enumerate()
    {
        let n = index + 1;
        figures.push(Figure::new(format!("distinct-{n} before"), *before, Unit::Plain));
        figures.push(Figure::new(format!("distinct-{n} after"), after, Unit::Plain));
    }
    if let Some(found) = &metrics.contamination {
        figures.push(Figure::new(
            "overlap before",
            found.original_overlap_rate,
            Unit::Share,
        ));
        figures.push(Figure::new(
            "overlap after",
            found.output_overlap_rate,
            Unit::Share,
        ));
    }
    figures
}
