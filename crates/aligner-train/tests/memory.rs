//! The predicted peak against the real one, of a small new model; alone in its binary, because memory is a process's.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use aligner_model::{CausalDecoder, LlamaShape, ModelConfig, on_pool};
use aligner_train::objective::Sft;
use aligner_train::{MemoryChoices, MemoryPlan, TrainedModel, peak_rss_bytes};
use burn::tensor::Device;
use burn_train::TrainStep;
use common::Row;

/// The allocator of the command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory in use now.
fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn the_predicted_peak_is_the_measured_one() {
    let shape = LlamaShape {
        vocab_size: 2000,
        hidden_size: 256,
        intermediate_size: 768,
        layers: 6,
        heads: 4,
        kv_heads: 2,
        max_positions: 256,
    };
    let (micro_batch, max_length) = (8, 256);
    let config = ModelConfig::llama(shape).unwrap();
    let before = rss_bytes();
    let decoder = CausalDecoder::random(&config, 1, &Device::flex().autodiff()).unwrap();
    let mut model = TrainedModel::new(decoder, Arc::new(Sft));
    let mut optimizer = common::optimizer();
    let row = Row {
        ids: (0..max_length as u32).collect(),
        prompt_len: 1,
    };
    // The moments are there from the end of the first step on; the others are as high as the second.
    for _ in 0..3 {
        let batch = common::batch(&[vec![row.clone(); micro_batch]]);
        model = on_pool(|| {
            let gradients = TrainStep::step(&model, batch).grads;
            optimizer.step(model, gradients, 1e-4, 1.0)
        });
    }
    let measured = peak_rss_bytes() - before;
    let plan = MemoryPlan::of(
        &config,
        &MemoryChoices {
            micro_batch,
            max_length,
            accumulate: 1,
            lora: None,
            checkpointing: false,
            base_weights: aligner_model::WeightFormat::F32,
        },
    );
    // Program and tokenizer were there before, or are not there at all.
    let predicted = plan.total_bytes - plan.fixed_bytes;
    let ratio = predicted as f64 / measured as f64;
    assert!(
        (0.85..1.15).contains(&ratio),
        "predicted {predicted}, measured {measured}, {ratio:.3}: {plan:?}"
    );
}
