//! `eval.json`: what was run on what.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{EvalError, Result};
use crate::files::{hash_of, write_whole};

/// Name of the file in the directory of an evaluation.
const FILE: &str = "eval.json";

/// What is known of an evaluation; nothing where nothing was written yet.
///
/// # Errors
/// When the file cannot be read or is no JSON object.
pub fn read(dir: &Path) -> Result<Map<String, Value>> {
    let path = dir.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(EvalError::io("read", &path)(error)),
    };
    serde_json::from_slice(&text)
        .map_err(|error| EvalError::file(&path, format!("is no JSON object: {error}; delete it")))
}

/// Writes down what one step was run on, in place of what was known of that step.
///
/// # Errors
/// As [`read`], and when it cannot be written.
pub fn set(dir: &Path, step: &str, facts: Value) -> Result<()> {
    let mut all = read(dir)?;
    all.insert(step.to_string(), facts);
    let path = dir.join(FILE);
    let text = format!("{:#}\n", Value::Object(all));
    write_whole(&path, &text)
}

/// Writes down facts of one step beside those that are known of it: objects within objects are joined, and what is there under the
/// same name is replaced.
///
/// # Errors
/// As [`set`].
pub fn add(dir: &Path, step: &str, facts: Value) -> Result<()> {
    let mut all = read(dir)?.remove(step).unwrap_or_default();
    join(&mut all, facts);
    set(dir, step, all)
}

fn join(known: &mut Value, facts: Value) {
    match (known, facts) {
        (Value::Object(known), Value::Object(facts)) => {
            for (name, value) in facts {
                join(known.entry(name).or_insert(Value::Null), value);
            }
        }
        (known, facts) => *known = facts,
    }
}

/// A file by its name and content.
///
/// # Errors
/// When it cannot be read.
pub fn file(path: &Path) -> Result<Value> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Ok(json!({"file": name, "sha256": hash_of(path)?}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn steps_are_kept_side_by_side_and_a_step_anew_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
        set(dir.path(), "run", json!({"rows": 1})).unwrap();
        set(dir.path(), "judge", json!("some")).unwrap();
        set(dir.path(), "run", json!({"rows": 2})).unwrap();
        let facts = read(dir.path()).unwrap();
        assert_eq!((facts["run"]["rows"].as_u64(), facts.len()), (Some(2), 2));
        add(dir.path(), "run", json!({"seed": {"of": 1}})).unwrap();
        add(dir.path(), "run", json!({"seed": {"by": 2}})).unwrap();
        assert_eq!(
            read(dir.path()).unwrap()["run"],
            json!({"rows": 2, "seed": {"of": 1, "by": 2}})
        );
        std::fs::write(dir.path().join(FILE), "[]").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("eval.json"));
    }

    #[test]
    fn a_file_is_known_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, "abc").unwrap();
        // printf abc | sha256sum
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            file(&path).unwrap(),
            json!({"file": "model.safetensors", "sha256": format!("sha256:{known}")})
        );
    }
}
