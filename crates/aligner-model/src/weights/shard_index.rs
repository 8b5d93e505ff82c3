//! `*.index.json`: which file of a sharded model holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};

use crate::error::{ModelError, Result};
use crate::read::{bounded, json_error};

/// The largest index that is read: a million tensors.
const MAX_BYTES: u64 = 100_000_000;

/// The index of a sharded model, in safetensors or PyTorch format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    path: PathBuf,
    /// Tensor → place in `files`.
    tensors: BTreeMap<String, usize>,
    files: Vec<String>,
}

impl ShardIndex {
    /// Reads an index file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and when the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &bounded(path, MAX_BYTES)?)
    }

    /// Reads an index; `path` stands for the file in messages, and its name is what the index may not name itself.
    ///
    /// # Errors
    /// When it is no JSON, has no `weight_map`, names a tensor twice, or names a file that does not lie beside it.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let file: IndexFile = serde_json::from_slice(bytes).map_err(json_error(path))?;
        let tensors = file.weight_map.0;
        if tensors.is_empty() {
            return Err(ModelError::weights(path, "`weight_map` is empty"));
        }
        for (tensor, file) in &tensors {
            check_file_name(path, tensor, file)?;
        }
        let files: BTreeSet<String> = tensors.values().cloned().collect();
        let files: Vec<String> = files.into_iter().collect();
        let places: BTreeMap<&str, usize> = files
            .iter()
            .enumerate()
            .map(|(at, file)| (file.as_str(), at))
            .collect();
        let place = |file: &String| places.get(file.as_str()).copied().unwrap_or_default();
        let tensors = tensors
            .iter()
            .map(|(tensor, file)| (tensor.clone(), place(file)))
            .collect();
        Ok(Self {
            path: path.to_path_buf(),
            tensors,
            files,
        })
    }

    /// The distinct files, in the order of their names.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The tensors, each with the position of its file in [`files`](Self::files).
    pub fn tensors(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tensors.iter().map(|(name, &file)| (name.as_str(), file))
    }

    /// Where the index is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A shard lies beside its index: anything else could read files the user did not name. (It may be a link, as in the
/// cache of the Hugging Face libraries: who can make a link can already read what it points to.)
fn check_file_name(index: &Path, tensor: &str, file: &str) -> Result<()> {
    let mut parts = Path::new(file).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == file);
    if !plain || file.contains(['\\', '\0']) {
        let reason = format!("the file of {tensor}, {file:?}, is not a plain file name");
        return Err(ModelError::weights(index, reason));
    }
    if index.file_name().is_some_and(|own| own == file) || file.ends_with(".index.json") {
        let reason = format!("the file of {tensor}, {file:?}, is an index itself; it must be a weight file");
        return Err(ModelError::weights(index, reason));
    }
    Ok(())
}

#[derive(Deserialize)]
struct IndexFile {
    weight_map: WeightMap,
}

/// A map of which no key may stand twice: which of the two files would be meant?
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names and file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(tensor) = map.next_key::<String>()? {
                    if entries.contains_key(&tensor) {
                        map.next_value::<IgnoredAny>()?;
                        return Err(A::Error::custom(format!("tensor {tensor:?} stands in it twice")));
                    }
                    let file = map
                        .next_value()
                        .map_err(|cause| A::Error::custom(format!("the file of {tensor:?}: {cause}")))?;
                    entries.insert(tensor, file);
                }
                Ok(WeightMap(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(json: &str) -> String {
        ShardIndex::parse(Path::new("dir/model.safetensors.index.json"), json.as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn files_are_named_once_each_and_tensors_with_theirs() {
        let json = r#"{"metadata": {"total_size": 1}, "weight_map": {"b": "two", "a": "one", "c": "two"}}"#;
        let index = ShardIndex::parse(Path::new("index"), json.as_bytes()).unwrap();
        assert_eq!(index.files(), ["one", "two"]);
        assert_eq!(
            index.tensors().collect::<Vec<_>>(),
            [("a", 0), ("b", 1), ("c", 1)]
        );
    }

    #[test]
    fn a_path_is_no_file_name() {
        for file in [
            "../x",
            "/etc/passwd",
            "a/b",
            "..",
            ".",
            "",
            "a/",
            "./a",
            "a\\\\b",
            "a\\u0000",
        ] {
            let error = error_of(&format!(r#"{{"weight_map": {{"t": "{file}"}}}}"#));
            assert!(error.contains("not a plain file name"), "{file}: {error}");
        }
    }

    #[test]
    fn an_index_that_names_itself_or_another_index() {
        for file in ["model.safetensors.index.json", "pytorch_model.bin.index.json"] {
            let error = error_of(&format!(r#"{{"weight_map": {{"t": "{file}"}}}}"#));
            assert!(error.contains("is an index itself"), "{error}");
        }
    }

    #[test]
    fn maps_that_are_none() {
        for (json, reason) in [
            ("", "not valid JSON"),
            ("[]", "not valid JSON"),
            ("{}", "missing field `weight_map`"),
            (r#"{"weight_map": {}}"#, "is empty"),
            (r#"{"weight_map": ["a"]}"#, "an object of tensor names"),
            (r#"{"weight_map": {"t": 3}}"#, "the file of \"t\""),
            (r#"{"weight_map": {"t": null}}"#, "the file of \"t\""),
            (r#"{"weight_map": {"t": "a", "t": "b"}}"#, "twice"),
        ] {
            let error = error_of(json);
            assert!(error.contains(reason), "{json}: {error}");
        }
        let deep = format!(
            r#"{{"metadata": {}1{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(error_of(&deep).contains("missing field"), "{}", error_of(&deep));
    }
}
