use std::sync::Arc;

use aligner_data::{Batch, Cursor, Example};
use aligner_model::{CausalDecoder, LlamaShape, LoraAdapter, LoraConfig, ModelConfig};

use super::*;
use crate::objective::{Objective, Sft, Unit};
use crate::optimizer::{AdamW, AdamWConfig};

/// As long as no other batch, so that an objective can tell it.
const BAD_TOKENS: usize = 11;

/// Fails like a device does: with a panic, on one micro-batch.
#[derive(Debug)]
struct FailsOnOne;

impl Objective for FailsOnOne {
    fn loss_sum(&self, decoder: &CausalDecoder, batch: &Batch) -> Tensor<1> {
        assert!(batch.tokens() != BAD_TOKENS, "out of memory");
        Sft.loss_sum(decoder, batch)
    }
}

fn decoder() -> CausalDecoder {
    let shape = LlamaShape {
        vocab_size: 64,
        hidden_size: 16,
        intermediate_size: 24,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        max_positions: 32,
    };
    let config = ModelConfig::llama(shape).unwrap();
    CausalDecoder::random(&config, 3, &Device::flex().autodiff()).unwrap()
}

fn full() -> TrainedModel {
    TrainedModel::new(decoder(), Arc::new(Sft))
}

fn adapted() -> TrainedModel {
    let config = LoraConfig {
        rank: 2,
        dropout: 0.25,
        ..LoraConfig::default()
    };
    let decoder = decoder();
    let adapter = LoraAdapter::new(&config, &decoder, 5).unwrap();
    TrainedModel::new(decoder.frozen_with_adapter(&adapter).unwrap(), Arc::new(Sft))
}

/// A step whose micro-batches have rows of these lengths.
fn step(lengths: &[&[usize]]) -> StepBatch {
    let row = |len: usize| -> Vec<u32> { (0..len as u32).map(|i| (i * 7 + len as u32) % 64).collect() };
    let micro_batches: Vec<Batch> = lengths
        .iter()
        .map(|rows| {
            let rows: Vec<Vec<u32>> = rows.iter().map(|&len| row(len)).collect();
            Batch::new(rows.iter().map(|ids| Example {
                ids,
                prompt_len: ids.len() / 2,
            }))
        })
        .collect();
    StepBatch {
        target_tokens: micro_batches
            .iter()
            .map(|batch| batch.target_tokens() as u64)
            .sum(),
        tokens: micro_batches.iter().map(|batch| batch.tokens() as u64).sum(),
        micro_batches,
        start: Cursor::default(),
        end: Cursor::default(),
        rows: lengths.iter().map(|rows| rows.len() as u64).sum(),
    }
}

/// Four micro-batches of unequal numbers of rows and tokens.
fn uneven() -> StepBatch {
    step(&[&[6, 9], &[4], &[12, 3, 5], &[8]])
}

fn workers(count: usize, in_order: bool) -> Workers {
    let devices = vec![Device::flex(); count];
    let names = (0..count).map(|place| format!("device {place}")).collect();
    let mut workers = Workers::on(&devices, names, false).unwrap();
    workers.in_order = in_order;
    workers
}

/// All gradients behind one another.
fn host(model: &TrainedModel, gradients: &GradientsParams) -> Vec<f32> {
    struct Host<'a>(&'a GradientsParams, Vec<f32>);
    impl ModuleVisitor for Host<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.1.extend(gradient.try_into_vec_as::<f32>().unwrap());
            }
        }
    }
    let mut host = Host(gradients, Vec::new());
    model.visit(&mut host);
    assert!(host.1.iter().any(|&value| value != 0.0));
    host.1
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn rounds_keep_the_order_and_leave_nothing_out() {
    let shares = |count, places, in_order| rounds((0..count).collect::<Vec<_>>(), places, in_order);
    assert_eq!(
        shares(5, 2, true),
        [vec![vec![0], vec![1]], vec![vec![2], vec![3]], vec![vec![4]]]
    );
    assert_eq!(shares(5, 2, false), [vec![vec![0, 1, 2], vec![3, 4]]]);
    assert_eq!(shares(2, 3, true), [vec![vec![0], vec![1]]]);
    assert_eq!(shares(2, 3, false), [vec![vec![0], vec![1]]]);
    for (count, places) in [(1, 4), (7, 3), (8, 4), (9, 2)] {
        for in_order in [true, false] {
            let flat: Vec<usize> = shares(count, places, in_order)
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            assert_eq!(flat, (0..count).collect::<Vec<_>>());
        }
    }
}

#[test]
fn workers_in_one_memory_give_the_gradients_of_one_device_to_the_last_bit() {
    for (model, seed) in [(full(), None), (adapted(), Some(17))] {
        let alone = model.seeded_step(uneven(), seed);
        for count in [2, 3, 6] {
            let together = workers(count, true).step(&model, uneven(), seed).unwrap();
            assert_eq!(together.item.loss_sum.to_bits(), alone.item.loss_sum.to_bits());
            assert_eq!(together.item.target_tokens, alone.item.target_tokens);
            assert_eq!(
                bits(&host(&model, &together.grads)),
                bits(&host(&model, &alone.grads)),
                "{count} workers"
            );
        }
    }
}

/// As devices with memories of their own do it. The tolerance is for f32 sums in another order: a few units in the last
/// place of gradients below 1. A micro-batch that was left out or weighed otherwise would be off by far more.
#[test]
fn workers_that_sum_their_own_first_give_the_gradients_of_one_device_but_for_rounding() {
    for (model, seed) in [(full(), None), (adapted(), Some(17))] {
        let alone = model.seeded_step(uneven(), seed);
        for count in [2, 3, 6] {
            let together = workers(count, false).step(&model, uneven(), seed).unwrap();
            assert_eq!(together.item.loss_sum.to_bits(), alone.item.loss_sum.to_bits());
            let (got, want) = (host(&model, &together.grads), host(&model, &alone.grads));
            assert_eq!(got.len(), want.len());
            let worst = got
                .iter()
                .zip(&want)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1e-6, "{count} workers: off by {worst:e}");
        }
    }
}

#[test]
fn a_replica_that_is_kept_is_renewed_in_every_step() {
    for (mut model, seed) in [(full(), None), (adapted(), Some(17))] {
        let mut replica = Replica {
            device: Device::flex().autodiff(),
            home: Device::flex(),
            is_at_home: false,
            kept: None,
        };
        let config = AdamWConfig {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.0,
        };
        let mut optimizer = AdamW::new(config);
        let mut earlier = Vec::new();
        for _ in 0..3 {
            let share = Share::whole(uneven(), seed, Unit::Tokens);
            let job = Job {
                model: model.clone(),
                share: share.clone(),
            };
            let there = host(&model, &replica.compute(job).unwrap().gradients);
            let here = model.gradients(&share).unwrap().gradients;
            assert_eq!(bits(&there), bits(&host(&model, &here)));
            assert!(there != earlier, "the step changed the weights");
            earlier = there;
            assert!(replica.kept.is_some());
            model = optimizer.step(model, here, 1e-2, 1.0);
        }
    }
}

#[test]
fn a_worker_that_fails_is_named_and_the_next_step_is_whole() {
    let model = TrainedModel::new(decoder(), Arc::new(FailsOnOne));
    let bad = || step(&[&[6], &[BAD_TOKENS], &[5], &[4]]);
    for in_order in [true, false] {
        let workers = workers(3, in_order);
        let failure = workers.step(&model, bad(), None).err().unwrap();
        let place = usize::from(in_order);
        assert_eq!(
            (failure.device, failure.reason),
            (format!("device {place}"), "out of memory".to_string())
        );
        // Answers of the failed step must not be taken for those of this one.
        let next = workers.step(&model, uneven(), None).unwrap();
        assert_eq!(
            next.item.loss_sum,
            model.seeded_step(uneven(), None).item.loss_sum
        );
    }
}
