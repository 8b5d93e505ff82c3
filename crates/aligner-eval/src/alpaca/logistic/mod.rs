//! Logistic regression with an L1 penalty, to the optimum.
//!
//! ```text
//!  minimise  ‖w‖₁ + C · Σ weight · (log(1 + exp(w·x)) − label · w·x)
//! ```
//!
//! A label between 0 and 1 is what scikit-learn gets as two samples, label 1 with weight `weight·label` and label 0 with the
//! rest: the sums are the same. The objective is that of liblinear; there is no intercept.
//!
//! Solved by proximal Newton steps (Yuan, Ho & Lin 2012, *An Improved GLMNET for L1-regularized Logistic Regression*): the
//! minimum of the second-order model with the penalty, then a line search.

mod quadratic;

use quadratic::Quadratic;

use crate::error::{EvalError, Result};

/// Features of a sample.
pub(super) const FEATURES: usize = 3;

/// Newton steps before a fit is given up.
const STEPS: usize = 200;

/// Halvings of a step before it is given up.
const HALVINGS: i32 = 60;

/// How far the optimality conditions may be missed, as a share of the largest gradient that the samples could have.
const TOLERANCE: f64 = 1e-10;

type Weights = [f64; FEATURES];

/// What is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    pub(super) features: Weights,
    /// From 0 to 1.
    pub(super) label: f64,
    pub(super) weight: f64,
}

/// `1 / (1 + exp(−x))`.
pub(super) fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The weighted log loss, with probabilities kept off 0 and 1 as AlpacaEval does.
pub(super) fn log_loss(samples: &[Sample], weights: &Weights) -> f64 {
    let loss = |sample: &Sample| {
        let p = logistic(dot(&sample.features, weights)).clamp(1e-15, 1.0 - 1e-15);
        -sample.weight * (sample.label * p.ln() + (1.0 - sample.label) * (1.0 - p).ln())
    };
    samples.iter().map(loss).sum()
}

/// The weights with the least penalised loss, from `start`.
///
/// # Errors
///
/// The steps do not settle, which numbers near the end of their range may cause.
pub(super) fn minimise(samples: &[Sample], c: f64, start: Weights) -> Result<Weights> {
    let pull: f64 = samples
        .iter()
        .map(|sample| sample.weight * norm(&sample.features))
        .sum();
    let allowed = TOLERANCE * (1.0 + c * pull);
    let mut weights = start;
    let mut value = objective(samples, c, &weights);
    for _ in 0..STEPS {
        let model = Quadratic::at(samples, c, &weights);
        if model.violation(&weights) <= allowed {
            return Ok(weights);
        }
        let direction = model.direction(&weights);
        let Some((next, lower)) = search(samples, c, (weights, value), direction, &model) else {
            break;
        };
        (weights, value) = (next, lower);
    }
    Err(EvalError::Invalid(format!(
        "the fit of the length-controlled win rate did not settle at C = {c:e}: look for extreme difficulties or lengths"
    )))
}

/// Halves the step until the objective falls as the model promises (Armijo).
fn search(
    samples: &[Sample],
    c: f64,
    (weights, value): (Weights, f64),
    direction: Weights,
    model: &Quadratic,
) -> Option<(Weights, f64)> {
    let full = add(&weights, &direction, 1.0);
    let promised = dot(&model.gradient, &direction) + norm(&full) - norm(&weights);
    // What rounding hides next to the optimum is no reason to stop short of it.
    let slack = 1e-13 * value.abs();
    (0..HALVINGS).find_map(|halvings| {
        let step = 0.5f64.powi(halvings);
        let next = add(&weights, &direction, step);
        let found = objective(samples, c, &next);
        (found <= value + 0.01 * step * promised + slack).then_some((next, found))
    })
}

fn objective(samples: &[Sample], c: f64, weights: &Weights) -> f64 {
    let loss = |sample: &Sample| {
        let x = dot(&sample.features, weights);
        sample.weight * (x.max(0.0) + (-x.abs()).exp().ln_1p() - sample.label * x)
    };
    norm(weights) + c * samples.iter().map(loss).sum::<f64>()
}

fn dot(a: &Weights, b: &Weights) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(weights: &Weights) -> f64 {
    weights.iter().map(|weight| weight.abs()).sum()
}

fn add(weights: &Weights, direction: &Weights, step: f64) -> Weights {
    std::array::from_fn(|at| weights[at] + step * direction[at])
}

#[cfg(test)]
mod tests;
