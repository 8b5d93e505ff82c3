//! Rows of a file: a JSON array, JSON lines, or CSV.

use std::fs::File;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{EvalError, Result};

/// The rows of a file with their numbers, counted from 1: lines of JSON lines, elements of an array, records of a `.csv`.
pub(super) fn rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<(u64, T)>> {
    let is_csv = path
        .extension()
        .is_some_and(|ext| ext.eq_ignore_ascii_case("csv"));
    let rows = if is_csv { csv_rows(path) } else { json_rows(path) }?;
    if rows.is_empty() {
        return Err(EvalError::file(path, "holds no rows"));
    }
    Ok(rows)
}

fn json_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<(u64, T)>> {
    let text = std::fs::read_to_string(path).map_err(EvalError::io("read", path))?;
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('[') {
        let values: Vec<Value> = serde_json::from_str(text)
            .map_err(|error| EvalError::file(path, format!("is no JSON array of rows: {error}")))?;
        return (1..)
            .zip(values)
            .map(|(row, value)| typed(path, row, value))
            .collect();
    }
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(row, line)| {
            let value = serde_json::from_str(line)
                .map_err(|error| EvalError::row(path, row, format!("is no JSON: {error}")))?;
            typed(path, row, value)
        })
        .collect()
}

fn typed<T: DeserializeOwned>(path: &Path, row: u64, value: Value) -> Result<(u64, T)> {
    if !value.is_object() {
        return Err(EvalError::row(
            path,
            row,
            "is no JSON object with a row's columns",
        ));
    }
    let typed =
        serde_json::from_value(value).map_err(|error| EvalError::row(path, row, error.to_string()))?;
    Ok((row, typed))
}

fn csv_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<(u64, T)>> {
    let file = File::open(path).map_err(EvalError::io("read", path))?;
    (1..)
        .zip(csv::Reader::from_reader(file).into_deserialize())
        .map(|(row, record)| {
            let record = record.map_err(|error| match error.kind() {
                csv::ErrorKind::Deserialize { err, .. } => EvalError::row(path, row, err.to_string()),
                _ => EvalError::row(path, row, error.to_string()),
            })?;
            Ok((row, record))
        })
        .collect()
}
