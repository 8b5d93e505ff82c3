//! Adapters are PEFT's: see `golden/make_lora.py` for generator, seed and tolerance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::PathBuf;

use aligner_model::{CausalDecoder, LoraAdapter, LoraConfig, TargetModules};
use burn::tensor::Device;
use common::{assert_close, golden, golden_dir, host, ids, saved_logits};

const ADAPTERS: [&str; 2] = ["attention", "all-rslora"];

fn adapter_dir(name: &str) -> PathBuf {
    golden_dir("lora").join(name)
}

fn last_two_logits(decoder: &CausalDecoder, sequence: &[u32]) -> Vec<f32> {
    let device = decoder.norm.weight.val().device();
    let logits = decoder.logits(decoder.forward(ids(&[sequence], &device), None));
    host(logits.narrow(1, sequence.len() - 2, 2))
}

fn wanted(name: &str) -> Vec<f32> {
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(adapter_dir(name).join("golden.json")).unwrap()).unwrap();
    let rows: Vec<Vec<f32>> = serde_json::from_value(json["last_two_logits"].clone()).unwrap();
    rows.concat()
}

#[test]
fn an_adapter_of_peft_gives_its_logits_attached_and_merged() {
    let (base, golden) = golden("tied", &Device::flex());
    let plain = last_two_logits(&base.decoder, &golden.first);
    for name in ADAPTERS {
        let adapter = LoraAdapter::read(&adapter_dir(name)).unwrap();
        let want = wanted(name);
        let attached = base.decoder.with_adapter(&adapter).unwrap();
        assert_close(&last_two_logits(&attached, &golden.first), &want, 1e-4, name);
        let merged = base.decoder.merged(&adapter).unwrap();
        assert_close(&last_two_logits(&merged, &golden.first), &want, 1e-4, name);
        let back = merged.unmerged(&adapter).unwrap();
        assert_close(&last_two_logits(&back, &golden.first), &plain, 1e-5, name);
        let moved = want.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 0.1);
        assert!(
            moved,
            "{name}: the adapter changes nothing that this test could see"
        );
    }
}

#[test]
fn several_adapters_share_one_base_and_come_off_again() {
    let (base, golden) = golden("tied", &Device::flex());
    let [first, second] = ADAPTERS.map(|name| {
        let adapter = LoraAdapter::read(&adapter_dir(name)).unwrap();
        base.decoder.with_adapter(&adapter).unwrap()
    });
    assert_close(
        &last_two_logits(&first, &golden.first),
        &wanted(ADAPTERS[0]),
        1e-4,
        "first",
    );
    assert_close(
        &last_two_logits(&second, &golden.first),
        &wanted(ADAPTERS[1]),
        1e-4,
        "second",
    );
    let bare = second.without_adapter();
    assert_eq!(
        last_two_logits(&bare, &golden.first),
        last_two_logits(&base.decoder, &golden.first)
    );
}

#[test]
fn a_new_adapter_changes_nothing_and_is_drawn_as_peft_draws() {
    let (base, golden) = golden("tied", &Device::flex());
    let config = LoraConfig {
        rank: 8,
        ..LoraConfig::default()
    };
    let adapter = LoraAdapter::new(&config, &base.decoder, 7).unwrap();
    assert_eq!(adapter.layers.len(), 7 * base.config.layers);
    let adapted = base.decoder.with_adapter(&adapter).unwrap();
    assert_eq!(
        last_two_logits(&adapted, &golden.first),
        last_two_logits(&base.decoder, &golden.first)
    );
    for (name, weights) in &adapter.layers {
        let bound = (weights.a.shape[1] as f32).sqrt().recip();
        let largest = weights
            .a
            .values
            .iter()
            .fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(
            largest <= bound && largest > 0.9 * bound,
            "{name}: {largest} {bound}"
        );
        assert!(weights.b.values.iter().all(|&value| value == 0.0));
    }
    assert_eq!(adapter, LoraAdapter::new(&config, &base.decoder, 7).unwrap());
    assert_ne!(adapter, LoraAdapter::new(&config, &base.decoder, 8).unwrap());
}

#[test]
fn saved_and_loaded_is_the_same_adapter() {
    let (base, _) = golden("tied", &Device::flex());
    for name in ADAPTERS {
        let adapter = LoraAdapter::read(&adapter_dir(name)).unwrap();
        let attached = base.decoder.with_adapter(&adapter).unwrap();
        let dir = tempfile::tempdir().unwrap();
        LoraAdapter::of(&attached, &adapter.config)
            .unwrap()
            .write(dir.path())
            .unwrap();
        let again = LoraAdapter::read(dir.path()).unwrap();
        assert_eq!(again.layers, adapter.layers);
        assert_eq!(again.config.scale(), adapter.config.scale());
    }
}

#[test]
fn peft_loads_what_was_saved() {
    let (base, golden) = golden("tied", &Device::flex());
    for name in ADAPTERS {
        let dir = tempfile::tempdir().unwrap();
        let mut adapter = LoraAdapter::read(&adapter_dir(name)).unwrap();
        for weights in adapter.layers.values_mut() {
            weights.b.values.iter_mut().for_each(|value| *value *= -0.5);
        }
        adapter.write(dir.path()).unwrap();
        let Some(got) = saved_logits(&golden_dir("tied"), &golden.first, Some(dir.path())) else {
            return;
        };
        let attached = base.decoder.with_adapter(&adapter).unwrap();
        assert_close(&last_two_logits(&attached, &golden.first), &got, 1e-4, name);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let (base, _) = golden("tied", &Device::flex());
    let adapter = LoraAdapter::read(&adapter_dir("attention")).unwrap();
    let refused = |change: &dyn Fn(&mut LoraAdapter)| {
        let mut adapter = adapter.clone();
        change(&mut adapter);
        base.decoder
            .with_adapter(&adapter)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let error = refused(&|adapter| adapter.config.rank = 5);
    assert!(
        error.contains("lora_A") && error.contains("[4, 32]") && error.contains("[5, 32]"),
        "{error}"
    );
    let error = refused(&|adapter| {
        let (_, weights) = adapter.layers.pop_first().unwrap();
        adapter
            .layers
            .insert("model.layers.9.self_attn.q_proj".into(), weights);
    });
    assert!(error.contains("model.layers.9.self_attn.q_proj"), "{error}");
    let config = LoraConfig {
        target_modules: TargetModules::Names(vec!["q_proj".into(), "qproj".into()]),
        ..LoraConfig::default()
    };
    let error = LoraAdapter::new(&config, &base.decoder, 1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"qproj\""), "{error}");
}

#[test]
fn adapters_of_other_kinds_are_refused_by_name() {
    for (field, value) in [
        ("peft_type", serde_json::json!("LOHA")),
        ("use_dora", true.into()),
        ("rank_pattern", serde_json::json!({"q_proj": 2})),
        ("r", serde_json::json!(0)),
        ("lora_alpha", "much".into()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter_dir("attention").join(file), dir.path().join(file)).unwrap();
        }
        let path = dir.path().join("adapter_config.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json[field] = value;
        std::fs::write(&path, json.to_string()).unwrap();
        let error = LoraAdapter::read(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(if field == "r" { "r is not" } else { field }),
            "{error}"
        );
    }
}
