//! Another device computes what the CPU computes.
//!
//! Runs when `ALIGNER_TEST_DEVICE` names a device that was compiled in. The tolerance of 1e-3 is for devices that reorder
//! sums and approximate exponentials; a wrong operation is off by far more.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;
mod lab;

use aligner_model::{DeviceSpec, WeightFormat};
use aligner_train::{LoraChoice, TrainConfig, TrainedModel, gradient_norm};
use burn::tensor::{Device, Int, Tensor};
use burn::train::TrainStep;
use common::{batch, goldens, model, optimizer};
use lab::{Lab, records, run};

const TOLERANCE: f64 = 1e-3;
const IDS: [[i32; 6]; 2] = [[5, 9, 17, 2, 30, 4], [8, 8, 1, 40, 3, 11]];

fn other_device() -> Option<Device> {
    let Ok(name) = std::env::var("ALIGNER_TEST_DEVICE") else {
        println!("skipped: ALIGNER_TEST_DEVICE does not name a device");
        return None;
    };
    Some(name.parse::<DeviceSpec>().unwrap().open().unwrap())
}

fn assert_close(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g - w).abs())
        .fold(0.0, f64::max);
    println!("{what}: largest difference {worst:.1e}");
    assert!(worst <= TOLERANCE, "{what}: largest difference {worst}");
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    let values: Vec<f32> = tensor.try_into_vec_as().unwrap();
    values.into_iter().map(f64::from).collect()
}

/// Logits of two sequences at once, then of four more tokens through the cache.
fn logits(model: &TrainedModel, device: &Device) -> Vec<f64> {
    let decoder = &model.decoder;
    let ids = Tensor::<2, Int>::from_ints(IDS, &device.clone().autodiff());
    let whole = decoder.logits(decoder.forward(ids.clone(), None)).inner();
    let decoder = burn::module::Module::valid(decoder);
    let ids = ids.inner();
    let mut cache = decoder.new_cache(2, 6);
    decoder.forward(ids.clone().narrow(1, 0, 2), Some(&mut cache));
    let rest = decoder.forward(ids.narrow(1, 2, 4), Some(&mut cache));
    [host(whole), host(decoder.logits(rest))].concat()
}

#[test]
fn logits_and_a_training_step_equal_the_cpu() {
    let Some(device) = other_device() else { return };
    let [there, here] = [device, Device::flex()].map(|device| {
        let model = model(&device);
        let before = logits(&model, &device);
        let output = model.step(batch(&goldens("losses.json")[0].micro_batches));
        let loss = output.item.loss();
        let norm = gradient_norm(&model, &output.grads).unwrap();
        let stepped = optimizer().step(model, output.grads, 1e-2, 1.0);
        (before, vec![loss, norm], logits(&stepped, &device))
    });
    assert_close(&there.0, &here.0, "logits");
    assert_close(&there.1, &here.1, "loss and gradient norm");
    assert_close(&there.2, &here.2, "logits after the step");
    let moved = here
        .0
        .iter()
        .zip(&here.2)
        .any(|(a, b)| (a - b).abs() > 10.0 * TOLERANCE);
    assert!(moved, "the step changed nothing that this test could see");
}

#[test]
fn an_adapter_over_int8_trains_as_on_the_cpu() {
    if other_device().is_none() {
        return;
    }
    let lab = Lab::new();
    let [there, here] = [std::env::var("ALIGNER_TEST_DEVICE").unwrap(), "cpu".into()].map(|device| {
        let outcome = run(&TrainConfig {
            lora: Some(LoraChoice {
                rank: 4,
                alpha: 16.0,
                ..LoraChoice::default()
            }),
            base_weights: WeightFormat::Int8,
            lr: 2e-2,
            steps: Some(4),
            device: device.clone(),
            ..lab.config(&device)
        });
        let losses: Vec<f64> = records(&outcome.run).iter().map(|record| record.loss).collect();
        losses
    });
    assert!(here.len() > 4 && here.first() != here.last(), "{here:?}");
    assert_close(&there, &here, "losses");
}
