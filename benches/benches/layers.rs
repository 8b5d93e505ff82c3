//! The operations of a training step that are as large as half a layer, each against its reference composition: SmolLM2-135M's
//! shapes, 1024 tokens in four sequences of different length.
//!
//! Reported as tokens a second; `fused` and `composed` do the same work, `fused bf16` does it with factors rounded to bf16.

use aligner_bench::{HIDDEN, INTERMEDIATE, VOCABULARY};
use aligner_model::kernels::{
    self, AttentionSettings, Gate, HeadLayout, Heads, Linear, MlpInputs, MlpSettings, Norm, Precision,
    SelfAttentionInputs, SelfAttentionSettings, Sequences, reference,
};
use burn::tensor::{Device, Distribution, Tensor};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

const LENGTHS: [usize; 4] = [100, 412, 200, 312];
const TOKENS: usize = 1024;
const HEADS: Heads = Heads {
    heads: 9,
    kv_heads: 3,
    head_dim: HIDDEN / 9,
};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 0.05), &Device::flex())
}

fn trained<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    random(shape).autodiff().require_grad()
}

fn linear(input: usize, output: usize) -> Linear {
    Linear {
        weight: trained([input, output]).into(),
        bias: None,
        lora: None,
    }
}

fn norm() -> Option<Norm> {
    Some(Norm {
        weight: trained([HIDDEN]),
        epsilon: 1e-5,
    })
}

/// An operation and what it is called.
type Variant<'a> = (&'static str, Box<dyn Fn(Tensor<2>) -> Tensor<2> + 'a>);

/// Forward and backward.
fn race(group: &mut BenchmarkGroup<'_, WallTime>, variants: Vec<Variant<'_>>, tokens: usize) {
    group
        .sample_size(20)
        .throughput(Throughput::Elements(tokens as u64));
    let x = trained([tokens, HIDDEN]);
    for (name, run) in variants {
        group.bench_function(name, |bencher| {
            bencher.iter(|| run(x.clone()).sum().backward());
        });
    }
}

/// What runs as one operation, in either precision.
const FUSED: [(&str, Precision); 2] = [("fused", Precision::F32), ("fused bf16", Precision::Bf16)];

/// The operation in either precision, and composed.
fn variants<'a>(
    fused: impl Fn(Tensor<2>, Precision) -> Tensor<2> + Copy + 'a,
    composed: impl Fn(Tensor<2>) -> Tensor<2> + 'a,
) -> Vec<Variant<'a>> {
    let of = |(name, precision)| -> Variant<'a> { (name, Box::new(move |x| fused(x, precision))) };
    let composed: Variant<'a> = ("composed", Box::new(composed));
    FUSED.into_iter().map(of).chain([composed]).collect()
}

fn mlp(criterion: &mut Criterion) {
    let inputs = MlpInputs {
        norm: norm(),
        gate: linear(HIDDEN, INTERMEDIATE),
        up: linear(HIDDEN, INTERMEDIATE),
        down: linear(INTERMEDIATE, HIDDEN),
    };
    let settings = |precision| MlpSettings {
        activation: Gate::Silu,
        residual: true,
        recompute: false,
        precision,
    };
    let fused = |x, precision| kernels::mlp(x, inputs.clone(), settings(precision));
    let composed = |x| reference::mlp(x, inputs.clone(), settings(Precision::F32));
    race(
        &mut criterion.benchmark_group("mlp"),
        variants(fused, composed),
        TOKENS,
    );
}

fn self_attention(criterion: &mut Criterion) {
    let sequences = Sequences::new(LENGTHS);
    let keys = HEADS.kv_heads * HEADS.head_dim;
    let angles = random([sequences.longest(), HEADS.head_dim / 2]).autodiff();
    let inputs = SelfAttentionInputs {
        norm: norm(),
        query: linear(HIDDEN, HIDDEN),
        key: linear(HIDDEN, keys),
        value: linear(HIDDEN, keys),
        output: linear(HIDDEN, HIDDEN),
        rotation: (angles.clone().cos(), angles.sin()),
    };
    let settings = |precision| SelfAttentionSettings {
        attention: AttentionSettings {
            heads: HEADS,
            scale: (HEADS.head_dim as f64).powf(-0.5),
            window: None,
            softcap: None,
        },
        residual: true,
        recompute: false,
        precision,
    };
    let fused = |x, precision| kernels::self_attention(x, inputs.clone(), &sequences, settings(precision));
    let composed = |x| reference::self_attention(x, inputs.clone(), &sequences, settings(Precision::F32));
    race(
        &mut criterion.benchmark_group("self_attention"),
        variants(fused, composed),
        TOKENS,
    );
}

fn token_nll(criterion: &mut Criterion) {
    let weight = trained([VOCABULARY, HIDDEN]);
    let ids: Vec<u32> = (0..256).map(|index| index * 191 % VOCABULARY as u32).collect();
    let layout = HeadLayout::ByToken;
    let fused = |x, precision| kernels::token_nll(x, weight.clone(), layout, &ids, precision).unsqueeze();
    let composed = |x| reference::token_nll(x, weight.clone(), layout, &ids).unsqueeze();
    race(
        &mut criterion.benchmark_group("token_nll"),
        variants(fused, composed),
        ids.len(),
    );
}

criterion_group!(benches, mlp, self_attention, token_nll);
criterion_main!(benches);
