//! Runs that train an adapter over a base that stays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use std::path::Path;

use aligner_data::{AlignerManifest, Tokenizer};
use aligner_model::{LoraAdapter, WeightFormat, load_dir};
use aligner_train::{
    Ending, LoraChoice, RunDir, RunOptions, Split, TrainConfig, TrainError, fine_tune, resume,
};
use burn::tensor::Device;
use lab::{Lab, essence, records, run, stopped_after};

fn config(lab: &Lab, out: &str) -> TrainConfig {
    TrainConfig {
        lora: Some(LoraChoice {
            rank: 4,
            alpha: 16.0,
            ..LoraChoice::default()
        }),
        lr: 2e-2,
        ..lab.config(out)
    }
}

fn adapter_file(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_run_leaves_an_adapter_that_learned_and_a_base_that_stayed() {
    let lab = Lab::new();
    let base_before = std::fs::read(lab.path("base/model.safetensors")).unwrap();
    let outcome = run(&config(&lab, "run"));
    assert_eq!(outcome.ending, Ending::Finished);
    let valid: Vec<f64> = records(&outcome.run)
        .iter()
        .filter(|record| record.split == Split::Valid)
        .map(|record| record.loss)
        .collect();
    // The base is random and stays so: an adapter over it learns less than all weights would, but far more than rounding.
    assert!(valid[2] < valid[0] - 0.05, "{valid:?}");
    assert_eq!(
        std::fs::read(lab.path("base/model.safetensors")).unwrap(),
        base_before
    );
    let run_dir = RunDir::new(&outcome.run);
    for dir in [run_dir.finished(), run_dir.best()] {
        assert!(!dir.join("model.safetensors").exists());
        let adapter = LoraAdapter::read(&dir).unwrap();
        let base = load_dir(&adapter.base_dir(&dir).unwrap(), &Device::flex()).unwrap();
        base.decoder.with_adapter(&adapter).unwrap();
        Tokenizer::from_dir(&dir).unwrap();
        let manifest = AlignerManifest::read(&dir).unwrap().unwrap();
        assert_eq!((manifest.base_model.as_str(), manifest.stages.len()), ("base", 1));
    }
}

/// With a warm-up too: then the first stop is on the boundary of the stages. One test for both, because the device has one
/// generator of random numbers: a second run with dropout in the same process would draw from it in between.
#[test]
fn a_resumed_run_equals_an_undisturbed_one_to_the_last_bit_dropout_included() {
    let lab = Lab::new();
    for (share, first_stop, steps) in [(0.0, 3, 12), (0.2, 2, 14)] {
        let with_dropout = |out: &str| {
            let mut config = config(&lab, &format!("{out}-{share}"));
            config.lora.as_mut().unwrap().dropout = 0.2;
            config.warmup.share = Some(share);
            config
        };
        let whole = run(&with_dropout("whole"));
        let parts = with_dropout("parts");
        fine_tune(&parts, stopped_after(first_stop)).unwrap();
        resume(&parts.out, stopped_after(9)).unwrap();
        let rest = resume(&parts.out, RunOptions::default()).unwrap();
        assert_eq!((rest.steps, essence(&rest.run)), (steps, essence(&whole.run)));
        assert_eq!(adapter_file(&rest.model_dir), adapter_file(&whole.model_dir));
        if share == 0.0 {
            // And dropout is there at all.
            let without = run(&config(&lab, "without"));
            assert_ne!(essence(&without.run), essence(&whole.run));
        }
    }
}

#[test]
fn an_adapter_goes_on_being_trained_over_its_base() {
    let lab = Lab::new();
    let first = run(&config(&lab, "first"));
    let second = TrainConfig {
        model: first.model_dir.clone(),
        lora: None,
        ..config(&lab, "second")
    };
    let outcome = run(&second);
    let adapter = LoraAdapter::read(&outcome.model_dir).unwrap();
    assert_eq!(adapter.config.rank, 4);
    let losses = |run: &Path| -> Vec<f64> {
        let records = records(run);
        records
            .iter()
            .filter(|record| record.split == Split::Valid)
            .map(|record| record.loss)
            .collect()
    };
    // It starts where the first run ended.
    let (ended, started) = (losses(&first.run), losses(&outcome.run));
    assert_eq!(ended.last().unwrap().to_bits(), started[0].to_bits());
    let manifest = AlignerManifest::read(&outcome.model_dir).unwrap().unwrap();
    assert_eq!((manifest.base_model.as_str(), manifest.stages.len()), ("base", 2));
    let other_shape = TrainConfig {
        lora: Some(LoraChoice {
            rank: 2,
            ..LoraChoice::default()
        }),
        out: lab.path("third"),
        ..second
    };
    let error = fine_tune(&other_shape, RunOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("is an adapter already"), "{error}");
}

#[test]
fn a_base_that_changed_under_an_adapter_is_noticed() {
    let lab = Lab::new();
    let config = config(&lab, "run");
    fine_tune(&config, stopped_after(2)).unwrap();
    let is_noticed = || {
        let error = resume(&config.out, RunOptions::default()).unwrap_err();
        let is_named = matches!(&error, TrainError::Changed { what, .. } if *what == "base model");
        assert!(is_named, "{error}");
    };
    let path = config.model.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["rms_norm_eps"] = 1e-3.into();
    std::fs::write(&path, json.to_string()).unwrap();
    is_noticed();
    std::fs::write(&path, text).unwrap();
    // Other weights, in a file as long.
    let trained = run(&TrainConfig {
        out: lab.path("other"),
        ..lab.config("other")
    });
    let weights = config.model.join("model.safetensors");
    let (before, after) = (
        std::fs::read(&weights).unwrap(),
        std::fs::read(trained.model_dir.join("model.safetensors")).unwrap(),
    );
    assert_eq!(before.len(), after.len());
    std::fs::write(&weights, after).unwrap();
    is_noticed();
    std::fs::write(&weights, before).unwrap();
    assert_eq!(
        resume(&config.out, RunOptions::default()).unwrap().ending,
        Ending::Finished
    );
}

/// Rounding moves a weight by at most 1/254 of the largest in its block, which a random model whose loss is near the logarithm
/// of its vocabulary hardly feels; in nats, with twelve steps of training on top.
const INT8_TOLERANCE: f64 = 0.01;

fn int8(config: TrainConfig) -> TrainConfig {
    TrainConfig {
        base_weights: WeightFormat::Int8,
        ..config
    }
}

#[test]
fn a_base_in_int8_gives_nearly_the_losses_of_one_in_f32_and_they_fall() {
    let lab = Lab::new();
    let base_before = std::fs::read(lab.path("base/model.safetensors")).unwrap();
    let [in_f32, in_int8] = [config(&lab, "f32"), int8(config(&lab, "int8"))].map(|config| run(&config));
    let (a, b) = (records(&in_f32.run), records(&in_int8.run));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert!(
            (a.loss - b.loss).abs() < INT8_TOLERANCE,
            "step {}: {} {}",
            a.step,
            a.loss,
            b.loss
        );
    }
    // It is another base.
    assert_ne!(essence(&in_f32.run), essence(&in_int8.run));
    let valid: Vec<f64> = b
        .iter()
        .filter(|record| record.split == Split::Valid)
        .map(|record| record.loss)
        .collect();
    assert!(valid[2] < valid[0] - 0.05, "{valid:?}");
    // What is written is an adapter over the weights as they were, which it is merged into.
    let written = LoraAdapter::read(&in_int8.model_dir).unwrap();
    let base_dir = written.base_dir(&in_int8.model_dir).unwrap();
    assert_eq!(
        std::fs::canonicalize(&base_dir).unwrap(),
        std::fs::canonicalize(lab.path("base")).unwrap()
    );
    assert_eq!(
        std::fs::read(base_dir.join("model.safetensors")).unwrap(),
        base_before
    );
    let base = load_dir(&base_dir, &Device::flex()).unwrap();
    base.decoder.merged(&written).unwrap();
    assert!(!in_int8.model_dir.join("model.safetensors").exists());
}

#[test]
fn a_run_over_int8_resumes_to_the_last_bit_and_on_no_other_base() {
    let lab = Lab::new();
    let whole = run(&int8(config(&lab, "whole")));
    let parts = int8(config(&lab, "parts"));
    fine_tune(&parts, stopped_after(5)).unwrap();
    let recorded = RunDir::new(&parts.out).read_config().unwrap();
    assert_eq!(recorded.base_weights, WeightFormat::Int8);
    let path = parts.out.join("run.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("base_weights = \"int8\""), "{text}");
    std::fs::write(&path, text.replace("base_weights = \"int8\"\n", "")).unwrap();
    let error = resume(&parts.out, RunOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("int8") && error.contains("f32") && error.contains("format"),
        "{error}"
    );
    std::fs::write(&path, text).unwrap();
    let rest = resume(&parts.out, RunOptions::default()).unwrap();
    assert_eq!((rest.steps, essence(&rest.run)), (12, essence(&whole.run)));
    assert_eq!(adapter_file(&rest.model_dir), adapter_file(&whole.model_dir));
}

#[test]
fn int8_is_for_a_base_under_an_adapter_also_one_that_goes_on_being_trained() {
    let lab = Lab::new();
    let error = fine_tune(&int8(lab.config("full")), RunOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("base_weights") && error.contains("--lora-rank"),
        "{error}"
    );
    assert!(!lab.path("full/run.toml").exists());
    let first = run(&int8(config(&lab, "first")));
    let second = run(&int8(TrainConfig {
        model: first.model_dir.clone(),
        lora: None,
        ..config(&lab, "second")
    }));
    let (ended, started) = (records(&first.run), records(&second.run));
    assert_eq!(ended.last().unwrap().loss.to_bits(), started[0].loss.to_bits());
}

/// The second step panicked: what was updated had lost the device's strategy, which the base still had.
#[test]
fn an_adapter_goes_on_training_when_activations_are_computed_again() {
    let lab = Lab::new();
    let kept = run(&config(&lab, "kept"));
    let again = run(&TrainConfig {
        checkpointing: true,
        ..config(&lab, "again")
    });
    assert!(again.steps > 1);
    assert_eq!(essence(&again.run), essence(&kept.run));
    assert_eq!(adapter_file(&again.model_dir), adapter_file(&kept.model_dir));
}
