//! The page.

mod tables;

use std::fmt::Write;

use crate::chart::{Chart, Curve, Style, Unit};
use crate::facts::Facts;
use crate::kit::number::{bytes, compact, duration, grouped, percent};
use crate::kit::{Escaped, histogram, page as shell};
use crate::metrics::Metrics;
use crate::samples::Samples;

/// What the model does to answers: field of a validation's record, name, colour.
const BEHAVIOUR: [(&str, &str, u8); 4] = [
    ("copy_rate", "copy rate", 1),
    ("edit_ratio", "edit ratio", 2),
    ("copy_retention", "copy retention", 3),
    ("exact_match", "exact match", 4),
];

/// Numbers that have their place, or say nothing as a curve.
const KNOWN: [&str; 10] = [
    "loss",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "epoch",
    "tokens",
    "target_tokens",
    "seconds",
    "peak_rss_bytes",
    "eval_seconds",
];

/// The whole page.
pub fn page(facts: &Facts, metrics: &Metrics, samples: &Samples) -> String {
    let mut html = head(facts, metrics);
    html += &curves(metrics);
    html += &behaviour(metrics, samples);
    html += &tables::samples(samples);
    html += &tables::lineage(facts);
    html += &others(metrics);
    html += &tables::configuration(facts);
    html += &foot(metrics);
    shell(&format!("{} – training run", facts.name), "", &html)
}

fn head(facts: &Facts, metrics: &Metrics) -> String {
    let (mood, outcome) = outcome(facts, metrics);
    let mut html = format!(
        "<header><p class=\"kind\">Training run</p><h1>{}</h1><p class=\"outcome {mood}\">{outcome}</p></header>\n",
        Escaped(&facts.name)
    );
    if metrics.damaged > 0 {
        let _ = writeln!(
            html,
            "<p class=\"notice\">{} lines of metrics.jsonl could not be read and are left out.</p>",
            grouped(metrics.damaged)
        );
    }
    html += "<dl class=\"tiles\">";
    let mut tile = |name: &str, value: String| {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    tile("steps", grouped(metrics.step));
    if metrics.epoch > 0.0 {
        tile("epochs", compact(metrics.epoch));
    }
    if let Some(loss) = metrics.series("train", "loss") {
        let smoothed = loss.smoothed().last().map(|point| point.1).or(loss.last());
        tile("training loss", smoothed.map(compact).unwrap_or_default());
    }
    if let Some((loss, step)) = metrics.best {
        let value = compact(loss);
        tile(
            "best validation loss",
            format!("{value} <small>step {}</small>", grouped(step)),
        );
    }
    if metrics.tokens > 0 {
        tile("tokens", compact(metrics.tokens as f64));
    }
    if metrics.seconds > 0.0 {
        tile("time in steps", duration(metrics.seconds));
        let speed = metrics.tokens as f64 / metrics.seconds;
        tile("speed", format!("{} <small>tokens/s</small>", compact(speed)));
    }
    if metrics.peak_bytes > 0.0 {
        tile("peak memory", bytes(metrics.peak_bytes));
    }
    html + "</dl>\n"
}

/// How the run ended, for the eye and in words.
fn outcome(facts: &Facts, metrics: &Metrics) -> (&'static str, String) {
    let done = grouped(metrics.step);
    let total = facts.total_steps;
    match (facts.is_finished, total) {
        (true, Some(total)) if metrics.step > 0 && metrics.step < total => (
            "good",
            format!(
                "Stopped early after {done} of {} steps: validation stopped gaining",
                grouped(total)
            ),
        ),
        (true, _) => ("good", format!("Finished after {done} steps")),
        (false, total) => {
            let of = total.map_or_else(String::new, |total| format!(" of {}", grouped(total)));
            let saved = match facts.checkpoint_step {
                Some(step) => format!("the newest checkpoint is of step {}", grouped(step)),
                None => "there is no checkpoint yet".into(),
            };
            (
                "open",
                format!(
                    "Not finished: {done}{of} steps are recorded, {saved}. Unless it is running: \
                     <code>aligner train <span>--resume</span> <span>--out</span> {}</code>",
                    Escaped(&facts.place.display().to_string())
                ),
            )
        }
    }
}

fn curves(metrics: &Metrics) -> String {
    let mut html = String::from("<section><h2>Training</h2>");
    html += &loss(metrics);
    html += "<div class=\"pair\">";
    html += &training(metrics, "lr", "Learning rate");
    html += &training(metrics, "grad_norm", "Gradient norm");
    html += &training(metrics, "tokens_per_second", "Tokens per second");
    html + "</div></section>\n"
}

fn loss(metrics: &Metrics) -> String {
    let train = metrics.series("train", "loss");
    let mut curves = Vec::new();
    if let Some(series) = train {
        let smoothed = series.smoothed();
        let (style, name) = if smoothed.is_empty() {
            (Style::Line, "training")
        } else {
            (Style::Faint, "training, every step")
        };
        curves.push(Curve {
            name,
            colour: 1,
            points: series.points(),
            style,
        });
        if !smoothed.is_empty() {
            curves.push(Curve {
                name: "training, smoothed",
                colour: 1,
                points: smoothed,
                style: Style::Line,
            });
        }
    }
    if let Some(series) = metrics.series("valid", "loss") {
        curves.push(Curve {
            name: "validation",
            colour: 2,
            points: series.points(),
            style: Style::Dots,
        });
    }
    Chart {
        title: "Loss",
        about: "Mean negative log-likelihood of a target token, in nats, over the steps.",
        band: train.map(|series| series.buckets()),
        curves,
        steps: metrics.step as f64,
        stages: &metrics.stages,
        unit: Unit::Plain,
    }
    .html()
}

/// One curve of the training steps.
fn training(metrics: &Metrics, field: &str, title: &str) -> String {
    curve(metrics, "train", field, title)
}

fn curve(metrics: &Metrics, split: &str, field: &str, title: &str) -> String {
    let Some(series) = metrics.series(split, field) else {
        return String::new();
    };
    let colour = if split == "valid" { 2 } else { 1 };
    let smoothed = if split == "valid" || field == "lr" {
        Vec::new()
    } else {
        series.smoothed()
    };
    let style = match (split, smoothed.is_empty()) {
        ("valid", _) => Style::Dots,
        (_, true) => Style::Line,
        (_, false) => Style::Faint,
    };
    let of = |points, style| Curve {
        name: "",
        colour,
        points,
        style,
    };
    let mut curves = vec![of(series.points(), style)];
    if !smoothed.is_empty() {
        curves.push(of(smoothed, Style::Line));
    }
    Chart {
        title,
        about: "",
        band: Some(series.buckets()),
        curves,
        steps: metrics.step as f64,
        stages: &metrics.stages,
        unit: Unit::Plain,
    }
    .html()
}

/// What the model does to answers, and the validations as a table.
fn behaviour(metrics: &Metrics, samples: &Samples) -> String {
    if metrics.validations.is_empty() && samples.count == 0 {
        return String::new();
    }
    let mut html = String::from("<section><h2>Validation</h2>");
    let curves: Vec<Curve> = BEHAVIOUR
        .iter()
        .filter_map(|&(field, name, colour)| {
            let points = metrics.series("valid", field)?.points();
            Some(Curve {
                name,
                colour,
                points,
                style: Style::Dots,
            })
        })
        .collect();
    html += &Chart {
        title: "What the model does to answers",
        about: "Copy rate: corrections that are the answer. Edit ratio: share of the words that changed. Copy retention: \
                answers that needed no change and were left alone. Exact match: corrections that are the reference.",
        band: None,
        curves,
        steps: metrics.step as f64,
        stages: &metrics.stages,
        unit: Unit::Share,
    }
    .html();
    if samples.count > 0 {
        let about = format!(
            "{} samples after step {}: {} unchanged. 0 % is a copy of the answer, at 100 % no word was kept.",
            grouped(samples.count),
            grouped(samples.step),
            percent(samples.unchanged as f64 / samples.count as f64)
        );
        html += &histogram("Edit ratio of the samples", &about, &samples.histogram);
    }
    html += &tables::validations(metrics, &BEHAVIOUR);
    html + "</section>\n"
}

/// Numbers that this crate has never heard of.
fn others(metrics: &Metrics) -> String {
    let is_known = |name: &str| KNOWN.contains(&name) || BEHAVIOUR.iter().any(|(field, ..)| *field == name);
    let charts: String = metrics
        .all()
        .filter(|(_, name, _)| !is_known(name))
        .map(|(split, name, _)| curve(metrics, split, name, &format!("{split}/{name}")))
        .collect();
    if charts.is_empty() {
        return String::new();
    }
    format!("<section><h2>Other numbers</h2><div class=\"pair\">{charts}</div></section>\n")
}

fn foot(metrics: &Metrics) -> String {
    let merged = metrics
        .all()
        .any(|(.., series)| series.buckets().iter().any(|bucket| bucket.count > 1));
    let merged = if merged {
        " Where there are more steps than a curve has points, it shows the mean of neighbouring ones, and the shade from \
         the lowest to the highest."
    } else {
        ""
    };
    format!(
        "<footer><p>Drawn by aligner {} ({}, {}) from the files of the run directory.{merged}</p></footer>\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}
