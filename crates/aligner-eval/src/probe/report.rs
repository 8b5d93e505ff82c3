//! What probes found, as numbers and as a table.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::picture;
use crate::stats::Interval;

/// What probes find at every place and step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerProbe {
    /// Rows.
    pub rows: usize,
    /// Those of them that have the label.
    pub labelled: usize,
    /// Groups of rows that are kept together.
    pub groups: usize,
    /// Folds of the cross-validation.
    pub folds: usize,
    /// The seed of folds, shuffles and resamples.
    pub seed: u64,
    /// By step, the first first. Later ones end where too few rows are left.
    pub steps: Vec<StepProbe>,
}

/// What probes find at one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepProbe {
    /// The step, counted from 1.
    pub step: usize,
    /// Rows that have it.
    pub rows: usize,
    /// Accuracy of always saying what most rows are.
    pub majority: f64,
    /// By place: the embedding, then behind each layer.
    pub places: Vec<PlaceProbe>,
}

/// What a probe finds at one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceProbe {
    /// The layer behind which it is, counted from 0; `None` for the embedding.
    pub layer: Option<usize>,
    /// On the labels.
    pub probe: Reading,
    /// On the labels shuffled.
    pub shuffled: Reading,
    /// The L2 penalty that was chosen, the middle one of the folds.
    pub penalty: f64,
}

/// How well rows are told apart that a probe was not fitted to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Share of rows that are told rightly.
    pub accuracy: Interval,
    /// How often, of a row with and one without the label, the former has the higher score.
    pub auc: Interval,
}

impl PlaceProbe {
    /// `embedding`, or the number of the layer.
    pub fn name(&self) -> String {
        self.layer
            .map_or_else(|| "embedding".into(), |layer| layer.to_string())
    }
}

impl StepProbe {
    /// The first and the last of the first places, two or more in a row, where the interval of the accuracy lies above the
    /// majority's. One place alone among many may be there by chance.
    pub fn above_majority(&self) -> Option<[&PlaceProbe; 2]> {
        let above = |place: &PlaceProbe| place.probe.accuracy.low > self.majority;
        let runs = self.places.chunk_by(|a, b| above(a) == above(b));
        runs.into_iter().find_map(|run| match run {
            [first, .., last] if above(first) => Some([first, last]),
            _ => None,
        })
    }

    /// The first of the places with the highest accuracy.
    pub fn best(&self) -> Option<&PlaceProbe> {
        let accuracy = |place: &PlaceProbe| place.probe.accuracy.value;
        let highest = self.places.iter().map(accuracy).fold(0.0, f64::max);
        self.places.iter().find(|place| accuracy(place) >= highest)
    }
}

impl LayerProbe {
    /// A table for people: the first step with intervals, AUC and control, the others' accuracies.
    pub fn table(&self) -> String {
        let Some(first) = self.steps.first() else {
            return String::new();
        };
        let mut text = format!(
            "{:<10}{:>8}  {:<13}{:>7}  {:<13}{:>9}",
            "behind", "step 1", "95 %", "AUC", "95 %", "shuffled"
        );
        for step in &self.steps[1..] {
            let _ = write!(text, "{:>9}", format!("step {}", step.step));
        }
        text.push('\n');
        for (index, place) in first.places.iter().enumerate() {
            let Reading { accuracy, auc } = place.probe;
            let _ = write!(
                text,
                "{:<10}{:>8.3}  {:<13}{:>7.3}  {:<13}{:>9.3}",
                place.name(),
                accuracy.value,
                range(accuracy),
                auc.value,
                range(auc),
                place.shuffled.accuracy.value
            );
            for step in &self.steps[1..] {
                let _ = write!(text, "{:>9.3}", step.places[index].probe.accuracy.value);
            }
            text.push('\n');
        }
        let _ = write!(text, "{:<10}{:>8.3}{:46}", "majority", first.majority, "");
        for step in &self.steps[1..] {
            let _ = write!(text, "{:>9.3}", step.majority);
        }
        text + "\n"
    }

    /// The accuracies by layer as an SVG picture that stands alone; `what` says in a few words what is told apart.
    pub fn picture(&self, what: &str) -> String {
        picture::draw(self, what)
    }
}

fn range(interval: Interval) -> String {
    format!("{:.3}–{:.3}", interval.low, interval.high)
}
