//! Damaged and hostile directories end in one clear error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use aligner_model::load_dir;
use burn::tensor::Device;
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
