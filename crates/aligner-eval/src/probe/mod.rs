//! Linear probes: what can be read off hidden states, layer by layer, by a weighted sum (Alain & Bengio 2016,
//! arXiv 1610.01644).
//!
//! ```text
//!  rows of states + labels ──▶ folds by group ──▶ a probe for each fold, place and step ──▶ LayerProbe ──▶ a table, a picture
//! ```
//!
//! A probe is a logistic regression with an L2 penalty on features in units of their standard deviation. Everything that is chosen,
//! penalty and scale, is chosen on rows that the probe is not tried on, and rows of one group (a question) are never on both sides.
//! Beside each probe stands the same with the labels shuffled (a control task, Hewitt & Liang 2019, arXiv 1909.03368): what it
//! finds is what such probes find in nothing.

mod auc;
mod cross;
mod folds;
mod logistic;
mod matrix;
mod picture;
mod report;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rayon::prelude::*;

use crate::error::{EvalError, Result};
use crate::stats::{Interval, bootstrap};
use auc::Ranking;
use cross::{OutOfFold, Task};
use folds::{assign, shuffle};
pub use report::{LayerProbe, PlaceProbe, Reading, StepProbe};

/// Folds of the cross-validation.
const FOLDS: usize = 5;

/// A row whose label is to be told from its hidden states.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeRow {
    /// What is to be told.
    pub label: bool,
    /// Rows of one group are fitted to together or tried together.
    pub group: String,
    /// Steps that the row has, from the first on.
    pub steps: usize,
    /// `[places, steps, width]`: a place is the embedding, or behind a layer.
    pub states: Vec<f32>,
}

/// Probes every place at every step. The same rows and seed give the same numbers.
///
/// The intervals draw the groups anew with the probes as they are: they say how much the rows that were tried matter, not those
/// that were fitted to.
///
/// # Errors
/// When rows do not have the same places and width, or too few rows or groups have either label.
pub fn probe_layers(rows: &[ProbeRow], places: usize, seed: u64) -> Result<LayerProbe> {
    let table = Table::of(rows, places)?;
    table.check(&table.rows_at(0))?;
    let fold_of = assign(&table.labels, &table.groups, FOLDS, seed);
    let most = rows.iter().map(|row| row.steps).max().unwrap_or(0);
    // At later steps short rows are missing, and with them perhaps all of one label.
    let steps = (0..most).map(|step| (step, table.rows_at(step)));
    let steps = steps.take_while(|(_, rows)| table.check(rows).is_ok());
    let steps = steps.map(|(step, rows)| table.probe_step(step, &rows, &fold_of, seed));
    Ok(LayerProbe {
        rows: rows.len(),
        labelled: table.labels.iter().filter(|&&label| label).count(),
        groups: table.groups.iter().max().map_or(0, |last| last + 1),
        folds: FOLDS,
        seed,
        steps: steps.collect(),
    })
}

/// The rows by columns.
struct Table<'a> {
    rows: &'a [ProbeRow],
    labels: Vec<bool>,
    groups: Vec<usize>,
    places: usize,
    width: usize,
}

impl<'a> Table<'a> {
    fn of(rows: &'a [ProbeRow], places: usize) -> Result<Self> {
        let filled = rows.iter().find(|row| row.steps > 0);
        let width = filled.map_or(0, |row| row.states.len() / (row.steps * places.max(1)));
        if width == 0 {
            return Err(EvalError::Invalid("there are no hidden states to probe".into()));
        }
        for (index, row) in rows.iter().enumerate() {
            let expected = places * row.steps * width;
            if row.states.len() != expected {
                return Err(EvalError::Invalid(format!(
                    "row {index} has {} numbers for {places} places, {} steps and a width of {width}; they must be {expected}",
                    row.states.len(),
                    row.steps
                )));
            }
            if row.states.iter().any(|value| !value.is_finite()) {
                return Err(EvalError::Invalid(format!(
                    "the hidden states of row {index} are not all numbers"
                )));
            }
        }
        let mut known = HashMap::new();
        let groups = rows.iter().map(|row| {
            let next = known.len();
            *known.entry(row.group.as_str()).or_insert(next)
        });
        Ok(Self {
            groups: groups.collect(),
            labels: rows.iter().map(|row| row.label).collect(),
            rows,
            places,
            width,
        })
    }

    fn rows_at(&self, step: usize) -> Vec<usize> {
        let all = 0..self.rows.len();
        all.filter(|&row| self.rows[row].steps > step).collect()
    }

    /// Whether rows are enough that each fold can have both labels.
    fn check(&self, rows: &[usize]) -> Result<()> {
        for label in [true, false] {
            let with: Vec<usize> = rows
                .iter()
                .copied()
                .filter(|&row| self.labels[row] == label)
                .collect();
            let mut groups: Vec<usize> = with.iter().map(|&row| self.groups[row]).collect();
            groups.sort_unstable();
            groups.dedup();
            if groups.len() < 2 * FOLDS {
                return Err(EvalError::Invalid(format!(
                    "of {} rows only {}, from {} questions, {} the label; a probe needs both kinds, each from {} questions or more",
                    rows.len(),
                    with.len(),
                    groups.len(),
                    if label { "have" } else { "do not have" },
                    2 * FOLDS
                )));
            }
        }
        Ok(())
    }

    fn probe_step(&self, step: usize, rows: &[usize], fold_of: &[usize], seed: u64) -> StepProbe {
        let pick = |values: &[usize]| rows.iter().map(|&row| values[row]).collect::<Vec<_>>();
        let (groups, fold_of) = (pick(&self.groups), pick(fold_of));
        let labels: Vec<bool> = rows.iter().map(|&row| self.labels[row]).collect();
        let labelled = labels.iter().filter(|&&label| label).count();
        let places = (0..self.places).into_par_iter().map(|place| {
            let states: Vec<&[f32]> = rows.iter().map(|&row| self.states(row, place, step)).collect();
            let task = Task {
                rows: &states,
                labels: &labels,
                groups: &groups,
                fold_of: &fold_of,
                folds: FOLDS,
                seed,
            };
            // Another shuffle at each place: together they show what chance does.
            let mut shuffled = labels.clone();
            shuffle(&mut shuffled, seed ^ ((step * self.places + place) as u64 + 1));
            let control = Task {
                labels: &shuffled,
                ..task
            };
            let found = task.cross_validate();
            let mut penalties = found.penalties.clone();
            penalties.sort_by(f64::total_cmp);
            PlaceProbe {
                layer: place.checked_sub(1),
                probe: reading(&task, &found),
                shuffled: reading(&control, &control.cross_validate()),
                penalty: penalties[penalties.len() / 2],
            }
        });
        StepProbe {
            step: step + 1,
            rows: rows.len(),
            majority: labelled.max(rows.len() - labelled) as f64 / rows.len() as f64,
            places: places.collect(),
        }
    }

    fn states(&self, row: usize, place: usize, step: usize) -> &'a [f32] {
        let row = &self.rows[row];
        let start = (place * row.steps + step) * self.width;
        &row.states[start..start + self.width]
    }
}

/// How well rows are told apart by probes that have not seen them.
fn reading(task: &Task<'_>, found: &OutOfFold) -> Reading {
    let OutOfFold { logits, .. } = found;
    let right = logits.iter().zip(task.labels);
    let right: Vec<f64> = right
        .map(|(&logit, &label)| f64::from(u8::from((logit > 0.0) == label)))
        .collect();
    let ranking = Ranking::new(logits, task.fold_of, task.folds);
    let mut there: Vec<usize> = task.groups.to_vec();
    there.sort_unstable();
    there.dedup();
    let most = there.last().map_or(0, |last| last + 1);
    let by_groups = |of: &dyn Fn(&[f64]) -> f64| -> Interval {
        let drawn = |groups: &[usize]| {
            let mut times = vec![0.0; most];
            groups.iter().for_each(|&group| times[there[group]] += 1.0);
            let weights: Vec<f64> = task.groups.iter().map(|&group| times[group]).collect();
            of(&weights)
        };
        // There are groups: the rows were checked.
        bootstrap(there.len(), task.seed, drawn).unwrap_or(Interval {
            value: 0.5,
            low: 0.0,
            high: 1.0,
        })
    };
    Reading {
        accuracy: by_groups(&|weights| {
            let sum: f64 = right
                .iter()
                .zip(weights)
                .map(|(right, weight)| right * weight)
                .sum();
            sum / weights.iter().sum::<f64>()
        }),
        auc: by_groups(&|weights| ranking.auc(task.labels, weights)),
    }
}
