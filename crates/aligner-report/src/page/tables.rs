//! The parts of the page that are text.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Map, Value};

use crate::facts::Facts;
use crate::kit::number::{column_percent, compact, grouped, percent};
use crate::kit::{Escaped, changes, shortened};
use crate::metrics::Metrics;
use crate::samples::{Sample, Samples};

/// The last validations.
pub fn validations(metrics: &Metrics, behaviour: &[(&str, &str, u8)]) -> String {
    let has = |field: &str| {
        metrics
            .validations
            .iter()
            .any(|record| record.contains_key(field))
    };
    let shares: Vec<_> = behaviour.iter().filter(|(field, ..)| has(field)).collect();
    let mut html = String::from("<div class=\"wide\"><table><thead><tr><th>step</th><th>loss</th>");
    for (_, name, _) in &shares {
        let _ = write!(html, "<th>{name}</th>");
    }
    html += "</tr></thead><tbody>";
    for record in &metrics.validations {
        let number = |field: &str| record.get(field).and_then(Value::as_f64);
        let step = record.get("step").and_then(Value::as_u64).unwrap_or(0);
        let loss = number("loss").map(compact).unwrap_or_default();
        let best = if metrics.best.is_some_and(|(_, best)| best == step) {
            " class=\"best\""
        } else {
            ""
        };
        let _ = write!(html, "<tr{best}><td>{}</td><td>{loss}</td>", grouped(step));
        for (field, ..) in &shares {
            let _ = write!(
                html,
                "<td>{}</td>",
                number(field).map(column_percent).unwrap_or_default()
            );
        }
        html += "</tr>";
    }
    html += "</tbody></table></div>";
    let listed = metrics.validations.len() as u64;
    if listed < metrics.validation_count {
        let all = grouped(metrics.validation_count);
        let _ = write!(
            html,
            "<p class=\"about\">The last {listed} of {all} validations.</p>"
        );
    }
    if listed == 0 { String::new() } else { html }
}

/// What the model made of some answers.
pub fn samples(samples: &Samples) -> String {
    if samples.shown.is_empty() {
        return String::new();
    }
    let mut html = format!(
        "<section><h2>Samples</h2><p class=\"about\">Answers and what the model made of them after step {}: \
         <del>taken out</del>, <ins>put in</ins>. {} of {} are shown.</p>",
        grouped(samples.step),
        samples.shown.len(),
        grouped(samples.count)
    );
    samples.shown.iter().for_each(|each| html += &sample(each));
    html + "</section>\n"
}

fn sample(sample: &Sample) -> String {
    let changes = changes(&sample.answer, &sample.correction);
    let verdict = if sample.edit_ratio == 0.0 {
        "unchanged".to_string()
    } else {
        format!("{} changed", percent(sample.edit_ratio))
    };
    let reference = match (sample.reference.trim(), sample.correction.trim()) {
        ("", _) => String::new(),
        (reference, correction) if reference == correction => {
            "<p class=\"match\">as the reference</p>".into()
        }
        (reference, _) => format!(
            "<p class=\"reference\" dir=\"auto\"><b>reference</b> {}</p>",
            Escaped(reference)
        ),
    };
    let cut = if sample.is_cut {
        "<p class=\"about\">Long texts are shown from their beginning.</p>"
    } else {
        ""
    };
    format!(
        "<article><p class=\"question\" dir=\"auto\">{}</p><p class=\"diff\" dir=\"auto\">{changes}</p>{reference}{cut}\
         <p class=\"chip\">{verdict}</p></article>\n",
        Escaped(&sample.question)
    )
}

/// What the model was trained from, with and for.
pub fn lineage(facts: &Facts) -> String {
    let Some(manifest) = &facts.manifest else {
        return String::new();
    };
    let mut html = String::from("<section><h2>Lineage</h2><dl class=\"facts\">");
    for (key, name) in [
        ("base_model", "base model"),
        ("template", "prompt template"),
        ("tokenizer_hash", "tokenizer"),
        ("data_licence", "licence of the data"),
        ("created_by", "written by"),
    ] {
        // A template is an object with its text; its name is enough here.
        let value = manifest.get(key).map(|value| value.get("id").unwrap_or(value));
        if let Some(value) = value.filter(|value| !value.is_null()) {
            let _ = write!(
                html,
                "<div><dt>{name}</dt><dd>{}</dd></div>",
                Escaped(&plain(value))
            );
        }
    }
    html += "</dl>";
    let stages: Vec<&Map<String, Value>> = manifest
        .get("stages")
        .and_then(Value::as_array)
        .map(|stages| stages.iter().filter_map(Value::as_object).collect())
        .unwrap_or_default();
    html + &stage_table(&stages) + "</section>\n"
}

/// Every field that a stage has, whichever they are.
fn stage_table(stages: &[&Map<String, Value>]) -> String {
    let mut seen = BTreeSet::new();
    let keys = stages.iter().flat_map(|stage| stage.keys());
    let keys: Vec<&String> = keys.filter(|key| seen.insert(*key)).take(12).collect();
    if keys.is_empty() {
        return String::new();
    }
    let mut html = String::from("<div class=\"wide\"><table class=\"texts\"><thead><tr><th>stage</th>");
    for key in &keys {
        let _ = write!(html, "<th>{}</th>", Escaped(&key.replace('_', " ")));
    }
    html += "</tr></thead><tbody>";
    for (index, stage) in stages.iter().take(50).enumerate() {
        let _ = write!(html, "<tr><td>{}</td>", index + 1);
        for key in &keys {
            let value = stage.get(*key).map(plain).unwrap_or_default();
            let _ = write!(html, "<td>{}</td>", Escaped(&value));
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

/// A value in few words.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => match shortened(text, 80) {
            // A fingerprint is recognised by its beginning.
            _ if text.starts_with("sha256:") => format!("{}…", shortened(text, 19).0),
            (text, false) => text.to_string(),
            (text, true) => format!("{text}…"),
        },
        Value::Number(number) => match number.as_u64() {
            Some(whole) => grouped(whole),
            None => number.to_string(),
        },
        Value::Array(sources) if sources.iter().all(|source| source.get("file").is_some()) => {
            let sources: Vec<String> = sources.iter().map(source).collect();
            shortened(&sources.join(", "), 200).0.to_string()
        }
        other => shortened(&other.to_string(), 80).0.to_string(),
    }
}

/// A file of a stage's rows.
fn source(value: &Value) -> String {
    let field = |key: &str| value.get(key).map(plain);
    let weight = field("weight").map_or_else(String::new, |weight| format!(", weight {weight}"));
    format!(
        "{} ({} rows{weight})",
        field("file").unwrap_or_default(),
        field("rows").unwrap_or_default()
    )
}

/// `run.toml`, as it is.
pub fn configuration(facts: &Facts) -> String {
    match &facts.config {
        Some(config) => format!(
            "<section><h2>Configuration</h2><pre>{}</pre></section>\n",
            Escaped(config.trim_end())
        ),
        None => String::new(),
    }
}
