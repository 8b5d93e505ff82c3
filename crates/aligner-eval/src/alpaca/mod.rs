//! AlpacaEval 2's win rates, plain and length-controlled, from annotations.
//!
//! A judge prefers longer answers. The length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475) is what a model of
//! its preferences expects where both answers are equally long:
//!
//! ```text
//!  logit p(model i preferred on instruction x) = a·tanh(z) + b·difficulty(x) + c
//!  z = (len_1 − len_2) / std(len_1 − len_2)          lengths in Unicode code points; output 1 is the baseline's
//!  LC = 100 · mean over x of logistic(b·difficulty(x) + c)
//! ```
//!
//! `a`, `b` and `c` are fitted for each model, together with rows of the baseline made verbose and concise ([`Gamed`]), which
//! count a tenth each and have no `c`: `length_controlled_v1` of AlpacaEval. The difficulties ([`Instructions`]) are fixed.
//!
//! The fit is the optimum of AlpacaEval's own objective. AlpacaEval stops scikit-learn's liblinear at its default tolerance,
//! which is one to three thousandths of a percentage point from there.

mod annotation;
mod control;
mod cross_validation;
mod gamed;
mod instructions;
mod logistic;
mod table;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use annotation::{Annotation, read_annotations};
pub use control::Glm;
pub use gamed::{Gamed, GamedRow};
pub use instructions::{Instruction, Instructions};

use crate::error::{EvalError, Result};

/// What became of a model beside the baseline; names as on AlpacaEval's leaderboard, rates in percent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WinRates {
    /// Mean preference for the model.
    pub win_rate: f64,
    /// Standard error of `win_rate`; none with less than two preferences.
    pub standard_error: Option<f64>,
    /// The length-controlled win rate; none where no instructions were given.
    pub lc_win_rate: Option<f64>,
    /// Standard error of the mean of what is predicted for each instruction. It says how the instructions differ, not how
    /// sure the fit is: AlpacaEval's figure.
    pub lc_standard_error: Option<f64>,
    /// Preferences for the model.
    pub n_wins: u64,
    /// Preferences for the baseline.
    pub n_wins_base: u64,
    /// Preferences of exactly 1.5, or 0.
    pub n_draws: u64,
    /// Preferences that count.
    pub n_total: u64,
    /// Rows without a preference; they count nowhere but in lengths.
    pub n_dropped: u64,
    /// Wins and half of the draws.
    pub discrete_win_rate: f64,
    /// Mean length of the model's outputs, in Unicode code points, without its fraction.
    pub avg_length: u64,
    /// The fit behind `lc_win_rate`; none where nothing was fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glm: Option<Glm>,
}

/// Annotations of one model, and what a length-controlled win rate needs besides.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotated {
    /// The judge's preferences.
    pub annotations: Vec<Annotation>,
    /// Difficulties and gamed rows, where they were named.
    pub control: Option<(Instructions, Gamed)>,
}

impl Annotated {
    /// [`win_rates`] of these rows.
    ///
    /// # Errors
    ///
    /// As [`win_rates`].
    pub fn win_rates(&self) -> Result<WinRates> {
        let control = self.control.as_ref();
        win_rates(
            &self.annotations,
            control.map(|(instructions, gamed)| (instructions, gamed)),
        )
    }
}

/// Reads annotations of one model: JSON lines of [`Annotation`], or AlpacaEval's `annotations.json`; for a length-controlled
/// win rate also [`Instructions`] and [`Gamed`] rows.
///
/// # Errors
///
/// A file that cannot be read, a row that cannot be used (named), or one of `instructions` and `gamed` without the other.
pub fn read(annotations: &Path, instructions: Option<&Path>, gamed: Option<&Path>) -> Result<Annotated> {
    let control = match (instructions, gamed) {
        (Some(instructions), Some(gamed)) => {
            let instructions = Instructions::read(instructions)?;
            let gamed = Gamed::read(gamed, &instructions)?;
            Some((instructions, gamed))
        }
        (None, None) => None,
        _ => {
            return Err(EvalError::Invalid(
                "a length-controlled win rate needs both the instructions' difficulties and the gamed rows: name both \
                 files, or none for the plain win rate"
                    .to_owned(),
            ));
        }
    };
    let known = control.as_ref().map(|(instructions, _)| instructions);
    Ok(Annotated {
        annotations: read_annotations(annotations, known)?,
        control,
    })
}

/// The win rates of the model that wrote output 2, over the one that wrote output 1; length-controlled where `control` is
/// given.
///
/// ```
/// use aligner_eval::alpaca::{Annotation, win_rates};
///
/// let row = |index, preference| Annotation {
///     index,
///     len_1: 120,
///     len_2: 80,
///     preference,
///     generator_1: "base".to_owned(),
///     generator_2: "base+aligner".to_owned(),
/// };
/// let rates = win_rates(&[row(0, Some(2.0)), row(1, Some(1.5)), row(2, Some(1.75)), row(3, None)], None)?;
/// assert_eq!((rates.win_rate, rates.n_wins, rates.n_draws, rates.n_dropped), (75.0, 2, 1, 1));
/// # Ok::<(), aligner_eval::EvalError>(())
/// ```
///
/// # Errors
///
/// A row that cannot be used, by its number: a preference that is none, an index twice or without an instruction, several
/// models. No preference at all, or, for the length-controlled win rate, too few rows to cross-validate.
pub fn win_rates(annotations: &[Annotation], control: Option<(&Instructions, &Gamed)>) -> Result<WinRates> {
    let known = control.map(|(instructions, _)| instructions);
    annotation::check(annotations, known)
        .map_err(|(at, reason)| EvalError::Invalid(format!("annotation {}: {reason}", at + 1)))?;
    let mut rates = plain(annotations)?;
    if let Some((instructions, gamed)) = control {
        let controlled = control::control(annotations, instructions, gamed)?;
        rates.lc_win_rate = Some(controlled.win_rate);
        rates.lc_standard_error = controlled.standard_error;
        rates.glm = controlled.glm;
    }
    Ok(rates)
}

/// Everything that needs no fit.
fn plain(annotations: &[Annotation]) -> Result<WinRates> {
    let wins: Vec<f64> = annotations.iter().filter_map(Annotation::win).collect();
    if wins.is_empty() {
        return Err(EvalError::Invalid(
            "no annotation has a preference: the judge's answers were not read; annotate again".to_owned(),
        ));
    }
    let count = |of: fn(f64) -> bool| wins.iter().filter(|win| of(**win)).count() as u64;
    let (n_wins, n_wins_base, n_draws) = (count(|y| y > 0.5), count(|y| y < 0.5), count(|y| y == 0.5));
    let n_total = wins.len() as u64;
    let (length, rows) = annotations.iter().fold((0u128, 0u128), |(sum, rows), row| {
        (sum + u128::from(row.len_2), rows + 1)
    });
    Ok(WinRates {
        win_rate: 100.0 * mean(&wins),
        standard_error: standard_error(&wins).map(|error| 100.0 * error),
        lc_win_rate: None,
        lc_standard_error: None,
        n_wins,
        n_wins_base,
        n_draws,
        n_total,
        n_dropped: annotations.len() as u64 - n_total,
        discrete_win_rate: 100.0 * (n_wins as f64 + 0.5 * n_draws as f64) / n_total as f64,
        avg_length: u64::try_from(length / rows).unwrap_or(u64::MAX),
        glm: None,
    })
}

/// The mean; 0 of nothing.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard deviation with n − 1 degrees of freedom; none of less than two values.
fn deviation(values: &[f64]) -> Option<f64> {
    let center = mean(values);
    let squares: f64 = values.iter().map(|value| (value - center).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())
}

/// The standard error of the mean; none of less than two values.
fn standard_error(values: &[f64]) -> Option<f64> {
    deviation(values).map(|deviation| deviation / (values.len() as f64).sqrt())
}
