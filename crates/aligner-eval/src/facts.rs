//! `eval.json`: what was run on what.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::{EvalError, Result};
use crate::files::{hash_of, named, write_whole};

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

/// A file by its name and content.
///
/// # Errors
/// When it cannot be read.
pub fn file(path: &Path) -> Result<Value> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Ok(json!({"file": name, "sha256": hash_of(path)?}))
}

/// The weights, configuration and tokenizer of a model directory, as one hash over the hashes of its files.
///
/// # Errors
/// When a file cannot be read.
pub fn model(dir: &Path) -> Result<Value> {
    let listed = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut files: Vec<_> = listed
        .map_err(EvalError::io("read", dir))?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_file() && (name.ends_with(".safetensors") || name.ends_with(".json"))
        })
        .collect();
    files.sort();
    let mut hash = Sha256::new();
    for path in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        hash.update(format!("{name} {}\n", hash_of(path)?));
    }
    Ok(json!({"files": files.len(), "sha256": named(hash)}))
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
        std::fs::write(dir.path().join(FILE), "[]").unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().contains("eval.json"));
    }

    #[test]
    fn a_file_and_a_model_are_known_by_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, "abc").unwrap();
        // printf abc | sha256sum
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            file(&path).unwrap(),
            json!({"file": "model.safetensors", "sha256": format!("sha256:{known}")})
        );
        let before = model(dir.path()).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "n").unwrap();
        assert_eq!(model(dir.path()).unwrap(), before);
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert_ne!(model(dir.path()).unwrap(), before);
    }
}
