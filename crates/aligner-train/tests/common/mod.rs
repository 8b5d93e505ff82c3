//! A tiny model and recorded training steps, shared by the tests of this crate.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::Arc;

use aligner_data::{Batch, Cursor, Example};
use aligner_model::{LoraAdapter, load_dir};
use aligner_train::objective::Sft;
use aligner_train::{AdamW, AdamWConfig, StepBatch, TrainedModel};
use burn::tensor::Device;

#[derive(serde::Deserialize)]
pub struct Step {
    pub micro_batches: Vec<Vec<Row>>,
    pub loss: f64,
    pub grad_norm: f64,
    pub lr: f64,
}

#[derive(serde::Deserialize, Clone)]
pub struct Row {
    pub ids: Vec<u32>,
    pub prompt_len: usize,
}

pub fn goldens(file: &str) -> Vec<Step> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn model_golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../aligner-model/tests/golden")
        .join(name)
}

pub fn model(device: &Device) -> TrainedModel {
    let loaded = load_dir(&model_golden("tied"), &device.clone().autodiff()).unwrap();
    TrainedModel::new(loaded.decoder, Arc::new(Sft))
}

/// The same model, frozen, with an adapter that is trained.
pub fn adapted_model(device: &Device) -> TrainedModel {
    let loaded = load_dir(&model_golden("tied"), &device.clone().autodiff()).unwrap();
    let adapter = LoraAdapter::read(&model_golden("lora/all-rslora")).unwrap();
    TrainedModel::new(
        loaded.decoder.frozen_with_adapter(&adapter).unwrap(),
        Arc::new(Sft),
    )
}

pub fn batch(micro_batches: &[Vec<Row>]) -> StepBatch {
    let batches: Vec<Batch> = micro_batches
        .iter()
        .map(|rows| {
            Batch::new(rows.iter().map(|row| Example {
                ids: &row.ids,
                prompt_len: row.prompt_len,
            }))
        })
        .collect();
    StepBatch {
        target_tokens: batches.iter().map(|batch| batch.target_tokens() as u64).sum(),
        tokens: batches.iter().map(|batch| batch.tokens() as u64).sum(),
        rows: batches.iter().map(|batch| batch.rows() as u64).sum(),
        micro_batches: batches,
        start: Cursor::default(),
        end: Cursor::default(),
    }
}

pub fn optimizer() -> AdamW {
    AdamW::new(AdamWConfig {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
    })
}
