//! Which files of a repository make a model directory.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::error::{HubError, Result};
use crate::model_ref::ModelRef;

pub const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER: &str = "adapter_model.safetensors";

/// Small files, taken when they are there.
const SMALL: [&str; 8] = [
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "aligner.json",
    ADAPTER_CONFIG,
];

/// Weights in one file, and the index of weights in several; the first that is there counts.
const WEIGHTS: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// What is wanted of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Configuration and tokenizer.
    Tokenizer,
    /// And the weights.
    Model,
}

/// What a repository or a directory is found to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files to fetch.
    pub files: Vec<&'static str>,
    /// An index among them, whose shards are fetched too.
    pub index: Option<&'static str>,
}

/// A file that must be there and is not.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing(pub &'static str);

/// Chooses files among those that `has` knows.
pub fn plan(wanted: Files, has: &dyn Fn(&str) -> bool) -> Result<Plan, Missing> {
    let mut plan = Plan {
        files: SMALL.into_iter().filter(|file| has(file)).collect(),
        index: None,
    };
    let is_adapter = has(ADAPTER_CONFIG);
    // An adapter has its tokenizer and configuration from its base.
    for file in [CONFIG, TOKENIZER] {
        if !is_adapter && !has(file) {
            return Err(Missing(file));
        }
    }
    if wanted == Files::Tokenizer {
        return Ok(plan);
    }
    if is_adapter {
        if !has(ADAPTER) {
            return Err(Missing(ADAPTER));
        }
        plan.files.push(ADAPTER);
    }
    match WEIGHTS.iter().find(|(single, index)| has(single) || has(index)) {
        Some((single, _)) if has(single) => plan.files.push(single),
        Some((_, index)) => {
            plan.files.push(index);
            plan.index = Some(index);
        }
        None if is_adapter => {}
        None => return Err(Missing(WEIGHTS[0].0)),
    }
    Ok(plan)
}

/// The files that an index in `dir` names.
///
/// # Errors
/// When the index is not one, or names something that does not lie beside it.
pub fn shards(model: &ModelRef, dir: &Path, index: &'static str) -> Result<BTreeSet<String>> {
    let path = dir.join(index);
    let bytes = std::fs::read(&path).map_err(HubError::io("read", &path))?;
    let not_an_index = || HubError::NotAModel {
        model: model.to_string(),
        reason: format!("{index} has no `weight_map` of file names"),
    };
    let json: Value = serde_json::from_slice(&bytes).map_err(|_| not_an_index())?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let mut shards = BTreeSet::new();
    for file in map.ok_or_else(not_an_index)?.values() {
        let file = file.as_str().ok_or_else(not_an_index)?;
        if !is_plain(file) {
            return Err(HubError::ShardName {
                model: model.to_string(),
                index: index.to_string(),
                file: file.to_string(),
            });
        }
        shards.insert(file.to_string());
    }
    if shards.is_empty() {
        return Err(not_an_index());
    }
    Ok(shards)
}

/// Whether a name is that of a weight file beside its index, safe in a path and in a URL.
fn is_plain(file: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let weights = file.ends_with(".safetensors") || file.ends_with(".bin");
    weights && file.len() <= 200 && !file.starts_with('.') && file.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(wanted: Files, files: &[&str]) -> Result<Plan, Missing> {
        plan(wanted, &|file| files.contains(&file))
    }

    #[test]
    fn safetensors_go_before_pytorch_and_one_file_before_shards() {
        let all = [
            "config.json",
            "tokenizer.json",
            "README.md",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "tokenizer.model",
            "onnx/model.onnx",
        ];
        let plan = planned(Files::Model, &all).unwrap();
        assert_eq!(plan.files, ["config.json", "tokenizer.json", "model.safetensors"]);
        let sharded = [
            "config.json",
            "tokenizer.json",
            "model.safetensors.index.json",
            "pytorch_model.bin",
        ];
        let plan = planned(Files::Model, &sharded).unwrap();
        assert_eq!(plan.files[2..], ["model.safetensors.index.json"]);
        assert_eq!(plan.index, Some("model.safetensors.index.json"));
        let old = ["config.json", "tokenizer.json", "pytorch_model.bin.index.json"];
        assert_eq!(
            planned(Files::Model, &old).unwrap().index,
            Some("pytorch_model.bin.index.json")
        );
        assert_eq!(
            planned(Files::Tokenizer, &all).unwrap().files,
            ["config.json", "tokenizer.json"]
        );
    }

    #[test]
    fn what_is_missing_has_a_name() {
        let missing = |files: &[&str]| planned(Files::Model, files).unwrap_err().0;
        assert_eq!(missing(&["model.safetensors", "tokenizer.json"]), "config.json");
        assert_eq!(missing(&["config.json", "model.safetensors"]), "tokenizer.json");
        assert_eq!(
            missing(&["config.json", "tokenizer.json", "a.gguf"]),
            "model.safetensors"
        );
        assert_eq!(missing(&["adapter_config.json"]), "adapter_model.safetensors");
        let adapter = planned(
            Files::Model,
            &["adapter_config.json", "adapter_model.safetensors"],
        )
        .unwrap();
        assert_eq!(
            adapter.files,
            ["adapter_config.json", "adapter_model.safetensors"]
        );
    }

    #[test]
    fn shard_names_stay_beside_their_index() {
        assert!(is_plain("model-00001-of-00002.safetensors"));
        for name in [
            "../x.safetensors",
            "/etc/x.bin",
            "a/b.safetensors",
            "a\\b.safetensors",
            ".x.safetensors",
            "config.json",
            "x.safetensors?y.bin",
            "%2e%2e.bin",
            "C:x.bin",
            "..",
            "",
            "a\0.bin",
        ] {
            assert!(!is_plain(name), "{name:?}");
        }
    }
}
