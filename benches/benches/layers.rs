//! The operations of a training step that are as large as half a layer, each against its reference composition: SmolLM2-135M's
//! shapes, 1024 tokens in four sequences of different length.
//!
//! Reported as tokens a second; `fused` and `composed` do the same work.

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
fn race(group: &mut BenchmarkGroup<'_, WallTime>, variants: [Variant<'_>; 2], tokens: usize) {
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

fn mlp(criterion: &mut Criterion) {
    let inputs = MlpInputs {
        norm: norm(),
        gate: linear(HIDDEN, INTERMEDIATE),
        up: linear(HIDDEN, INTERMEDIATE),
        down: linear(INTERMEDIATE, HIDDEN),
    };
    let settings = MlpSettings {
        activation: Gate::Silu,
        residual: true,
        recompute: false,
        precision: Precision::F32,
    };
    let variants: [Variant<'_>; 2] = [
        ("fused", Box::new(|x| kernels::mlp(x, inputs.clone(), settings))),
        (
            "composed",
            Box::new(|x| reference::mlp(x, inputs.clone(), settings)),
        ),
    ];
    race(&mut criterion.benchmark_group("mlp"), variants, TOKENS);
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
    let settings = SelfAttentionSettings {
        attention: AttentionSettings {
            heads: HEADS,
            scale: (HEADS.head_dim as f64).powf(-0.5),
            window: None,
            softcap: None,
        },
        residual: true,
        recompute: false,
        precision: Precision::F32,
    };
    let fused = |x| kernels::self_attention(x, inputs.clone(), &sequences, settings);
    let composed = |x| reference::self_attention(x, inputs.clone(), &sequences, settings);
    let variants: [Variant<'_>; 2] = [("fused", Box::new(fused)), ("composed", Box::new(composed))];
    race(&mut criterion.benchmark_group("self_attention"), variants, TOKENS);
}

fn token_nll(criterion: &mut Criterion) {
    let weight = trained([VOCABULARY, HIDDEN]);
    let ids: Vec<u32> = (0..256).map(|index| index * 191 % VOCABULARY as u32).collect();
    let fused = |x| kernels::token_nll(x, weight.clone(), HeadLayout::ByToken, &ids).unsqueeze();
    let composed = |x| reference::token_nll(x, weight.clone(), HeadLayout::ByToken, &ids).unsqueeze();
    let variants: [Variant<'_>; 2] = [("fused", Box::new(fused)), ("composed", Box::new(composed))];
    race(&mut criterion.benchmark_group("token_nll"), variants, ids.len());
}

criterion_group!(benches, mlp, self_attention, token_nll);
criterion_main!(benches);
