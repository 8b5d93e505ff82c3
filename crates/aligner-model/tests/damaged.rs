//! Damaged and hostile directories end in one clear error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use aligner_model::weights::SafetensorsSource;
use aligner_model::{LoraAdapter, RuntimeWeights, WeightsCache, load_dir, load_dir_quantized};
use burn::tensor::Device;
use common::files::safetensors_file;
use common::golden_dir;

/// Copies a golden directory, lets `damage` change it, and returns the error of loading it.
fn error_of(variant: &str, damage: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden_dir(variant)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    damage(dir.path());
    load_dir(dir.path(), &Device::flex())
        .map(|_| ())
        .unwrap_err()
        .to_string()
}

fn edit_json(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn no_weights() {
    let error = error_of("tied", |dir| {
        std::fs::remove_file(dir.join("model.safetensors")).unwrap()
    });
    assert!(error.contains("neither model.safetensors nor"), "{error}");
}

#[test]
fn a_file_cut_anywhere() {
    let whole = std::fs::read(golden_dir("tied").join("model.safetensors")).unwrap();
    for len in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        let error = error_of("tied", |dir| {
            std::fs::write(dir.join("model.safetensors"), &whole[..len]).unwrap()
        });
        assert!(error.contains("model.safetensors"), "{len}: {error}");
    }
}

#[test]
fn a_header_that_claims_a_hundred_gigabytes() {
    let error = error_of("tied", |dir| {
        let path = dir.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..8].copy_from_slice(&100_000_000_000u64.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    });
    assert!(error.contains("100000000000"), "{error}");
}

#[test]
fn headers_that_do_not_add_up() {
    for header in [
        "{",
        "[]",
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4294967295,4294967295,4294967295],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}"#,
    ] {
        let error = error_of("tied", |dir| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&[0; 64]);
            std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
        });
        assert!(error.contains("damaged header"), "{header}: {error}");
    }
}

#[test]
fn weights_that_are_not_numbers() {
    let error = error_of("tied", |dir| {
        let path = dir.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    });
    assert!(error.contains("NaN at element"), "{error}");
}

#[test]
fn a_configuration_for_another_model() {
    let error = error_of("tied", |dir| {
        edit_json(&dir.join("config.json"), |c| c["num_hidden_layers"] = 4.into())
    });
    assert!(
        error.contains("missing") && error.contains("model.layers.3."),
        "{error}"
    );
    let error = error_of("tied", |dir| {
        edit_json(&dir.join("config.json"), |c| c["intermediate_size"] = 47.into())
    });
    assert!(
        error.contains("mlp.gate_proj.weight") && error.contains("[48, 32]"),
        "{error}"
    );
}

/// For a model that runs, memory is taken for all weights at once.
#[test]
fn a_configuration_for_a_model_that_no_memory_holds() {
    for variant in ["tied", "untied-bias-llama3", "phi3"] {
        for fields in [
            &["intermediate_size"][..],
            &["hidden_size", "vocab_size", "intermediate_size"],
        ] {
            let mut running = String::new();
            let error = error_of(variant, |dir| {
                edit_json(&dir.join("config.json"), |config| {
                    config["head_dim"] = 8.into();
                    fields.iter().for_each(|&field| config[field] = (1 << 24).into());
                });
                let (format, cache) = (RuntimeWeights::F32, WeightsCache::Off);
                let loaded = load_dir_quantized(dir, format, &cache, &Device::flex());
                running = loaded.map(|_| ()).unwrap_err().to_string();
            });
            assert!(error.contains("has shape"), "{variant} {fields:?}: {error}");
            assert_eq!(running, error, "{variant} {fields:?}");
        }
    }
}

#[test]
fn shards_outside_the_directory_or_missing() {
    for file in [
        "../secret.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
    ] {
        let error = error_of("sharded-bf16-linear", |dir| {
            edit_json(&dir.join("model.safetensors.index.json"), |index| {
                index["weight_map"]["model.norm.weight"] = file.into();
            });
        });
        assert!(error.contains("not a plain file name"), "{file}: {error}");
    }
    let error = error_of("sharded-bf16-linear", |dir| {
        std::fs::remove_file(dir.join("model-00002-of-00003.safetensors")).unwrap();
    });
    assert!(error.contains("model-00002-of-00003"), "{error}");
}

#[test]
fn configuration_that_is_no_json() {
    let error = error_of("tied", |dir| {
        std::fs::write(dir.join("config.json"), b"\xff{").unwrap()
    });
    assert!(error.contains("config.json is not valid JSON"), "{error}");
}

#[test]
fn more_layers_than_the_file_has_tensors_are_refused_before_any_is_made() {
    for (layers, reason) in [
        (4096, "no more than 29 tensors"),
        (4097, "1..=4096"),
        (16_777_216, "1..=4096"),
    ] {
        let start = std::time::Instant::now();
        let error = error_of("tied", |dir| {
            edit_json(&dir.join("config.json"), |c| {
                c["num_hidden_layers"] = layers.into()
            })
        });
        assert!(
            error.contains("num_hidden_layers") && error.contains(reason),
            "{error}"
        );
        assert!(start.elapsed().as_secs_f64() < 1.0, "{layers}");
    }
}

#[test]
fn dimensions_whose_product_is_no_width_are_refused() {
    let error = error_of("tied", |dir| {
        edit_json(&dir.join("config.json"), |c| {
            c["num_attention_heads"] = (1 << 20).into();
            c["num_key_value_heads"] = 1.into();
            c["head_dim"] = (1 << 20).into();
        })
    });
    assert!(error.contains("num_attention_heads"), "{error}");
    let error = error_of("tied", |dir| {
        edit_json(&dir.join("config.json"), |c| c["vocab_size"] = (1 << 24).into())
    });
    assert!(
        error.contains("embed_tokens.weight") && error.contains("16777216"),
        "{error}"
    );
}

#[test]
fn a_packed_tensor_without_dimensions() {
    let error = error_of("baichuan", |dir| {
        let path = dir.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let (prefix, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(prefix.try_into().unwrap()) as usize;
        let mut header: serde_json::Value = serde_json::from_slice(&rest[..length]).unwrap();
        let tensor = &mut header["model.layers.0.self_attn.W_pack.weight"];
        let start = tensor["data_offsets"][0].as_u64().unwrap();
        *tensor = serde_json::json!({"dtype": "F32", "shape": [], "data_offsets": [start, start + 4]});
        std::fs::write(path, safetensors_file(&header.to_string(), &rest[length..])).unwrap();
    });
    assert!(error.contains("W_pack") && error.contains("shape []"), "{error}");
}

fn safetensors_error(header: &str, data: &[u8]) -> String {
    let file = safetensors_file(header, data);
    SafetensorsSource::from_bytes(Path::new("model.safetensors"), file)
        .unwrap_err()
        .to_string()
}

#[test]
fn tensors_that_share_bytes_or_a_name() {
    let error = safetensors_error(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        &[0; 8],
    );
    assert!(error.contains("tensors a and b overlap"), "{error}");
    let error = safetensors_error(
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        &[0; 8],
    );
    assert!(error.contains("tensor a stands in it twice"), "{error}");
}

#[test]
fn headers_that_are_deep_or_long_and_hold_nothing() {
    let deep = "[".repeat(1 << 20);
    for header in [
        deep.clone(),
        format!(r#"{{"a":{deep}"#),
        format!(r#"{{"a":{{"shape":{deep}"#),
    ] {
        let error = safetensors_error(&header, &[]);
        assert!(error.contains("damaged header"), "{error}");
    }
    let ones = "1,".repeat(1 << 20);
    let error = safetensors_error(
        &format!(r#"{{"a":{{"dtype":"U8","shape":[{ones}1],"data_offsets":[0,1]}}}}"#),
        &[0],
    );
    assert!(error.contains("more than 16 dimensions"), "{error}");
}

#[test]
fn what_is_no_weight_file_says_what_it_is() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec();
    let error = SafetensorsSource::from_bytes(Path::new("m"), pointer)
        .unwrap_err()
        .to_string();
    assert!(error.contains("git lfs pull"), "{error}");
    let error = error_of("tied", |dir| {
        std::fs::remove_file(dir.join("model.safetensors")).unwrap();
        std::fs::create_dir(dir.join("model.safetensors")).unwrap();
    });
    assert!(error.contains("neither model.safetensors"), "{error}");
}

#[test]
fn an_index_that_does_not_fit_its_shards() {
    let index = "model.safetensors.index.json";
    let name = "model.norm.weight";
    let error = error_of("sharded-bf16-linear", |dir| {
        edit_json(&dir.join(index), |json| {
            json["weight_map"]["model.extra.weight"] = json["weight_map"][name].clone()
        });
    });
    assert!(
        error.contains("holds model.extra.weight, but it does not"),
        "{error}"
    );
    let error = error_of("sharded-bf16-linear", |dir| {
        edit_json(&dir.join(index), |json| {
            json["weight_map"][name] = "model-00001-of-00003.safetensors".into()
        });
    });
    assert!(
        error.contains("holds model.norm.weight, but it does not"),
        "{error}"
    );
    for own in [index, "other.index.json"] {
        let error = error_of("sharded-bf16-linear", |dir| {
            edit_json(&dir.join(index), |json| json["weight_map"][name] = own.into());
        });
        assert!(error.contains("is an index itself"), "{error}");
    }
    let error = error_of("sharded-bf16-linear", |dir| {
        let [one, two] = [1, 2].map(|shard| dir.join(format!("model-0000{shard}-of-00003.safetensors")));
        std::fs::copy(one, two).unwrap();
    });
    assert!(error.contains("is also in"), "{error}");
}

#[test]
fn configurations_that_are_too_long_or_too_deep() {
    let error = error_of("tied", |dir| {
        let padded = format!("{{}}{}", " ".repeat(5 << 20));
        std::fs::write(dir.join("config.json"), padded).unwrap();
    });
    assert!(error.contains("larger than the 4194304 bytes"), "{error}");
    let error = error_of("tied", |dir| {
        std::fs::write(dir.join("config.json"), "[".repeat(1 << 20)).unwrap();
    });
    assert!(error.contains("not valid JSON"), "{error}");
}

/// The error of an adapter of which one file was changed.
fn adapter_error(
    change: impl FnOnce(&mut serde_json::Value),
    weights: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> String {
    let dir = golden_dir("lora/attention");
    let mut config =
        serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap();
    change(&mut config);
    let bytes = weights(std::fs::read(dir.join("adapter_model.safetensors")).unwrap());
    LoraAdapter::from_bytes(config.to_string().as_bytes(), bytes)
        .map(|_| ())
        .unwrap_err()
        .to_string()
}

#[test]
fn adapters_that_do_not_add_up() {
    let whole = |bytes: Vec<u8>| bytes;
    for (field, value, reason) in [
        ("r", serde_json::json!(5), "not of rank 5"),
        ("r", serde_json::json!(0), "r is not a number"),
        ("r", serde_json::json!(1u64 << 40), "r is not a number"),
        ("r", serde_json::json!("4"), "r is not a number"),
        (
            "lora_alpha",
            serde_json::json!("much"),
            "lora_alpha is not a number",
        ),
        ("lora_alpha", serde_json::json!(-1), "alpha is -1"),
        ("lora_dropout", serde_json::json!(1.5), "dropout is 1.5"),
        (
            "use_rslora",
            serde_json::json!("yes"),
            "use_rslora is not true or false",
        ),
        ("use_dora", serde_json::json!(1), "use_dora is not true or false"),
        ("peft_type", serde_json::json!("IA3"), "only LORA"),
        ("rank_pattern", serde_json::json!({"a": 1}), "rank_pattern"),
        (
            "target_modules",
            serde_json::json!(["q_proj", 3]),
            "target_modules",
        ),
    ] {
        let error = adapter_error(|config| config[field] = value, whole);
        assert!(error.contains(reason), "{field}: {error}");
    }
    for cut in [0, 7, 100, 1000] {
        let error = adapter_error(|_| (), |bytes| bytes[..cut].to_vec());
        assert!(error.contains("adapter_model.safetensors"), "{cut}: {error}");
    }
    let one = r#"{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight":{"dtype":"F32","shape":[4,2],"data_offsets":[0,32]}}"#;
    let error = adapter_error(|_| (), |_| safetensors_file(one, &[0; 32]));
    assert!(error.contains("one of its two matrices only"), "{error}");
    let error = adapter_error(|_| (), |_| safetensors_file("{}", &[]));
    assert!(error.contains("holds no adapter"), "{error}");
}
