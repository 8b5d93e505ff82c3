//! Training steps are PyTorch's; see `golden/make_golden.py` for generator, seed and tolerance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::PathBuf;
use std::sync::Arc;

use aligner_data::{Batch, Cursor, Example};
use aligner_model::load_dir;
use aligner_train::objective::Sft;
use aligner_train::{AdamW, AdamWConfig, Schedule, ScheduleKind, StepBatch, TrainedModel, gradient_norm};
use burn::tensor::Device;
use burn::train::TrainStep;

#[derive(serde::Deserialize)]
struct Step {
    micro_batches: Vec<Vec<Row>>,
    loss: f64,
    grad_norm: f64,
    lr: f64,
}

#[derive(serde::Deserialize, Clone)]
struct Row {
    ids: Vec<u32>,
    prompt_len: usize,
}

fn goldens() -> Vec<Step> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/losses.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn model() -> TrainedModel {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../aligner-model/tests/golden/tied");
    TrainedModel::new(
        load_dir(&dir, &Device::flex().autodiff()).unwrap().decoder,
        Arc::new(Sft),
    )
}

fn batch(micro_batches: &[Vec<Row>]) -> StepBatch {
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

#[test]
fn losses_norms_and_rates_equal_pytorch() {
    let goldens = goldens();
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        peak: 1e-2,
        warmup_steps: 2,
        total_steps: goldens.len() as u64,
    };
    let mut optimizer = AdamW::new(AdamWConfig {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
    });
    let mut model = model();
    for (index, golden) in goldens.iter().enumerate() {
        let output = model.step(batch(&golden.micro_batches));
        let norm = gradient_norm(&model, &output.grads).unwrap();
        let lr = schedule.rate(index as u64);
        for (what, got, want) in [
            ("loss", output.item.loss(), golden.loss),
            ("norm", norm, golden.grad_norm),
            ("rate", lr, golden.lr),
        ] {
            assert!(
                (got - want).abs() <= 1e-4 * want.abs() + 1e-12,
                "step {index}: {what} {got}, PyTorch {want}"
            );
        }
        model = optimizer.step(model, output.grads, lr, (1.0 / (norm + 1e-6)).min(1.0));
    }
}

#[test]
fn accumulated_gradients_are_those_of_one_large_batch() {
    let goldens = goldens();
    let apart = &goldens[0].micro_batches;
    let together = vec![apart.concat()];
    let model = model();
    let (a, b) = (model.step(batch(apart)), model.step(batch(&together)));
    assert!((a.item.loss() - b.item.loss()).abs() < 1e-5);
    let norm = |grads| gradient_norm(&model, grads).unwrap();
    assert!((norm(&a.grads) - norm(&b.grads)).abs() < 1e-4 * norm(&b.grads));
}
