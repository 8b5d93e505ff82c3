//! Runs on several devices: the numbers are those of one, whatever the list is and however it changes.
//!
//! The only device that every machine has is `cpu`; named several times it is as many workers, each with a replica and a
//! thread of its own. They share one memory, and there the order of all sums is that of one device: every comparison here is
//! to the last bit. What devices with memories of their own do otherwise is tested in `src/workers/tests.rs`, and on real
//! ones in `device.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aligner_data::Batch;
use aligner_model::CausalDecoder;
use aligner_train::objective::{Objective, Sft};
use aligner_train::{
    DeviceList, Ending, LoraChoice, Outcome, RunDir, RunOptions, TrainConfig, TrainError, fine_tune, resume,
};
use burn::tensor::Tensor;
use lab::{Lab, essence, records, run, stopped_after};

fn config(lab: &Lab, out: &str, device: &str) -> TrainConfig {
    TrainConfig {
        device: device.into(),
        micro_batch: 2,
        accumulate: 4,
        ..lab.config(out)
    }
}

fn with_adapter(config: TrainConfig) -> TrainConfig {
    TrainConfig {
        lora: Some(LoraChoice {
            rank: 4,
            alpha: 16.0,
            dropout: 0.2,
            ..LoraChoice::default()
        }),
        lr: 2e-2,
        ..config
    }
}

fn on(device: &str, options: RunOptions) -> RunOptions {
    RunOptions {
        devices: Some(device.parse::<DeviceList>().unwrap()),
        ..options
    }
}

fn assert_same(a: &Outcome, b: &Outcome) {
    assert_eq!((a.ending, a.steps), (Ending::Finished, b.steps));
    assert_eq!(essence(&a.run), essence(&b.run));
    let weights = |dir: &Path| {
        let files = ["model.safetensors", "adapter_model.safetensors"];
        let there = files
            .iter()
            .map(|name| dir.join(name))
            .find(|path| path.is_file());
        std::fs::read(there.unwrap()).unwrap()
    };
    assert!(weights(&a.model_dir) == weights(&b.model_dir), "final weights");
}

/// Four micro-batches a step and three, which two devices cannot divide evenly. The last step has two: the third of three
/// devices is idle then.
#[test]
fn workers_compute_the_run_of_one_device() {
    let lab = Lab::new();
    for (accumulate, several) in [(4, "cpu,cpu"), (3, "cpu,cpu"), (3, "cpu,cpu,cpu")] {
        let [one, together] = ["cpu", several].map(|device| {
            run(&TrainConfig {
                accumulate,
                steps: None,
                epochs: 1,
                ..config(&lab, &format!("{several}-{accumulate}-{device}"), device)
            })
        });
        assert_same(&together, &one);
    }
}

#[test]
fn an_adapter_with_dropout_is_trained_by_workers_as_by_one_device() {
    let lab = Lab::new();
    let [one, two] = ["cpu", "cpu,cpu"].map(|device| run(&with_adapter(config(&lab, device, device))));
    assert_same(&two, &one);
}

#[test]
fn workers_compute_activations_again_to_the_same_numbers() {
    let lab = Lab::new();
    let one = run(&config(&lab, "one", "cpu"));
    let again = run(&TrainConfig {
        checkpointing: true,
        ..config(&lab, "again", "cpu,cpu")
    });
    assert_same(&again, &one);
}

#[test]
fn a_run_goes_on_with_other_devices_as_if_they_had_never_changed() {
    let lab = Lab::new();
    for adapter in [false, true] {
        let made = |out: &str| {
            let config = config(&lab, &format!("{out}-{adapter}"), "cpu");
            if adapter { with_adapter(config) } else { config }
        };
        let whole = run(&made("whole"));
        let config = made("parts");
        fine_tune(&config, stopped_after(3)).unwrap();
        let part = resume(&config.out, on("cpu,cpu", stopped_after(5))).unwrap();
        assert_eq!((part.ending, part.steps), (Ending::Interrupted, 5));
        let recorded = TrainConfig::read(&RunDir::new(&config.out).config()).unwrap();
        assert_eq!(recorded.device, "cpu,cpu");
        // As it was recorded, then three, and back to one.
        resume(&config.out, stopped_after(7)).unwrap();
        resume(&config.out, on("cpu,cpu,cpu", stopped_after(9))).unwrap();
        let rest = resume(&config.out, on("cpu", RunOptions::default())).unwrap();
        assert_same(&rest, &whole);
    }
}

#[test]
fn more_devices_than_micro_batches_are_refused_before_anything_changes() {
    let lab = Lab::new();
    let many = config(&lab, "many", "cpu,cpu,cpu,cpu,cpu");
    let error = fine_tune(&many, RunOptions::default()).unwrap_err();
    assert!(matches!(error, TrainError::Config { .. }), "{error}");
    assert!(
        error.to_string().starts_with("accumulate: must be at least"),
        "{error}"
    );
    assert!(!many.out.join("run.toml").exists());

    let config = config(&lab, "run", "cpu");
    fine_tune(&config, stopped_after(2)).unwrap();
    let before = std::fs::read(RunDir::new(&config.out).config()).unwrap();
    let error = resume(&config.out, on(&many.device, RunOptions::default())).unwrap_err();
    assert!(matches!(error, TrainError::Config { .. }), "{error}");
    assert_eq!(std::fs::read(RunDir::new(&config.out).config()).unwrap(), before);
}

/// Runs when `ALIGNER_TEST_DEVICE` names a device that was compiled in: it and the CPU divide the steps, in both orders. The
/// tolerance is that of `device.rs`, for a device whose own sums and exponentials differ.
#[test]
fn two_unlike_devices_compute_the_run_of_one() {
    let Ok(other) = std::env::var("ALIGNER_TEST_DEVICE") else {
        return;
    };
    let lab = Lab::new();
    let losses = |out: &str, device: &str| -> Vec<f64> {
        let full = run(&config(&lab, out, device));
        let adapter = run(&with_adapter(config(&lab, &format!("{out}-adapter"), device)));
        let records = [records(&full.run), records(&adapter.run)].concat();
        records.iter().map(|record| record.loss).collect()
    };
    let here = losses("cpu", "cpu");
    for devices in [format!("{other},cpu"), format!("cpu,{other}")] {
        let there = losses(&devices, &devices);
        assert_eq!(there.len(), here.len());
        let worst = here
            .iter()
            .zip(&there)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1e-3, "{devices}: largest difference {worst:e}");
    }
}

/// Fails as a device does, with a panic, in a training pass.
#[derive(Debug)]
struct FailsAt {
    pass: usize,
    passes: AtomicUsize,
}

impl Objective for FailsAt {
    fn loss_sum(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1> {
        let is_training = decoder.norm.weight.val().device().is_autodiff();
        if is_training && self.passes.fetch_add(1, Ordering::SeqCst) == self.pass {
            panic!("an illegal memory access was encountered");
        }
        Sft.loss_sum(decoder, batch)
    }
}

#[test]
fn a_device_that_fails_ends_the_run_with_its_name_and_a_state_to_go_on_from() {
    let lab = Lab::new();
    let whole = run(&config(&lab, "whole", "cpu"));
    let config = config(&lab, "run", "cpu,cpu");
    // Somewhere in the seventh step of four passes: no step that saves regularly is right before it.
    let failing = RunOptions {
        objective: Some(Arc::new(FailsAt {
            pass: 26,
            passes: AtomicUsize::new(0),
        })),
        ..RunOptions::default()
    };
    let error = fine_tune(&config, failing).unwrap_err();
    let TrainError::Device { device, step, reason } = &error else {
        panic!("{error}");
    };
    assert!(device == "cpu (1 of 2)" || device == "cpu (2 of 2)", "{device}");
    assert_eq!(
        (*step, reason.as_str()),
        (7, "an illegal memory access was encountered")
    );
    let checkpoint = RunDir::new(&config.out).checkpoints().join("step-00000006");
    assert!(checkpoint.join("checkpoint.json").is_file());
    assert_same(&resume(&config.out, RunOptions::default()).unwrap(), &whole);
}
