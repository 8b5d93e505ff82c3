//! The penalty's strength, by grouped cross-validation as scikit-learn's `LogisticRegressionCV` with `GroupKFold` does it.

use super::logistic::{FEATURES, Sample, log_loss, minimise};
use crate::error::{EvalError, Result};

/// Folds.
const FOLDS: usize = 5;

/// Candidates for the inverse strength of the penalty: from 1e-4 to 1e4, evenly in logarithms.
const CANDIDATES: usize = 10;

/// Weights and the penalty they were fitted with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fitted {
    pub(super) weights: [f64; FEATURES],
    pub(super) c: f64,
}

/// Chooses the penalty that predicts held-out samples best, and fits all samples with it. The weaker of equally good ones
/// yields.
///
/// # Errors
///
/// Fewer samples than folds.
pub(super) fn fit(samples: &[Sample]) -> Result<Fitted> {
    if samples.len() < FOLDS {
        return Err(EvalError::Invalid(format!(
            "a length-controlled win rate needs {FOLDS} rows with a preference, gamed ones included; there are {}",
            samples.len()
        )));
    }
    let mut losses = [0.0; CANDIDATES];
    for held_out in 0..FOLDS {
        add_losses(samples, held_out, &mut losses)?;
    }
    let best = (0..CANDIDATES).fold(0, |best, at| if losses[at] < losses[best] { at } else { best });
    let c = candidate(best);
    let weights = minimise(samples, c, [0.0; FEATURES])?;
    Ok(Fitted { weights, c })
}

/// Adds each candidate's mean loss on one fold, fitted on the others.
fn add_losses(samples: &[Sample], held_out: usize, losses: &mut [f64; CANDIDATES]) -> Result<()> {
    let of_fold = |at: usize| fold(at, samples.len()) == held_out;
    let pick = |held: bool| -> Vec<Sample> {
        let picked = samples.iter().enumerate().filter(|(at, _)| of_fold(*at) == held);
        picked.map(|(_, sample)| *sample).collect()
    };
    let (tested, trained) = (pick(true), pick(false));
    let mut weights = [0.0; FEATURES];
    for (at, loss) in losses.iter_mut().enumerate() {
        weights = minimise(&trained, candidate(at), weights)?;
        *loss += log_loss(&tested, &weights) / tested.len() as f64;
    }
    Ok(())
}

/// The fold of a sample. A group is a sample with its two labels, so all are of one size, and `GroupKFold` deals them out
/// from the last.
fn fold(at: usize, count: usize) -> usize {
    (count - 1 - at) % FOLDS
}

fn candidate(at: usize) -> f64 {
    10f64.powf(-4.0 + 8.0 * at as f64 / (CANDIDATES - 1) as f64)
}
