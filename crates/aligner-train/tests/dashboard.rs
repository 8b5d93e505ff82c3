//! What burn-train's dashboard is given: at the seam where a renderer draws.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aligner_train::{RunOptions, Split, StepRecord, fine_tune};
use burn_train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn_train::metric::{MetricDefinition, MetricId, NumericEntry};
use burn_train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};
use lab::writer::Writer;
use lab::{Lab, records};

/// What was drawn: split, metric, its text, and its point in the plot.
#[derive(Debug, Clone, PartialEq)]
struct Drawn {
    split: Split,
    name: String,
    text: String,
    point: Option<f64>,
}

#[derive(Clone, Default)]
struct Recorder {
    names: Arc<Mutex<HashMap<MetricId, String>>>,
    drawn: Arc<Mutex<Vec<Drawn>>>,
}

impl Recorder {
    fn draw(&self, split: Split, state: MetricState) {
        let (entry, point) = match state {
            MetricState::Generic(entry) => (entry, None),
            MetricState::Numeric(entry, point) => (entry, point),
        };
        let point = point.and_then(|point| match point {
            NumericEntry::Value(value) => Some(value),
            NumericEntry::Aggregated { aggregated_value, .. } => Some(aggregated_value),
            // The mean of a split that has ended, not a point of its own.
            NumericEntry::Final(_) => None,
        });
        self.drawn.lock().unwrap().push(Drawn {
            split,
            name: self.names.lock().unwrap()[&entry.metric_id].clone(),
            text: entry.serialized_entry.formatted,
            point,
        });
    }

    fn of(&self, split: Split, name: &str) -> Vec<Drawn> {
        let drawn = self.drawn.lock().unwrap();
        let of = drawn
            .iter()
            .filter(|drawn| drawn.split == split && drawn.name == name);
        of.cloned().collect()
    }

    fn points(&self, split: Split, name: &str) -> Vec<f64> {
        self.of(split, name)
            .iter()
            .filter_map(|drawn| drawn.point)
            .collect()
    }
}

impl MetricsRendererTraining for Recorder {
    fn update_train(&mut self, state: MetricState) {
        self.draw(Split::Train, state);
    }
    fn update_valid(&mut self, state: MetricState) {
        self.draw(Split::Valid, state);
    }
}

impl MetricsRendererEvaluation for Recorder {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl TrainingProgressLogger for Recorder {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn update_epoch(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Recorder {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRenderer for Recorder {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, definition: MetricDefinition) {
        let name = definition.name.to_string();
        self.names.lock().unwrap().insert(definition.metric_id, name);
    }
}

/// The measures of a validation by the names they are drawn under.
fn measures(record: &StepRecord) -> [(&'static str, f64); 4] {
    let text = record.text.unwrap();
    [
        ("Exact match", text.exact_match),
        ("Copy rate", text.copy_rate),
        ("Edit ratio", text.edit_ratio),
        ("Copy retention", text.copy_retention),
    ]
}

/// But for the last bit, which reading a number back from JSON may change.
fn is_same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * b.abs()
}

#[test]
fn what_the_model_writes_is_drawn_beside_the_loss_at_every_validation() {
    let lab = Lab::new();
    let recorder = Recorder::default();
    let options = RunOptions {
        renderer: Some(Box::new(recorder.clone())),
        ..Writer::default().options()
    };
    let outcome = fine_tune(&lab.config("run"), options).unwrap();
    let records = records(&outcome.run);
    let (valid, train): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.split == Split::Valid);
    assert_eq!((valid.len(), train.len()), (3, 12));
    for (index, record) in valid.iter().enumerate() {
        for (name, value) in measures(record) {
            // One point a validation, though its batches are three: the others have no value to draw.
            let points = recorder.points(Split::Valid, name);
            assert_eq!(points.len(), valid.len(), "{name}");
            assert!(is_same(points[index], value), "{name}: {points:?}");
            let text = format!("{value:.3}");
            let texts: Vec<String> = recorder
                .of(Split::Valid, name)
                .into_iter()
                .map(|drawn| drawn.text)
                .collect();
            assert!(
                texts.iter().any(|drawn| drawn.contains(&text)),
                "{name}: {text} in {texts:?}"
            );
            assert!(recorder.of(Split::Train, name).is_empty(), "{name}");
        }
    }
    assert_eq!(recorder.points(Split::Valid, "Loss").len(), 3 * 3);
    let speeds: Vec<f64> = train.iter().map(|record| record.tokens_per_second).collect();
    let drawn = recorder.points(Split::Train, "Speed");
    assert_eq!(drawn.len(), speeds.len());
    assert!(
        drawn.iter().zip(&speeds).all(|(a, b)| is_same(*a, *b)),
        "{drawn:?} {speeds:?}"
    );
    assert!(
        recorder
            .of(Split::Train, "Speed")
            .iter()
            .all(|drawn| drawn.text.contains("tokens/s"))
    );
}

#[test]
fn a_run_without_a_sample_draws_no_empty_measures() {
    let lab = Lab::new();
    let recorder = Recorder::default();
    let options = RunOptions {
        renderer: Some(Box::new(recorder.clone())),
        ..RunOptions::default()
    };
    fine_tune(&lab.config("run"), options).unwrap();
    let names = recorder.names.lock().unwrap().clone();
    assert!(names.values().any(|name| name == "Speed"), "{names:?}");
    assert!(!names.values().any(|name| name == "Copy rate"), "{names:?}");
}
