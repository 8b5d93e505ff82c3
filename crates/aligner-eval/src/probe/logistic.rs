//! Logistic regression with an L2 penalty, by Newton's method.

use super::matrix::{Matrix, Sum, dot};

/// The gradient's length at which a fit is done.
const TOLERANCE: f64 = 1e-7;
/// Steps of Newton's method; it takes about ten.
const MOST_STEPS: usize = 100;
/// Products with the Hessian in each.
const MOST_PRODUCTS: usize = 250;

/// `−ln σ(logit)` where the label is true, else `−ln σ(−logit)`.
pub(crate) fn log_loss(logit: f64, label: bool) -> f64 {
    let margin = if label { logit } else { -logit };
    // No exponential of a large number.
    (-margin).max(0.0) + (-margin.abs()).exp().ln_1p()
}

fn sigmoid(logit: f64) -> f64 {
    let small = (-logit.abs()).exp();
    if logit >= 0.0 {
        1.0 / (1.0 + small)
    } else {
        small / (1.0 + small)
    }
}

/// The minimum of `mean log loss + l2/2 · |weights|²`, found from `start`; the intercept has no penalty. `l2` is above 0.
///
/// Where all labels are the same there is no minimum, and no weight is given to anything.
pub(crate) fn fit(x: &Matrix, labels: &[bool], l2: f64, start: Sum) -> Sum {
    let positive = labels.iter().filter(|&&label| label).count();
    if positive == 0 || positive == labels.len() {
        let mut only = Sum::zeros(x.width);
        only.intercept = ((positive as f64 + 0.5) / ((labels.len() - positive) as f64 + 0.5)).ln();
        return only;
    }
    let problem = Problem { x, labels, l2 };
    let mut at = start;
    let mut logits = x.times(&at);
    for _ in 0..MOST_STEPS {
        let gradient = problem.gradient(&at, &logits);
        let square = gradient.dot(&gradient);
        if square.sqrt() <= TOLERANCE {
            break;
        }
        let step = problem.newton_step(&gradient, &logits);
        let moved = x.times(&step);
        let slope = gradient.dot(&step);
        let before = problem.value(&at, &logits);
        let mut factor = 1.0;
        // A full step but far from the minimum.
        let next = loop {
            let mut next = at.clone();
            next.add(factor, &step);
            let logits: Vec<f64> = logits.iter().zip(&moved).map(|(a, b)| a + factor * b).collect();
            if problem.value(&next, &logits) <= before + 1e-4 * factor * slope {
                break Some((next, logits));
            }
            factor /= 2.0;
            if factor < 1e-9 {
                break None;
            }
        };
        // As near as numbers of this precision come.
        let Some(next) = next else { break };
        (at, logits) = next;
    }
    at
}

struct Problem<'a> {
    x: &'a Matrix,
    labels: &'a [bool],
    l2: f64,
}

impl Problem<'_> {
    fn value(&self, at: &Sum, logits: &[f64]) -> f64 {
        let losses = logits.iter().zip(self.labels);
        let loss: f64 = losses.map(|(&logit, &label)| log_loss(logit, label)).sum();
        loss / logits.len() as f64 + self.l2 / 2.0 * dot(&at.weights, &at.weights)
    }

    fn gradient(&self, at: &Sum, logits: &[f64]) -> Sum {
        let count = logits.len() as f64;
        let errors: Vec<f64> = logits
            .iter()
            .zip(self.labels)
            .map(|(&logit, &label)| (sigmoid(logit) - f64::from(u8::from(label))) / count)
            .collect();
        let mut gradient = self.x.transposed_times(&errors);
        gradient.add_penalty(self.l2, at);
        gradient
    }

    /// The Hessian times a direction; `curvature` is each row's `p (1 − p) / rows`.
    fn hessian_times(&self, direction: &Sum, curvature: &[f64]) -> Sum {
        let mut scaled = self.x.times(direction);
        scaled.iter_mut().zip(curvature).for_each(|(a, c)| *a *= c);
        let mut product = self.x.transposed_times(&scaled);
        product.add_penalty(self.l2, direction);
        product
    }

    /// `−H⁻¹ g` by conjugate gradients, the more exact the nearer the minimum is (Nocedal & Wright, *Numerical Optimization*,
    /// algorithm 7.1).
    fn newton_step(&self, gradient: &Sum, logits: &[f64]) -> Sum {
        let count = logits.len() as f64;
        let curvature: Vec<f64> = logits
            .iter()
            .map(|&logit| sigmoid(logit) * sigmoid(-logit) / count)
            .collect();
        let mut step = Sum::zeros(self.x.width);
        let mut residual = Sum::zeros(self.x.width);
        residual.add(-1.0, gradient);
        let mut direction = residual.clone();
        let mut square = residual.dot(&residual);
        let length = square.sqrt();
        let enough = length * length.sqrt().min(0.1);
        for _ in 0..MOST_PRODUCTS {
            let product = self.hessian_times(&direction, &curvature);
            let bent = direction.dot(&product);
            if bent <= 0.0 {
                break;
            }
            let factor = square / bent;
            step.add(factor, &direction);
            residual.add(-factor, &product);
            let next = residual.dot(&residual);
            if next.sqrt() <= enough {
                break;
            }
            direction.scale_and_add(next / square, &residual);
            square = next;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aligner_data::Random;

    fn data(rows: usize, width: usize, seed: u64) -> (Matrix, Vec<bool>) {
        let mut random = Random(seed);
        let values: Vec<f64> = (0..rows * width).map(|_| 4.0 * random.unit() - 2.0).collect();
        let x = Matrix { width, values };
        let labels = x.rows().map(|row| row[0] + random.unit() > 0.7).collect();
        (x, labels)
    }

    #[test]
    fn a_fit_ends_where_the_gradient_is_nothing() {
        // Fewer rows than columns, which can be told apart without error, and more.
        for (rows, width) in [(40, 100), (300, 7), (50, 1)] {
            let (x, labels) = data(rows, width, 3);
            for l2 in [100.0, 1.0, 0.01, 1e-4] {
                let at = fit(&x, &labels, l2, Sum::zeros(width));
                // Computed here once more, without the sums of the fit.
                let mut gradient = vec![0.0; width + 1];
                for (row, &label) in x.rows().zip(&labels) {
                    let logit: f64 = row.iter().zip(&at.weights).map(|(a, b)| a * b).sum();
                    let p = 1.0 / (1.0 + (-logit - at.intercept).exp());
                    let error = (p - f64::from(u8::from(label))) / rows as f64;
                    gradient[width] += error;
                    (0..width).for_each(|column| gradient[column] += error * row[column]);
                }
                (0..width).for_each(|column| gradient[column] += l2 * at.weights[column]);
                let length = gradient.iter().map(|value| value * value).sum::<f64>().sqrt();
                assert!(length < 1e-6, "{rows} × {width}, {l2}: {length}");
                // From elsewhere it is the same point: the function has one minimum.
                let far = Sum {
                    weights: vec![3.0; width],
                    intercept: -5.0,
                };
                let again = fit(&x, &labels, l2, far);
                let apart = again.weights.iter().zip(&at.weights).map(|(a, b)| (a - b).abs());
                assert!(apart.fold(0.0, f64::max) < 1e-3, "{rows} × {width}, {l2}");
            }
        }
    }

    #[test]
    fn nothing_is_read_off_one_label_or_columns_that_never_change() {
        let (x, _) = data(20, 3, 1);
        let at = fit(&x, &[true; 20], 0.1, Sum::zeros(3));
        assert!(at.weights.iter().all(|&weight| weight == 0.0) && at.intercept > 3.0);
        let constant = Matrix {
            width: 2,
            values: vec![0.0; 40],
        };
        let labels: Vec<bool> = (0..20).map(|row| row < 15).collect();
        let at = fit(&constant, &labels, 0.1, Sum::zeros(2));
        assert_eq!(at.weights, [0.0, 0.0]);
        assert!((at.intercept - 3f64.ln()).abs() < 1e-5, "the share of the labels");
    }

    #[test]
    fn weights_are_those_of_scikit_learn() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/probe.json")).expect("json");
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            let list = value.as_array().expect("a list");
            list.iter()
                .map(|number| number.as_f64().expect("a number"))
                .collect()
        };
        let x = Matrix {
            width: golden["width"].as_u64().expect("width") as usize,
            values: numbers(&golden["x"]),
        };
        let labels: Vec<bool> = numbers(&golden["y"]).iter().map(|&label| label > 0.5).collect();
        let fits = golden["fits"].as_array().expect("fits");
        assert!(fits.len() >= 3);
        for expected in fits {
            let l2 = expected["l2"].as_f64().expect("l2");
            let at = fit(&x, &labels, l2, Sum::zeros(x.width));
            let weights = numbers(&expected["weights"]);
            let pairs = at.weights.iter().zip(&weights);
            let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-5, "{l2}: {apart}");
            let intercept = expected["intercept"].as_f64().expect("intercept");
            assert!((at.intercept - intercept).abs() < 1e-5);
        }
    }
}
