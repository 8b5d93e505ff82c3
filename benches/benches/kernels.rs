//! Each fused CPU operation against its reference composition, on SmolLM2-135M's shapes at 512 tokens.
//!
//! Reported as bytes a second of the tensors that must be read and written once; `fused` and `composed` do the same work.

use aligner_bench::{HIDDEN, INTERMEDIATE, VOCABULARY};
use aligner_model::kernels::{
    self, AdamWStep, AttentionSettings, Heads, Linear, LinearWeight, PanelWeight, Sequences, reference,
};
use burn::tensor::{Device, Distribution, Tensor};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};

const TOKENS: usize = 512;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Forward alone, and forward with backward.
fn race<const A: usize, const B: usize>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    (a, b): (Tensor<A>, Tensor<B>),
    (fused, composed): (
        impl Fn(Tensor<A>, Tensor<B>) -> Tensor<A>,
        impl Fn(Tensor<A>, Tensor<B>) -> Tensor<A>,
    ),
) {
    let bytes =
        |tensors: u64| Throughput::Bytes(tensors * (a.shape().num_elements() * size_of::<f32>()) as u64);
    group.throughput(bytes(2));
    group.bench_function("forward/fused", |bencher| {
        bencher.iter(|| fused(a.clone(), b.clone()))
    });
    group.bench_function("forward/composed", |bencher| {
        bencher.iter(|| composed(a.clone(), b.clone()))
    });
    let (a, b) = (a.autodiff().require_grad(), b.autodiff().require_grad());
    group.bench_function("forward+backward/fused", |bencher| {
        bencher.iter(|| fused(a.clone(), b.clone()).sum().backward());
    });
    group.bench_function("forward+backward/composed", |bencher| {
        bencher.iter(|| composed(a.clone(), b.clone()).sum().backward());
    });
}

fn rms_norm(criterion: &mut Criterion) {
    let inputs = (random([1, TOKENS, HIDDEN]), random([HIDDEN]));
    let fused = |x, weight| kernels::rms_norm(x, weight, 1e-5);
    let composed = |x, weight| reference::rms_norm(x, weight, 1e-5);
    race(
        &mut criterion.benchmark_group("rms_norm"),
        inputs,
        (fused, composed),
    );
}

/// A decode step's products; bytes are those of the weight.
fn linear_of_one_row(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("linear_of_one_row");
    for (name, input, output) in [
        ("query", HIDDEN, HIDDEN),
        ("gate", HIDDEN, INTERMEDIATE),
        ("down", INTERMEDIATE, HIDDEN),
        ("head", HIDDEN, VOCABULARY),
    ] {
        let (x, weight) = (random([1, input]), random([input, output]));
        group.throughput(Throughput::Bytes((input * output * size_of::<f32>()) as u64));
        let layer = |weight: LinearWeight| Linear {
            weight,
            bias: None,
            lora: None,
        };
        group.bench_function(format!("{name}/fused"), |bencher| {
            bencher.iter(|| kernels::linear(x.clone(), layer(weight.clone().into())));
        });
        let panels = PanelWeight::of(&weight).map(LinearWeight::Panels);
        if let Some(panels) = panels {
            group.bench_function(format!("{name}/fused, in panels"), |bencher| {
                bencher.iter(|| kernels::linear(x.clone(), layer(panels.clone())));
            });
        }
        group.bench_function(format!("{name}/composed"), |bencher| {
            bencher.iter(|| x.clone().matmul(weight.clone()));
        });
        if name != "head" {
            continue;
        }
        let embedding: Tensor<2> = random([output, input]);
        group.bench_function("tied head/fused", |bencher| {
            bencher.iter(|| kernels::linear_transposed(x.clone(), embedding.clone()));
        });
        group.bench_function("tied head/composed", |bencher| {
            bencher.iter(|| x.clone().matmul(embedding.clone().transpose()));
        });
    }
}

fn causal_attention(criterion: &mut Criterion) {
    let heads = Heads {
        heads: 9,
        kv_heads: 3,
        head_dim: HIDDEN / 9,
    };
    let settings = AttentionSettings {
        heads,
        scale: (heads.head_dim as f64).powf(-0.5),
        window: None,
        softcap: None,
    };
    let key_width = heads.kv_heads * heads.head_dim;
    let [query, key, value] = [HIDDEN, key_width, key_width].map(|width| random([TOKENS, width]));
    let angles = random([TOKENS, heads.head_dim / 2]);
    let sequences = Sequences::new([TOKENS]);
    type Attention = fn(
        Tensor<2>,
        Tensor<2>,
        Tensor<2>,
        (Tensor<2>, Tensor<2>),
        &Sequences,
        AttentionSettings,
    ) -> Tensor<2>;
    let mut group = criterion.benchmark_group("causal_attention");
    // Queries are read and the output written; keys and values are a third of them each.
    group.throughput(Throughput::Bytes(
        (2 * TOKENS * (HIDDEN + key_width) * size_of::<f32>()) as u64,
    ));
    for (name, run) in [
        ("fused", kernels::causal_attention as Attention),
        ("composed", reference::causal_attention as Attention),
    ] {
        let apply = |[query, key, value]: [Tensor<2>; 3], angles: Tensor<2>| {
            run(
                query,
                key,
                value,
                (angles.clone().cos(), angles.sin()),
                &sequences,
                settings,
            )
        };
        let inputs = [&query, &key, &value].map(Clone::clone);
        group.bench_function(format!("forward/{name}"), |bencher| {
            bencher.iter(|| apply(inputs.clone(), angles.clone()));
        });
        let tracked = inputs.map(|x| x.autodiff().require_grad());
        let angles = angles.clone().autodiff();
        group.bench_function(format!("forward+backward/{name}"), |bencher| {
            bencher.iter(|| apply(tracked.clone(), angles.clone()).sum().backward());
        });
    }
}

fn swiglu(criterion: &mut Criterion) {
    let inputs = (
        random([1, TOKENS, INTERMEDIATE]),
        random([1, TOKENS, INTERMEDIATE]),
    );
    race(
        &mut criterion.benchmark_group("swiglu"),
        inputs,
        (kernels::swiglu, reference::swiglu),
    );
}

fn adamw(criterion: &mut Criterion) {
    let elements = HIDDEN * INTERMEDIATE;
    let step = AdamWStep {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_scale: 1.0,
        step: 10,
    };
    let gradient = random([elements]);
    let mut group = criterion.benchmark_group("adamw");
    // Four tensors are read and three written.
    group.throughput(Throughput::Bytes(7 * (elements * size_of::<f32>()) as u64));
    type Step = fn(Tensor<1>, Tensor<1>, Tensor<1>, Tensor<1>, AdamWStep) -> [Tensor<1>; 3];
    for (name, run) in [
        ("fused", kernels::adamw as Step),
        ("composed", reference::adamw as Step),
    ] {
        let mut state = vec![[
            random([elements]),
            random([elements]),
            random([elements]).square(),
        ]];
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let Some([parameter, m, v]) = state.pop() else {
                    return;
                };
                state.push(run(parameter, gradient.clone(), m, v, step));
            });
        });
    }
}

criterion_group!(
    benches,
    linear_of_one_row,
    rms_norm,
    causal_attention,
    swiglu,
    adamw
);
criterion_main!(benches);
