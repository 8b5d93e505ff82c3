//! Rows of the baseline made verbose and concise.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::instructions::Instructions;
use super::table;
use crate::error::{EvalError, Result};

/// How the judge liked an answer of the baseline that was asked to be verbose or concise, beside its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GamedRow {
    /// The instruction.
    pub index: u64,
    /// Difference of lengths over its standard deviation: `z` of [the module](super).
    pub std_delta_len: f64,
    /// From 0 (the plain answer) to 1 (the gamed one). A row without it is left out.
    #[serde(alias = "pseudo_preference")]
    pub preference: Option<f64>,
}

/// The rows that keep the fits of all models comparable.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gamed {
    rows: Vec<GamedRow>,
}

impl Gamed {
    /// Reads rows of [`GamedRow`] about known instructions: JSON lines, a JSON array, or a CSV file such as AlpacaEval's
    /// `df_gamed.csv`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read; a row, by its number, with a column missing, a number out of its range, or an index
    /// without instruction.
    pub fn read(path: &Path, instructions: &Instructions) -> Result<Self> {
        let rows = table::rows(path)?
            .into_iter()
            .map(|(number, row)| match check(&row, instructions) {
                Ok(()) => Ok(row),
                Err(reason) => Err(EvalError::row(path, number, reason)),
            })
            .collect::<Result<_>>()?;
        Ok(Self { rows })
    }

    /// Takes rows that are in memory.
    ///
    /// # Errors
    ///
    /// As [`Gamed::read`].
    pub fn from_rows(rows: impl IntoIterator<Item = GamedRow>, instructions: &Instructions) -> Result<Self> {
        let rows: Vec<GamedRow> = rows.into_iter().collect();
        for (number, row) in (1..).zip(&rows) {
            let number: u64 = number;
            check(row, instructions)
                .map_err(|reason| EvalError::Invalid(format!("gamed row {number}: {reason}")))?;
        }
        Ok(Self { rows })
    }

    /// The rows, in the order that decides their folds.
    pub fn rows(&self) -> &[GamedRow] {
        &self.rows
    }
}

fn check(row: &GamedRow, instructions: &Instructions) -> Result<(), String> {
    if !row.std_delta_len.is_finite() {
        return Err(format!(
            "std_delta_len is {}, not a finite number",
            row.std_delta_len
        ));
    }
    if let Some(preference) = row.preference.filter(|value| !(0.0..=1.0).contains(value)) {
        return Err(format!("the preference {preference} is not from 0 to 1"));
    }
    if instructions.difficulty(row.index).is_none() {
        return Err(format!("index {} is that of no instruction", row.index));
    }
    Ok(())
}
