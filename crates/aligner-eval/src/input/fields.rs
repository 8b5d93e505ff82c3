//! Columns of a row, by the names under which data sets have them. Errors are reasons why a row cannot be used.

use serde_json::{Map, Value};

/// A row as it lies in the file.
pub(crate) type Raw = Map<String, Value>;

/// The text of the first of these columns that is there and not null.
pub(super) fn optional(raw: &Raw, columns: &[&str]) -> Result<Option<String>, String> {
    let found = columns.iter().find_map(|column| {
        raw.get(*column)
            .map(|value| (column, value))
            .filter(|(_, value)| !value.is_null())
    });
    match found {
        None => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(text.clone())),
        Some((column, _)) => Err(format!("`{column}` is not a string")),
    }
}

/// The text of the first of these columns that is there; the error names what is there instead.
pub(super) fn required(raw: &Raw, columns: &[&str]) -> Result<String, String> {
    optional(raw, columns)?.ok_or_else(|| {
        let list = |names: Vec<&str>, between: &str| {
            let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            quoted.join(between)
        };
        let present = list(raw.keys().map(String::as_str).collect(), ", ");
        format!("has no {}; it has {present}", list(columns.to_vec(), " or "))
    })
}

/// A text that must say something.
pub(super) fn question(raw: &Raw, columns: &[&str]) -> Result<String, String> {
    let text = required(raw, columns)?;
    if text.trim().is_empty() {
        let column = columns.iter().find(|column| raw.contains_key(**column));
        return Err(format!("`{}` is empty", column.unwrap_or(&"question")));
    }
    Ok(text)
}

/// A row's own name: a string or a number that is not blank.
pub(crate) fn id(raw: &Raw, columns: &[&str]) -> Option<String> {
    columns.iter().find_map(|column| match raw.get(*column) {
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim().to_string()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    })
}

/// A label, where the column holds a text.
pub(crate) fn label(raw: &Raw, columns: &[&str]) -> Option<String> {
    let found = columns.iter().find_map(|column| raw.get(*column)?.as_str());
    found.filter(|text| !text.trim().is_empty()).map(str::to_string)
}

/// Texts: an array of strings, or one string with semicolons between them. Blank ones are left out.
pub(crate) fn texts(raw: &Raw, columns: &[&str]) -> Result<Vec<String>, String> {
    let found = columns.iter().find_map(|column| {
        raw.get(*column)
            .map(|value| (column, value))
            .filter(|(_, value)| !value.is_null())
    });
    let parts: Vec<&str> = match found {
        None => Vec::new(),
        Some((_, Value::String(text))) => text.split(';').collect(),
        Some((column, Value::Array(values))) => values
            .iter()
            .map(|value| {
                value
                    .as_str()
                    .ok_or_else(|| format!("`{column}` holds something that is no string"))
            })
            .collect::<Result<_, _>>()?,
        Some((column, _)) => return Err(format!("`{column}` is neither an array nor a string")),
    };
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    Ok(parts.map(str::to_string).collect())
}
