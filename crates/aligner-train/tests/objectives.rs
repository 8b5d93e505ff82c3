//! Losses and gradients of the objectives over pairs are PyTorch's; see `golden/make_preferences.py`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use aligner_data::{Batch, Cursor, Example};
use aligner_model::{CausalDecoder, Loaded, WeightFormat, load_dir, load_dir_as, load_score_dir};
use aligner_train::objective::{Cost, Dpo, Objective, Reward};
use aligner_train::{StepBatch, TrainedModel, gradient_norm};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use burn_train::TrainStep;
use common::model_golden;

#[derive(serde::Deserialize)]
struct Golden {
    pairs: Vec<Pair>,
    reward: Of,
    cost: Of,
    beta: f64,
    dpo: Of,
}

#[derive(serde::Deserialize)]
struct Pair {
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    labels: [u32; 2],
}

#[derive(serde::Deserialize)]
struct Of {
    loss_sum: f64,
    grad_norm: f64,
    #[serde(default)]
    head_grad: Vec<f64>,
    #[serde(default)]
    margins: Vec<f64>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/preferences.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The pairs as a step of two micro-batches.
fn step(pairs: &[Pair], labelled: bool) -> StepBatch {
    let rows: Vec<(Vec<u32>, usize)> = pairs
        .iter()
        .map(|pair| {
            let labels: &[u32] = if labelled { &pair.labels } else { &[] };
            (
                [&pair.chosen[..], &pair.rejected, labels].concat(),
                pair.chosen.len(),
            )
        })
        .collect();
    let batch = |rows: &[(Vec<u32>, usize)]| {
        Batch::new(rows.iter().map(|(ids, prompt_len)| Example {
            ids,
            prompt_len: *prompt_len,
        }))
    };
    let micro_batches: Vec<Batch> = rows.chunks(2).map(batch).collect();
    StepBatch {
        target_tokens: pairs.len() as u64,
        tokens: micro_batches.iter().map(|batch| batch.tokens() as u64).sum(),
        rows: pairs.len() as u64,
        micro_batches,
        start: Cursor::default(),
        end: Cursor::default(),
    }
}

fn close(got: f64, want: f64, what: &str) {
    let allowed = 2e-4 * want.abs().max(0.1);
    assert!((got - want).abs() <= allowed, "{what}: {got} {want}");
}

/// Loss and gradient of a step, against those recorded; the model and its gradients.
fn check(
    decoder: CausalDecoder,
    objective: Arc<dyn Objective>,
    batch: StepBatch,
    want: &Of,
) -> (TrainedModel, Vec<f32>) {
    let model = TrainedModel::new(decoder, objective);
    let out = TrainStep::step(&model, batch);
    assert_eq!(out.item.failure, None);
    close(out.item.loss_sum, want.loss_sum, "loss");
    close(gradient_norm(&model, &out.grads).unwrap(), want.grad_norm, "norm");
    let head = model.decoder.score.as_ref().map(|head| match &head.weight {
        aligner_model::nn::ProjectionWeight::Dense(weight) => {
            let gradient = out.grads.get::<2>(weight.id).unwrap();
            gradient.try_into_vec_as::<f32>().unwrap()
        }
        _ => panic!("a trained head is dense"),
    });
    (model, head.unwrap_or_default())
}

fn scoring() -> Loaded {
    load_score_dir(&model_golden("score/llama"), &Device::flex().autodiff()).unwrap()
}

#[test]
fn the_reward_loss_and_its_gradients_are_pytorchs() {
    let golden = golden();
    let Loaded { config, decoder } = scoring();
    let objective = Arc::new(Reward::new(config.score.unwrap()));
    let (_, head) = check(decoder, objective, step(&golden.pairs, false), &golden.reward);
    for (got, want) in head.iter().zip(&golden.reward.head_grad) {
        assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
    }
    assert_eq!(head.len(), golden.reward.head_grad.len());
}

#[test]
fn the_cost_loss_and_its_gradients_are_pytorchs() {
    let golden = golden();
    let Loaded { config, decoder } = scoring();
    let objective = Arc::new(Cost::new(config.score.unwrap()));
    let (model, head) = check(decoder, objective, step(&golden.pairs, true), &golden.cost);
    for (got, want) in head.iter().zip(&golden.cost.head_grad) {
        assert!((f64::from(*got) - want).abs() < 1e-4, "{got} {want}");
    }
    // Five of six answers have a label.
    let out = burn_train::InferenceStep::step(&model.valid(), step(&golden.pairs, true));
    assert_eq!((out.pairs.pairs, out.pairs.labelled), (3, 5));
    close(out.loss_sum, golden.cost.loss_sum, "validation");
}

/// The reference of the golden.
struct Shrink;

impl ModuleMapper for Shrink {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D == 2 {
            param.map(|tensor| tensor * 0.9)
        } else {
            param
        }
    }
}

#[test]
fn the_dpo_loss_and_its_gradients_are_pytorchs() {
    let golden = golden();
    let device = Device::flex();
    let mut reference = load_dir(&model_golden("tied"), &device).unwrap().decoder;
    reference.layers = reference.layers.map(&mut Shrink);
    let decoder = load_dir(&model_golden("tied"), &device.autodiff())
        .unwrap()
        .decoder;
    let objective = Arc::new(Dpo::new(golden.beta, reference));
    let (model, _) = check(
        decoder,
        objective.clone(),
        step(&golden.pairs, false),
        &golden.dpo,
    );
    let batch = step(&golden.pairs, false);
    let margins: Vec<f32> = batch
        .micro_batches
        .iter()
        .flat_map(|batch| {
            let measured = objective.measured(&model.decoder.valid(), batch);
            measured.margins.unwrap().try_into_vec_as::<f32>().unwrap()
        })
        .collect();
    for (got, want) in margins.iter().zip(&golden.dpo.margins) {
        close(f64::from(*got), *want, "margin");
    }
}

#[test]
fn a_model_held_against_itself_has_no_margin() {
    let golden = golden();
    let device = Device::flex();
    let reference = load_dir_as(&model_golden("tied"), WeightFormat::F32, &device)
        .unwrap()
        .decoder;
    let objective = Dpo::new(0.5, reference.clone());
    let batch = step(&golden.pairs, false);
    for batch in &batch.micro_batches {
        let loss = objective
            .loss_sum(&reference, batch)
            .try_into_scalar::<f32>()
            .unwrap();
        close(
            f64::from(loss),
            batch.rows() as f64 * std::f64::consts::LN_2,
            "loss",
        );
    }
}
