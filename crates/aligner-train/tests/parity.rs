//! Training steps are PyTorch's; see `golden/make_golden.py` for generator, seed and tolerance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aligner_train::{Schedule, ScheduleKind, TrainedModel, gradient_norm};
use burn::tensor::Device;
use burn::train::TrainStep;
use common::{Step, adapted_model, batch, goldens, model, optimizer};

#[test]
fn losses_norms_and_rates_equal_pytorch() {
    assert_steps_equal(model(&Device::flex()), &goldens("losses.json"));
}

#[test]
fn those_of_an_adapter_equal_peft() {
    assert_steps_equal(adapted_model(&Device::flex()), &goldens("lora_losses.json"));
}

fn assert_steps_equal(mut model: TrainedModel, goldens: &[Step]) {
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        peak: 1e-2,
        warmup_steps: 2,
        total_steps: goldens.len() as u64,
    };
    let mut optimizer = optimizer();
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
    let goldens = goldens("losses.json");
    let apart = &goldens[0].micro_batches;
    let together = vec![apart.concat()];
    let model = model(&Device::flex());
    let (a, b) = (model.step(batch(apart)), model.step(batch(&together)));
    assert!((a.item.loss() - b.item.loss()).abs() < 1e-5);
    let norm = |grads| gradient_norm(&model, grads).unwrap();
    assert!((norm(&a.grads) - norm(&b.grads)).abs() < 1e-4 * norm(&b.grads));
}
