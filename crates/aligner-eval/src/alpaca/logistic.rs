//! Logistic regression with an L1 penalty, to the optimum.
//!
//! ```text
//!  minimise  ‖w‖₁ + C · Σ weight · (log(1 + exp(w·x)) − label · w·x)
//! ```
//!
//! A label between 0 and 1 is what scikit-learn gets as two samples, label 1 with weight `weight·label` and label 0 with the
//! rest: the sums are the same. The objective is that of liblinear; there is no intercept.
//!
//! Solved by proximal Newton steps (Yuan, Ho & Lin 2012, *An Improved GLMNET for L1-regularized Logistic Regression*):
//! coordinate descent on the second-order model, then a line search.

use crate::error::{EvalError, Result};

/// Features of a sample.
pub(super) const FEATURES: usize = 3;

/// Newton steps, of which five to fifteen are usual; few rows that a plane nearly divides take many.
const STEPS: usize = 5000;

/// Halvings of a step.
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

/// The loss around a point, to the second order and without the penalty.
#[derive(Debug)]
struct Quadratic {
    gradient: Weights,
    hessian: [Weights; FEATURES],
}

impl Quadratic {
    fn at(samples: &[Sample], c: f64, weights: &Weights) -> Self {
        let mut gradient = [0.0; FEATURES];
        let mut hessian = [[0.0; FEATURES]; FEATURES];
        for Sample {
            features,
            label,
            weight,
        } in samples
        {
            let p = logistic(dot(features, weights));
            let slope = c * weight * (p - label);
            let curvature = c * weight * p * (1.0 - p);
            for (row, x) in features.iter().enumerate() {
                gradient[row] += slope * x;
                for (sum, y) in hessian[row].iter_mut().zip(features) {
                    *sum += curvature * x * y;
                }
            }
        }
        // A feature that is always 0 has no curvature of its own.
        for (at, row) in hessian.iter_mut().enumerate() {
            row[at] += 1e-12;
        }
        Self { gradient, hessian }
    }

    /// By how much the worst coordinate misses the condition of an optimum: a subgradient of 0.
    fn violation(&self, weights: &Weights) -> f64 {
        let miss = |(gradient, weight): (&f64, &f64)| {
            if *weight == 0.0 {
                (gradient.abs() - 1.0).max(0.0)
            } else {
                (gradient + weight.signum()).abs()
            }
        };
        self.gradient.iter().zip(weights).map(miss).fold(0.0, f64::max)
    }

    /// The step to the minimum of this model with the penalty, by coordinate descent.
    fn direction(&self, weights: &Weights) -> Weights {
        let mut direction = [0.0; FEATURES];
        for _ in 0..10_000 {
            let mut moved: f64 = 0.0;
            for at in 0..FEATURES {
                let curvature = self.hessian[at][at];
                let slope = self.gradient[at] + dot(&self.hessian[at], &direction);
                let unpenalised = weights[at] + direction[at] - slope / curvature;
                let shrunk = (unpenalised.abs() - 1.0 / curvature).max(0.0) * unpenalised.signum();
                let new = shrunk - weights[at];
                moved = moved.max((new - direction[at]).abs());
                direction[at] = new;
            }
            // The next Newton step corrects what is left.
            if moved <= 1e-13 {
                break;
            }
        }
        direction
    }
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
mod tests {
    use serde_json::Value;

    use super::*;

    fn numbers(value: &Value) -> Weights {
        std::array::from_fn(|at| value[at].as_f64().unwrap())
    }

    fn golden() -> (Vec<Sample>, Value) {
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/alpaca.json")).unwrap();
        let rows = golden["fits"]["rows"].as_array().unwrap().iter();
        let samples = rows.map(|row| Sample {
            features: numbers(&row["features"]),
            label: row["label"].as_f64().unwrap(),
            weight: row["weight"].as_f64().unwrap(),
        });
        (samples.collect(), golden["fits"]["solved"].clone())
    }

    #[test]
    fn weights_are_those_of_liblinear() {
        let (samples, solved) = golden();
        for fit in solved.as_array().unwrap() {
            let c = fit["c"].as_f64().unwrap();
            let expected = numbers(&fit["weights"]);
            for start in [[0.0; FEATURES], [5.0, -5.0, 5.0]] {
                let found = minimise(&samples, c, start).unwrap();
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-6, "C = {c}: {found} and {expected}");
                    assert_eq!(*found == 0.0, expected == 0.0, "C = {c}");
                }
            }
        }
    }

    #[test]
    fn separable_and_empty_features_have_an_optimum() {
        let sample = |x: f64| Sample {
            features: [x, 0.0, x],
            label: f64::from(u8::from(x > 0.0)),
            weight: 1.0,
        };
        let samples: Vec<Sample> = [-3.0, -2.0, -0.5, 0.5, 1.0].map(sample).to_vec();
        for c in [1e-4, 1.0, 1e4] {
            let [one, none, other] = minimise(&samples, c, [0.0; FEATURES]).unwrap();
            assert_eq!(none, 0.0);
            // Two equal features share what one would get: the condition of the optimum holds for the sum.
            let gradient: f64 = samples
                .iter()
                .map(|s| c * (logistic((one + other) * s.features[0]) - s.label) * s.features[0])
                .sum();
            let expected = if one + other == 0.0 { gradient } else { -1.0 };
            assert!(
                (gradient - expected).abs() < 1e-4 && gradient >= -1.0 - 1e-4,
                "{c} {gradient}"
            );
        }
    }

    #[test]
    fn random_problems_settle_where_no_neighbour_is_better() {
        let mut random = crate::stats::Random(3);
        for round in 0..300 {
            let scale = [1e-3, 1.0, 30.0][round % 3];
            let mut sample = || Sample {
                features: std::array::from_fn(|_| scale * (2.0 * random.unit() - 1.0)),
                label: (3.0 * random.unit() - 1.0).clamp(0.0, 1.0),
                weight: 0.1 + random.unit(),
            };
            let samples: Vec<Sample> = (0..5 + round % 40).map(|_| sample()).collect();
            for c in [1e-4, 0.5, 1e4] {
                let found = minimise(&samples, c, [0.0; FEATURES]).unwrap();
                let least = objective(&samples, c, &found);
                for at in 0..FEATURES {
                    for step in [-1e-3, -1e-5, 1e-5, 1e-3] {
                        let mut neighbour = found;
                        neighbour[at] += step;
                        let value = objective(&samples, c, &neighbour);
                        assert!(value >= least * (1.0 - 1e-12), "{round} {c} {least} {value}");
                    }
                }
            }
        }
    }
}
