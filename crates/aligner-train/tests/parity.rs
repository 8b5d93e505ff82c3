//! Training steps are PyTorch's; see `golden/make_golden.py` for generator, seed and tolerance.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aligner_model::weights::{SafetensorsSource, TensorSource, named_parameters};
use aligner_train::{AdamW, Schedule, ScheduleKind, TrainedModel, gradient_norm};
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

/// Every moment that an optimizer holds, by name.
fn moments(optimizer: &AdamW, model: &TrainedModel) -> Vec<(String, Vec<f32>)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("moments.safetensors");
    optimizer.save(&named_parameters(&model.decoder), &path).unwrap();
    let mut source = SafetensorsSource::open_file(&path).unwrap();
    let mut names = source.names();
    names.sort_unstable();
    let mut read = |name: String| {
        let values = source.read(&name).unwrap().unwrap().values;
        (name, values)
    };
    names.drain(..).map(&mut read).collect()
}

fn trained(mut model: TrainedModel, mut optimizer: AdamW, steps: &[Step]) -> (TrainedModel, AdamW) {
    for step in steps {
        let output = model.step(batch(&step.micro_batches));
        model = optimizer.step(model, output.grads, 1e-2, 1.0);
    }
    (model, optimizer)
}

#[test]
fn moments_made_before_the_first_step_change_no_number() {
    let steps = &goldens("losses.json")[..3];
    for make in [model, adapted_model] {
        let (at_once, in_the_step) = (make(&Device::flex()), make(&Device::flex()));
        let mut prepared = optimizer();
        prepared.prepare(&at_once);
        let made: Vec<String> = moments(&prepared, &at_once)
            .into_iter()
            .map(|(name, values)| {
                assert!(values.iter().all(|&value| value == 0.0), "{name}");
                name
            })
            .collect();
        let (at_once, prepared) = trained(at_once, prepared, steps);
        let (in_the_step, lazy) = trained(in_the_step, optimizer(), steps);
        let (prepared, lazy) = (moments(&prepared, &at_once), moments(&lazy, &in_the_step));
        assert_eq!(prepared, lazy);
        // Those of what is trained, and of nothing else: an adapter's base has none.
        assert!(made.iter().eq(lazy.iter().map(|(name, _)| name)), "{made:?}");
    }
}

#[test]
fn an_optimizer_that_begins_anew_forgets_everything() {
    let steps = &goldens("losses.json")[..3];
    let (model, mut used) = trained(model(&Device::flex()), optimizer(), steps);
    used.reset(&model);
    let mut new = optimizer();
    new.prepare(&model);
    assert_eq!(moments(&used, &model), moments(&new, &model));
    // Its corrections of the moments count from the first step again.
    let gradients = || model.step(batch(&steps[0].micro_batches)).grads;
    let (a, b) = (
        used.step(model.clone(), gradients(), 1e-2, 1.0),
        new.step(model.clone(), gradients(), 1e-2, 1.0),
    );
    let weights = |model: &TrainedModel| {
        let weight = model.decoder.embed_tokens.dense().unwrap().val();
        weight.try_into_vec_as::<f32>().unwrap()
    };
    assert_eq!(weights(&a), weights(&b));
}
