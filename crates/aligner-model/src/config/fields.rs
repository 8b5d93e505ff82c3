//! Typed reading of `config.json`.

use serde_json::{Map, Value};

use crate::error::{ModelError, Result};

/// The largest size accepted for any dimension, so that products of dimensions cannot overflow.
pub(super) const MAX_DIMENSION: u64 = 1 << 24;

/// Typed reading of one JSON object; errors name the field.
pub(super) struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub fn present(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub fn float(&self, name: &'static str) -> Result<Option<f64>> {
        self.present(name)
            .map(|value| {
                let number = value.as_f64().filter(|number| number.is_finite());
                number.ok_or_else(|| ModelError::config(name, format!("{value} is not a number")))
            })
            .transpose()
    }

    /// A number that may be 0.
    pub fn count(&self, name: &'static str) -> Result<Option<usize>> {
        self.present(name)
            .map(|value| {
                let number = value.as_u64().filter(|&number| number <= MAX_DIMENSION);
                let number =
                    number.ok_or_else(|| ModelError::config(name, format!("{value} is not a number")));
                number.map(|number| number as usize)
            })
            .transpose()
    }

    pub fn dimension(&self, name: &'static str) -> Result<Option<usize>> {
        self.present(name)
            .map(|value| match value.as_u64() {
                Some(number @ 1..=MAX_DIMENSION) => Ok(number as usize),
                _ => Err(ModelError::config(
                    name,
                    format!("{value} is not a number in 1..={MAX_DIMENSION}"),
                )),
            })
            .transpose()
    }

    pub fn required(&self, name: &'static str) -> Result<usize> {
        self.dimension(name)?
            .ok_or_else(|| ModelError::config(name, "is missing"))
    }

    pub fn boolean(&self, name: &'static str) -> Result<Option<bool>> {
        self.present(name)
            .map(|value| {
                value
                    .as_bool()
                    .ok_or_else(|| ModelError::config(name, "is not true or false"))
            })
            .transpose()
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.present(name).and_then(Value::as_str)
    }

    pub fn object(&self, name: &'static str) -> Result<Option<&'a Map<String, Value>>> {
        self.present(name)
            .map(|value| {
                value
                    .as_object()
                    .ok_or_else(|| ModelError::config(name, "is not an object"))
            })
            .transpose()
    }
}
