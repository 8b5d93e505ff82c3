//! The operations behind caches equal their reference composition, and what comes out for a sequence does not depend on what
//! runs beside it, nor on how it is cut.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::{Arc, Mutex};

use aligner_model::kernels::{
    self, AttentionSettings, CacheMut, CachedAttentionInputs, CachedAttentionSettings, CachedSequence, Gate,
    Heads, Int8Weight, Linear, LinearWeight, LowRank, MlpInputs, MlpSettings, Norm, Pages, PanelWeight,
    Precision, reference,
};
use aligner_model::weights::HostTensor;
use aligner_model::{CachedRun, CausalDecoder, KvCache, KvFormat};
use burn::tensor::{Device, Distribution, Tensor};
use common::{VARIANTS, assert_close, golden, host, ids, of_fixed_rotation};
use proptest::prelude::*;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Relative to the largest value, as sums of many terms differ by their order.
fn assert_alike(fused: Tensor<2>, composed: Tensor<2>, what: &str) {
    assert_eq!(fused.dims(), composed.dims(), "{what}");
    let (fused, composed) = (host(fused), host(composed));
    let largest = composed
        .iter()
        .fold(0.5f32, |largest, value| largest.max(value.abs()));
    assert_close(&fused, &composed, 2e-5 * largest, what);
}

/// Which parts an operation has, and how its weights are held.
#[derive(Debug, Clone, Copy)]
struct Parts {
    norm: bool,
    bias: bool,
    lora: bool,
    residual: bool,
    gelu: bool,
    /// 0: as a tensor, 1: in panels, 2: in eight bits.
    held: usize,
}

fn parts() -> impl Strategy<Value = Parts> {
    (any::<[bool; 5]>(), 0usize..3).prop_map(|([norm, bias, lora, residual, gelu], held)| Parts {
        norm,
        bias,
        lora,
        residual,
        gelu,
        held,
    })
}

impl Parts {
    fn norm(self, width: usize) -> Option<Norm> {
        self.norm.then(|| some_norm(width))
    }

    /// Scaled so that what it gives stays of the size of what goes in.
    fn linear(self, input: usize, output: usize) -> Linear {
        let scale = 1.0 / (input as f64).sqrt();
        let weight = random([input, output]) * scale;
        Linear {
            weight: match self.held {
                0 => LinearWeight::Dense(weight),
                1 => LinearWeight::Panels(PanelWeight::of(&weight).unwrap()),
                _ => LinearWeight::Int8(
                    Int8Weight::quantize(&HostTensor {
                        shape: vec![output, input],
                        values: host(weight.transpose()),
                    })
                    .unwrap(),
                ),
            },
            bias: self.bias.then(|| random([output]) * 0.25),
            lora: self.lora.then(|| LowRank {
                a: random([input, 3]) * scale,
                b: random([3, output]) * 0.3,
                scale: 0.7,
            }),
        }
    }
}

fn some_norm(width: usize) -> Norm {
    Norm {
        weight: random([width]) * 0.5 + 1.0,
        epsilon: 1e-5,
    }
}

/// Caches of both kinds for one sequence.
struct Caches {
    pages: Arc<Mutex<Pages>>,
    keys: Tensor<4>,
    values: Tensor<4>,
}

impl Caches {
    fn new(heads: Heads, capacity: usize) -> Self {
        let shape = [1, heads.kv_heads, capacity, heads.head_dim];
        let zeros = || Tensor::zeros(shape, &Device::flex());
        Self {
            pages: Arc::new(Mutex::new(Pages::new(heads, KvFormat::F32))),
            keys: zeros(),
            values: zeros(),
        }
    }

    fn both(&mut self, start: usize, tokens: usize) -> [CachedSequence<'_>; 2] {
        let Self { pages, keys, values } = self;
        [CacheMut::Pages(pages), CacheMut::Tensors { keys, values }].map(|cache| CachedSequence {
            tokens,
            start,
            cache,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn cached_attention(
        steps in prop::collection::vec(prop::collection::vec(1usize..70, 1..4), 1..4),
        hidden in 4usize..70, kv_heads in 1usize..4, group in 1usize..4, half in 1usize..40, unrotated in 0usize..4,
        window in prop::option::of(1usize..50), softcap in prop::bool::ANY, norms in 0usize..3, parts in parts(),
    ) {
        let head_dim = 2 * (half + unrotated);
        let heads = Heads { heads: kv_heads * group, kv_heads, head_dim };
        let attention = AttentionSettings { heads, scale: 0.3, window, softcap: softcap.then_some(3.0) };
        let settings = CachedAttentionSettings { attention, residual: parts.residual };
        let (queries, keys) = (heads.heads * head_dim, kv_heads * head_dim);
        let (query, key, value, output) = (parts.linear(hidden, queries), parts.linear(hidden, keys),
            parts.linear(hidden, keys), parts.linear(queries, hidden));
        let norm = parts.norm(hidden);
        let [query_norm, key_norm] = [queries, keys].map(|whole| match norms {
            0 => None,
            1 => Some(some_norm(head_dim)),
            _ => Some(some_norm(whole)),
        });
        let sequences = steps.iter().map(Vec::len).max().unwrap();
        let mut caches: Vec<Caches> = (0..sequences).map(|_| Caches::new(heads, 4 * 70)).collect();
        let mut held = vec![0; sequences];
        // Each step gives some of the sequences more tokens.
        for step in &steps {
            let rows: usize = step.iter().sum();
            let (x, angle) = (random([rows, hidden]), random([rows, half]));
            let inputs = CachedAttentionInputs { norm: norm.clone(), query: query.clone(), key: key.clone(),
                value: value.clone(), output: output.clone(), query_norm: query_norm.clone(),
                key_norm: key_norm.clone(), rotation: (angle.clone().cos(), angle.sin()) };
            let (mut of_pages, mut of_tensors) = (Vec::new(), Vec::new());
            for ((caches, start), &tokens) in caches.iter_mut().zip(&held).zip(step) {
                let [pages, tensors] = caches.both(*start, tokens);
                of_pages.push(pages);
                of_tensors.push(tensors);
            }
            let fused = kernels::cached_attention(x.clone(), inputs.clone(), of_pages, settings);
            let composed = reference::cached_attention(x, inputs, of_tensors, settings);
            assert_alike(fused, composed, "output");
            held.iter_mut().zip(step).for_each(|(held, tokens)| *held += tokens);
        }
    }

    #[test]
    fn inference_mlp(rows in 1usize..120, hidden in 1usize..70, inner in 1usize..90, parts in parts()) {
        let inputs = MlpInputs { norm: parts.norm(hidden), gate: parts.linear(hidden, inner),
            up: parts.linear(hidden, inner), down: parts.linear(inner, hidden) };
        let x = random([rows, hidden]);
        let activation = if parts.gelu { Gate::GeluTanh } else { Gate::Silu };
        let settings = MlpSettings { activation, residual: parts.residual, recompute: false, precision: Precision::F32 };
        let composed = reference::mlp(x.clone(), inputs.clone(), settings);
        let before = x.clone();
        assert_alike(kernels::inference_mlp(x.clone(), inputs, activation, parts.residual), composed, "output");
        prop_assert_eq!(host(x), host(before), "the input that somebody else holds");
    }

    #[test]
    fn linear(rows in 1usize..120, input in 1usize..300, output in 1usize..600, parts in parts()) {
        let (x, layer) = (random([rows, input]), parts.linear(input, output));
        assert_alike(kernels::linear(x.clone(), layer.clone()), layer.forward(x.clone()), "output");
        let stored = random([output, input]);
        assert_alike(kernels::linear_transposed(x.clone(), stored.clone()), x.matmul(stored.transpose()), "transposed");
    }
}

/// One step: for each sequence its tokens, and how many of them are kept.
type Steps<'a> = &'a [&'a [(usize, &'a [u32], usize)]];

/// Runs steps over caches of one sequence each; returns the hidden states that were kept of each sequence.
fn run(decoder: &CausalDecoder, caches: &mut [KvCache], steps: Steps<'_>) -> Vec<Vec<f32>> {
    let mut kept = vec![Vec::new(); caches.len()];
    for step in steps {
        let mut chosen: Vec<(usize, &mut KvCache)> = caches.iter_mut().enumerate().collect();
        chosen.retain(|(index, _)| step.iter().any(|(wanted, ..)| wanted == index));
        let mut runs: Vec<CachedRun<'_>> = (chosen.into_iter().zip(*step))
            .map(|((_, cache), &(_, ids, keep))| CachedRun { ids, cache, keep })
            .collect();
        let hidden = host(decoder.forward_cached(&mut runs));
        let width = hidden.len() / step.iter().map(|(_, _, keep)| keep).sum::<usize>();
        let mut rest = hidden.as_slice();
        for &(index, _, keep) in *step {
            let (part, behind) = rest.split_at(keep * width);
            kept[index].extend_from_slice(part);
            rest = behind;
        }
    }
    kept
}

fn assert_same_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let same = got.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "{what}: bits differ");
}

#[test]
fn batched_in_pieces_and_after_a_draft_are_the_bits_of_one_by_one() {
    let device = Device::flex();
    for variant in of_fixed_rotation() {
        let (model, golden) = golden(variant, &device);
        let halves = model.decoder.clone().with_kv_format(KvFormat::F16);
        for decoder in [model.decoder.clone(), model.decoder.into_panels(), halves] {
            let (a, b): (&[u32], &[u32]) = (&golden.first, &golden.second);
            let new = || decoder.new_cache(1, 128);
            let alone = |ids: &[u32]| run(&decoder, &mut [new()], &[&[(0, ids, ids.len())]]).remove(0);
            let (whole_a, whole_b) = (alone(a), alone(b));

            let together = run(
                &decoder,
                &mut [new(), new()],
                &[&[(0, a, a.len()), (1, b, b.len())]],
            );
            assert_same_bits(&together[0], &whole_a, &format!("{variant}: first of a batch"));
            assert_same_bits(&together[1], &whole_b, &format!("{variant}: second of a batch"));

            let (a1, a2) = a.split_at(3);
            let (b1, b2) = b.split_at(17);
            let steps: Steps<'_> = &[
                &[(1, &b1[..1], 1)],
                &[(0, a1, 3), (1, &b1[1..], 16)],
                &[(0, &a2[..1], 1)],
                &[(0, &a2[1..], a2.len() - 1), (1, b2, b2.len())],
            ];
            let pieces = run(&decoder, &mut [new(), new()], steps);
            assert_same_bits(&pieces[0], &whole_a, &format!("{variant}: first in pieces"));
            assert_same_bits(&pieces[1], &whole_b, &format!("{variant}: second in pieces"));

            // A draft of other tokens, which is taken back.
            let mut cache = [new()];
            run(&decoder, &mut cache, &[&[(0, b1, b1.len())], &[(0, a, 2)]]);
            cache[0].truncate(b1.len());
            let rest = run(&decoder, &mut cache, &[&[(0, b2, b2.len())]]).remove(0);
            let width = whole_b.len() / b.len();
            assert_same_bits(
                &rest,
                &whole_b[b1.len() * width..],
                &format!("{variant}: after a draft"),
            );
        }
    }
}

#[test]
fn the_last_kept_rows_are_those_of_all() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (model, golden) = golden(variant, &device);
        let decoder = model.decoder;
        let (a, b): (&[u32], &[u32]) = (&golden.first, &golden.second);
        let caches = || [decoder.new_cache(1, 64), decoder.new_cache(1, 64)];
        let all = run(&decoder, &mut caches(), &[&[(0, a, a.len()), (1, b, b.len())]]);
        let some = run(&decoder, &mut caches(), &[&[(0, a, 0), (1, b, 2)]]);
        assert!(some[0].is_empty());
        assert_same_bits(&some[1], &all[1][all[1].len() - some[1].len()..], variant);
    }
}

/// The first parts of a long prompt only fill the cache.
#[test]
fn nothing_kept_is_no_rows_and_fills_the_cache() {
    let device = Device::flex();
    for variant in of_fixed_rotation() {
        let (model, golden) = golden(variant, &device);
        let decoder = model.decoder.into_panels();
        let (first, rest) = golden.second.split_at(9);
        let mut cache = decoder.new_cache(1, 64);
        let hidden = decoder.forward_cached(&mut [CachedRun {
            ids: first,
            cache: &mut cache,
            keep: 0,
        }]);
        assert_eq!((hidden.dims()[0], cache.len()), (0, first.len()));
        let behind = run(&decoder, &mut [cache], &[&[(0, rest, rest.len())]]).remove(0);
        let mut fresh = [decoder.new_cache(1, 64)];
        let whole = run(&decoder, &mut fresh, &[&[(0, &golden.second, rest.len())]]).remove(0);
        assert_same_bits(&behind, &whole, variant);
    }
}

/// A half has eleven bits: 2⁻¹² of itself is the most that a key or value is off by.
#[test]
fn keys_and_values_in_halves_take_half_the_memory_and_move_logits_by_little() {
    let device = Device::flex();
    for variant in of_fixed_rotation() {
        let (model, golden) = golden(variant, &device);
        let exact = model.decoder;
        let halves = exact.clone().with_kv_format(KvFormat::F16);
        assert_eq!(
            (exact.kv_format(), halves.kv_format()),
            (KvFormat::F32, KvFormat::F16)
        );
        assert_eq!(2 * halves.cache_bytes(100), exact.cache_bytes(100), "{variant}");
        let logits = |decoder: &CausalDecoder| {
            let mut cache = [decoder.new_cache(1, 64)];
            let ids: &[u32] = &golden.second;
            let logits = run(decoder, &mut cache, &[&[(0, ids, ids.len())]]).remove(0);
            assert!(cache[0].bytes() <= decoder.cache_bytes(64));
            logits
        };
        let (exact, halves) = (logits(&exact), logits(&halves));
        let largest = exact.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let off = exact.iter().zip(&halves).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0f32, f32::max) / largest;
        assert!(off > 0.0 && off < 2e-3, "{variant}: off by {off} of the largest");
    }
}

#[test]
fn panels_compute_what_tensors_do() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (model, golden) = golden(variant, &device);
        let input = ids(&[&golden.second], &device);
        let logits = |decoder: &CausalDecoder| {
            let mut cache = decoder.new_cache(1, 64);
            host(decoder.logits(decoder.forward(input.clone(), Some(&mut cache))))
        };
        let dense = logits(&model.decoder);
        assert_same_bits(&logits(&model.decoder.into_panels()), &dense, variant);
    }
}

#[test]
fn a_forked_cache_goes_its_own_way() {
    let device = Device::flex();
    let (model, golden) = golden("tied", &device);
    let decoder = model.decoder;
    let (common, rest) = golden.second.split_at(20);
    let fresh = |rest: &[u32]| {
        let whole = [common, rest].concat();
        run(
            &decoder,
            &mut [decoder.new_cache(1, 128)],
            &[&[(0, &whole, rest.len())]],
        )
        .remove(0)
    };
    let other: Vec<u32> = rest.iter().map(|id| (id + 1) % 64).collect();
    let mut original = decoder.new_cache(1, 64);
    run(
        &decoder,
        std::slice::from_mut(&mut original),
        &[&[(0, common, 1)]],
    );
    let fork = original.fork(common.len(), 128).unwrap();
    assert_eq!((fork.len(), fork.capacity()), (common.len(), 128));
    let mut both = [original, fork];
    let steps: Steps<'_> = &[&[(0, rest, rest.len()), (1, &other, other.len())]];
    let kept = run(&decoder, &mut both, steps);
    assert_same_bits(&kept[0], &fresh(rest), "the original");
    assert_same_bits(&kept[1], &fresh(&other), "the fork");
}

#[test]
fn memory_comes_with_tokens_and_stays_within_what_is_said() {
    let device = Device::flex();
    let (model, golden) = golden("tied", &device);
    let decoder = model.decoder;
    let mut cache = decoder.new_cache(1, 100_000);
    assert_eq!(cache.bytes(), 0);
    run(
        &decoder,
        std::slice::from_mut(&mut cache),
        &[&[(0, &golden.second, 1)]],
    );
    assert_eq!(cache.bytes(), decoder.cache_bytes(golden.second.len()));
    let held = cache.bytes();
    cache.truncate(3);
    assert_eq!((cache.len(), cache.bytes()), (3, held));
}

#[test]
#[should_panic(expected = "holds 4 tokens")]
fn more_tokens_than_fit_are_an_error_of_the_caller() {
    let device = Device::flex();
    let (model, golden) = golden("tied", &device);
    let mut cache = model.decoder.new_cache(1, 4);
    model.decoder.forward_cached(&mut [CachedRun {
        ids: &golden.first,
        cache: &mut cache,
        keep: 1,
    }]);
}
