//! One training step on SmolLM2-135M's shape in f32: forward and backward of a micro-batch, gradient norm, AdamW.
//!
//! Reported as tokens a second.

use std::sync::Arc;

use aligner_bench::{batch, keep_freed_memory, model};
use aligner_data::Cursor;
use aligner_train::objective::Sft;
use aligner_train::{AdamW, StepBatch, TrainConfig, TrainedModel, gradient_norm};
use burn::tensor::Device;
use burn::train::TrainStep;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn step(rows: usize, length: usize) -> StepBatch {
    let batch = batch(rows, length);
    StepBatch {
        target_tokens: batch.target_tokens() as u64,
        tokens: batch.tokens() as u64,
        micro_batches: vec![batch],
        start: Cursor::default(),
        end: Cursor::default(),
        rows: rows as u64,
    }
}

fn train_step(criterion: &mut Criterion) {
    keep_freed_memory();
    let device = Device::flex().autodiff();
    let mut group = criterion.benchmark_group("train_step");
    group.sample_size(10);
    for (rows, length) in [(1, 256), (4, 256)] {
        let batch = step(rows, length);
        let mut model = vec![TrainedModel::new(model(&device), Arc::new(Sft))];
        let mut optimizer = AdamW::new(TrainConfig::default().adamw());
        group.throughput(Throughput::Elements(batch.tokens));
        group.bench_function(
            BenchmarkId::from_parameter(format!("{rows}x{length}")),
            |bencher| {
                bencher.iter(|| {
                    let Some(current) = model.pop() else { return 0.0 };
                    let output = current.step(batch.clone());
                    let norm = gradient_norm(&current, &output.grads).unwrap_or(f64::NAN);
                    model.push(optimizer.step(current, output.grads, 1e-5, 1.0));
                    norm
                });
            },
        );
    }
}

criterion_group!(benches, train_step);
criterion_main!(benches);
