//! What a judge preferred.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::instructions::{ByText, Instructions};
use super::table;
use crate::error::{EvalError, Result};

/// What a judge preferred on one instruction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// The instruction.
    pub index: u64,
    /// Length of the baseline's output, in Unicode code points.
    pub len_1: u64,
    /// Length of the model's output, in Unicode code points.
    pub len_2: u64,
    /// From 1 (the baseline's output) to 2 (the model's); 0 reads as 1.5; none where the judge could not be read.
    pub preference: Option<f64>,
    /// The baseline.
    pub generator_1: String,
    /// The model.
    pub generator_2: String,
}

impl Annotation {
    /// The preference from 0 (the baseline) to 1 (the model).
    pub(super) fn win(&self) -> Option<f64> {
        self.preference
            .map(|preference| if preference == 0.0 { 0.5 } else { preference - 1.0 })
    }

    /// How much longer the baseline's output is.
    pub(super) fn delta_len(&self) -> f64 {
        self.len_1 as f64 - self.len_2 as f64
    }
}

/// An annotation as it is written: with lengths, or with the outputs themselves.
#[derive(Debug, Deserialize)]
struct Written {
    index: Option<u64>,
    instruction: Option<String>,
    len_1: Option<u64>,
    len_2: Option<u64>,
    output_1: Option<String>,
    output_2: Option<String>,
    // Missing is an error, null is none.
    #[serde(default, deserialize_with = "present")]
    preference: Option<Option<f64>>,
    generator_1: String,
    generator_2: String,
}

fn present<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::<f64>::deserialize(input).map(Some)
}

/// Reads annotations of one model: rows of [`Annotation`], or AlpacaEval's `annotations.json` with `instruction`, `output_1`,
/// `output_2`, `generator_1`, `generator_2` and `preference`.
///
/// A row belongs to the instruction with its text; without a text, here or among `instructions`, to that of its `index`; and
/// without an index, as in AlpacaEval, to that of its place in the file.
///
/// # Errors
///
/// A file that cannot be read; a row, by its number, with a column missing, an unknown instruction, one that an earlier row
/// has, a preference that is neither 0 nor from 1 to 2, or another model or baseline than the first.
pub fn read_annotations(path: &Path, instructions: Option<&Instructions>) -> Result<Vec<Annotation>> {
    let mut texts = instructions.and_then(Instructions::by_text);
    let mut numbers = Vec::new();
    let mut rows = Vec::new();
    for (place, (number, written)) in (0..).zip(table::rows::<Written>(path)?) {
        let row = annotation(written, place, texts.as_mut())
            .map_err(|reason| EvalError::row(path, number, reason))?;
        numbers.push(number);
        rows.push(row);
    }
    check(&rows, instructions).map_err(|(at, reason)| EvalError::row(path, numbers[at], reason))?;
    Ok(rows)
}

fn annotation(written: Written, place: u64, texts: Option<&mut ByText<'_>>) -> Result<Annotation, String> {
    let index = match (&written.instruction, texts) {
        (Some(text), Some(texts)) => texts.take(text)?,
        _ => written.index.unwrap_or(place),
    };
    let length = |length: Option<u64>, output: Option<String>, side: u8| {
        length
            .or_else(|| output.map(|text| text.chars().count() as u64))
            .ok_or_else(|| format!("has neither a column `output_{side}` nor `len_{side}`"))
    };
    Ok(Annotation {
        index,
        len_1: length(written.len_1, written.output_1, 1)?,
        len_2: length(written.len_2, written.output_2, 2)?,
        preference: written
            .preference
            .ok_or("has no column `preference`; null says that the judge could not be read")?,
        generator_1: written.generator_1,
        generator_2: written.generator_2,
    })
}

/// Checks annotations against each other and against the instructions; the first that cannot be used, counted from 0.
pub(super) fn check(rows: &[Annotation], instructions: Option<&Instructions>) -> Result<(), (usize, String)> {
    let mut seen = HashSet::new();
    for (at, row) in rows.iter().enumerate() {
        check_row(row, &rows[0], instructions).map_err(|reason| (at, reason))?;
        if !seen.insert(row.index) {
            return Err((at, format!("index {} is that of an earlier row", row.index)));
        }
    }
    Ok(())
}

fn check_row(
    row: &Annotation,
    first: &Annotation,
    instructions: Option<&Instructions>,
) -> Result<(), String> {
    if let Some(preference) = row.preference
        && preference != 0.0
        && !(1.0..=2.0).contains(&preference)
    {
        return Err(format!(
            "the preference {preference} is neither from 1 (the baseline) to 2 (the model) nor 0 (a draw)"
        ));
    }
    let sides = [
        ("generator_1", &row.generator_1, &first.generator_1),
        ("generator_2", &row.generator_2, &first.generator_2),
    ];
    for (column, found, expected) in sides {
        if found != expected {
            return Err(format!(
                "{column} is {found:?}, that of the first row {expected:?}: evaluate one model against one baseline"
            ));
        }
    }
    if instructions.is_some_and(|known| known.difficulty(row.index).is_none()) {
        return Err(format!(
            "index {} is that of no instruction: use the instructions of this evaluation set",
            row.index
        ));
    }
    Ok(())
}
