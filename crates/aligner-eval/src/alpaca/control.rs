//! The length-controlled win rate.

use serde::{Deserialize, Serialize};

use super::annotation::Annotation;
use super::cross_validation::{Fitted, fit};
use super::gamed::Gamed;
use super::instructions::Instructions;
use super::logistic::{Sample, logistic};
use super::{deviation, mean, standard_error};
use crate::error::Result;

/// Weight of a gamed row: AlpacaEval's `regularize_to_baseline_lambda` of 0.2, shared by two gamed models.
const GAMED_WEIGHT: f64 = 0.1;

/// A model of the judge: logit p = `delta_len`·tanh(z) + `instruction_difficulty`·difficulty + `not_gamed`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Glm {
    /// Weight of tanh(z), `z` being the standardised difference of lengths, positive where the baseline's output is longer.
    pub delta_len: f64,
    /// Weight of the instruction's difficulty.
    pub instruction_difficulty: f64,
    /// The model's strength at equal lengths and difficulty 0.
    pub not_gamed: f64,
    /// The inverse strength of the penalty, chosen by cross-validation.
    pub c: f64,
}

/// A length-controlled win rate, in percent.
#[derive(Debug)]
pub(super) struct Controlled {
    pub(super) win_rate: f64,
    pub(super) standard_error: Option<f64>,
    /// None for the baseline itself.
    pub(super) glm: Option<Glm>,
}

/// Fits the judge on rows that were checked.
pub(super) fn control(
    annotations: &[Annotation],
    instructions: &Instructions,
    gamed: &Gamed,
) -> Result<Controlled> {
    if is_baseline(annotations) {
        return Ok(Controlled {
            win_rate: 50.0,
            standard_error: (annotations.len() > 1).then_some(0.0),
            glm: None,
        });
    }
    let difficulties: Vec<f64> = annotations
        .iter()
        .filter_map(|row| instructions.difficulty(row.index))
        .collect();
    let mut samples = gamed_samples(gamed, instructions);
    samples.extend(own_samples(annotations, &difficulties));
    let Fitted { weights, c } = fit(&samples)?;
    let [delta_len, instruction_difficulty, not_gamed] = weights;
    let predicted: Vec<f64> = difficulties
        .iter()
        .map(|difficulty| logistic(instruction_difficulty * difficulty + not_gamed))
        .collect();
    Ok(Controlled {
        win_rate: 100.0 * mean(&predicted),
        standard_error: standard_error(&predicted).map(|error| 100.0 * error),
        glm: Some(Glm {
            delta_len,
            instruction_difficulty,
            not_gamed,
            c,
        }),
    })
}

/// Whether the model is the baseline, by its name or because no row tells them apart; it has a win rate of 50 by definition.
fn is_baseline(annotations: &[Annotation]) -> bool {
    annotations
        .iter()
        .all(|row| row.generator_1 == row.generator_2 || (row.win() == Some(0.5) && row.delta_len() == 0.0))
}

fn gamed_samples(gamed: &Gamed, instructions: &Instructions) -> Vec<Sample> {
    let sample = |row: &super::GamedRow| {
        Some(Sample {
            features: [row.std_delta_len.tanh(), instructions.difficulty(row.index)?, 0.0],
            label: row.preference?,
            weight: GAMED_WEIGHT,
        })
    };
    gamed.rows().iter().filter_map(sample).collect()
}

/// The model's rows that have a preference; those without count for the spread of lengths, as in AlpacaEval.
fn own_samples(annotations: &[Annotation], difficulties: &[f64]) -> Vec<Sample> {
    let deltas: Vec<f64> = annotations.iter().map(Annotation::delta_len).collect();
    // Differences that are all the same tell nothing about lengths.
    let scale = deviation(&deltas).filter(|spread| *spread > 0.0);
    let features = deltas.iter().zip(difficulties).map(|(delta, difficulty)| {
        let z = scale.map_or(0.0, |spread| delta / spread);
        [z.tanh(), *difficulty, 1.0]
    });
    annotations
        .iter()
        .zip(features)
        .filter_map(|(row, features)| {
            Some(Sample {
                features,
                label: row.win()?,
                weight: 1.0,
            })
        })
        .collect()
}
