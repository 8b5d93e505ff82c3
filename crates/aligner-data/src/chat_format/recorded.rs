//! Which format a model was made for: what its directory records of it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::ChatFormat;
use crate::error::{DataError, Result};
use crate::tokenizer::{Tokenizer, json as read_json};

/// A key of ours, which transformers keeps: the format's name, or an object of name and system's message.
const KEY: &str = "chat_format";
/// Where it stands. The directory of an adapter has no `config.json`.
const FILES: [&str; 2] = ["config.json", "tokenizer_config.json"];

impl ChatFormat {
    /// How conversations are written for a model, of whose directory the tokenizer was read: as the directory
    /// [records](Self::record), else as its chat template tells, else as Safe-RLHF's models read them.
    ///
    /// # Errors
    /// When the record or the template cannot be read, or is none of the formats.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self> {
        if let Some(recorded) = Self::recorded(tokenizer.dir())? {
            return Ok(recorded);
        }
        Ok(Self::told_in(tokenizer.dir())?.unwrap_or(Self::SAFE_RLHF))
    }

    /// The format of that name, or, without a name, that [of](Self::of) the model.
    ///
    /// # Errors
    /// As [`named`](Self::named) and [`of`](Self::of), and when the tokenizer lacks a control token of the format that is
    /// named: the model would read it as a word that it never saw.
    pub fn chosen(name: Option<&str>, tokenizer: &Tokenizer) -> Result<Self> {
        let Some(name) = name else {
            return Self::of(tokenizer);
        };
        let format = Self::named(name)?;
        let mut needed = format.control_tokens().iter();
        match needed.find(|token| !tokenizer.is_control(token)) {
            None => Ok(format),
            Some(missing) => Err(DataError::ChatFormat {
                found: format!("{name:?}"),
                reason: format!(
                    "needs {missing:?} as one control token, which the tokenizer in {} does not have",
                    tokenizer.dir().display()
                ),
            }),
        }
    }

    /// The format that a model's directory records.
    ///
    /// # Errors
    /// When a file is no JSON, or what it records is none of the formats.
    pub fn recorded(dir: &Path) -> Result<Option<Self>> {
        for path in FILES.map(|file| dir.join(file)) {
            if let Some(record) = read_json(&path)?.get(KEY).filter(|record| !record.is_null()) {
                return Self::from_record(&path, record).map(Some);
            }
        }
        Ok(None)
    }

    /// Records the format in the directory of a model that was trained with it, in `config.json` or, beside an adapter, in
    /// `tokenizer_config.json`: another form than a model was trained with gives other answers and scores, and its chat template
    /// need not tell, or be there.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn record(&self, dir: &Path) -> Result<()> {
        let is_model = dir.join(FILES[0]).is_file();
        let path: PathBuf = dir.join(FILES[usize::from(!is_model)]);
        let mut fields = match read_json(&path)? {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            _ => {
                let reason = "is no JSON object".to_string();
                return Err(DataError::Format { path, reason });
            }
        };
        let name = self.to_string();
        let record = match &self.system {
            None => name.into(),
            Some(system) => json!({"name": name, "system": system}),
        };
        fields.insert(KEY.into(), record);
        let text = format!("{:#}\n", Value::Object(fields));
        std::fs::write(&path, text).map_err(DataError::io("write", &path))
    }

    fn from_record(path: &Path, record: &Value) -> Result<Self> {
        let unknown = || DataError::ChatFormat {
            found: format!("`{KEY}` in {}", path.display()),
            reason: format!("is {record}"),
        };
        let text = |value: &Value| value.as_str().map(str::to_string).ok_or_else(unknown);
        let (name, system) = match record {
            Value::Object(_) => (text(&record["name"])?, Some(text(&record["system"])?)),
            name => (text(name)?, None),
        };
        let format = Self::named(&name).map_err(|_| unknown())?;
        Ok(Self { system, ..format })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_again_with_the_systems_message() {
        let plain = ChatFormat::named("chatml").unwrap();
        let speaking = ChatFormat {
            system: Some("Be \"brief\".\n".into()),
            ..plain.clone()
        };
        for file in FILES {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(file), r#"{"zeta": 1, "alpha": [2]}"#).unwrap();
            assert_eq!(ChatFormat::recorded(dir.path()).unwrap(), None);
            for format in [&plain, &speaking, &ChatFormat::SAFE_RLHF] {
                format.record(dir.path()).unwrap();
                assert_eq!(ChatFormat::recorded(dir.path()).unwrap().as_ref(), Some(format));
            }
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(text.contains("zeta") && text.contains("alpha"), "{text}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_record_that_is_no_format_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        for record in [r#""raw""#, "7", r#"{"name": "chatml"}"#] {
            let config = format!(r#"{{"chat_format": {record}}}"#);
            std::fs::write(dir.path().join("config.json"), config).unwrap();
            let error = ChatFormat::recorded(dir.path()).unwrap_err().to_string();
            assert!(
                error.contains("config.json") && error.contains(record.split(':').next().unwrap()),
                "{error}"
            );
        }
    }
}
