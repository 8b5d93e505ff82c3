//! The second-order model of a Newton step.

use super::{FEATURES, Sample, Weights, add, dot, logistic, norm};

/// The loss around a point, to the second order and without the penalty.
#[derive(Debug)]
pub(super) struct Quadratic {
    pub(super) gradient: Weights,
    hessian: [Weights; FEATURES],
}

impl Quadratic {
    pub(super) fn at(samples: &[Sample], c: f64, weights: &Weights) -> Self {
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
    pub(super) fn violation(&self, weights: &Weights) -> f64 {
        let miss = |(gradient, weight): (&f64, &f64)| {
            if *weight == 0.0 {
                (gradient.abs() - 1.0).max(0.0)
            } else {
                (gradient + weight.signum()).abs()
            }
        };
        self.gradient.iter().zip(weights).map(miss).fold(0.0, f64::max)
    }

    /// The step to the minimum of this model with the penalty.
    ///
    /// Where the signs of the weights are known the model is a smooth one; three weights have 27 patterns of signs, and each
    /// is solved. Coordinate descent crawls where features are nearly collinear.
    pub(super) fn direction(&self, weights: &Weights) -> Weights {
        let mut best = weights.map(|weight| -weight);
        let mut least = self.value(weights, &best);
        for pattern in 1..3usize.pow(FEATURES as u32) {
            let signs = std::array::from_fn(|at| [0.0, 1.0, -1.0][pattern / 3usize.pow(at as u32) % 3]);
            let Some(direction) = self.solve(weights, &signs) else {
                continue;
            };
            let value = self.value(weights, &direction);
            if value < least {
                (best, least) = (direction, value);
            }
        }
        best
    }

    /// What the model says of a step, up to a constant.
    fn value(&self, weights: &Weights, direction: &Weights) -> f64 {
        let bend = self.hessian.map(|row| dot(&row, direction));
        dot(&self.gradient, direction) + 0.5 * dot(&bend, direction) + norm(&add(weights, direction, 1.0))
    }

    /// The step after which the slope is 0, where the penalty is `signs`·w and weights of sign 0 are 0. None if there is none
    /// or more than one.
    fn solve(&self, weights: &Weights, signs: &Weights) -> Option<Weights> {
        let mut rows = self.hessian;
        let mut right: Weights = std::array::from_fn(|at| -self.gradient[at] - signs[at]);
        for at in (0..FEATURES).filter(|at| signs[*at] == 0.0) {
            rows[at] = std::array::from_fn(|column| f64::from(u8::from(column == at)));
            right[at] = -weights[at];
        }
        for at in 0..FEATURES {
            let largest = |a: &usize, b: &usize| rows[*a][at].abs().total_cmp(&rows[*b][at].abs());
            let pivot = (at..FEATURES).max_by(largest)?;
            rows.swap(at, pivot);
            right.swap(at, pivot);
            for below in at + 1..FEATURES {
                let factor = rows[below][at] / rows[at][at];
                rows[below] = add(&rows[below], &rows[at], -factor);
                right[below] -= factor * right[at];
            }
        }
        let mut step = [0.0; FEATURES];
        for at in (0..FEATURES).rev() {
            step[at] = (right[at] - dot(&rows[at], &step)) / rows[at][at];
        }
        // What is 0 is so without rounding.
        for at in (0..FEATURES).filter(|at| signs[*at] == 0.0) {
            step[at] = -weights[at];
        }
        step.iter().all(|value| value.is_finite()).then_some(step)
    }
}
