//! Inference on SmolLM2-135M's shape: halves of a layer in f32 beside their reference compositions; with weights in each format
//! decode steps behind contexts of several lengths and for several sequences at once, and prefill.
//!
//! Reported as tokens a second. Everything runs through the cache, as the engine does.

use std::cell::LazyCell;
use std::sync::{Arc, Mutex};

use aligner_bench::{HIDDEN, INTERMEDIATE, model, smollm2_135m, tokens};
use aligner_model::kernels::{
    self, AttentionSettings, CacheMut, CachedAttentionInputs, CachedAttentionSettings, CachedSequence, Gate,
    Heads, Linear, LinearWeight, MlpInputs, MlpSettings, Norm, Pages, PanelWeight, reference,
};
use aligner_model::{
    CachedRun, CausalDecoder, KvCache, KvFormat, RuntimeWeights, WeightsCache, load_dir_quantized, save_dir,
};
use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const HEADS: Heads = Heads {
    heads: 9,
    kv_heads: 3,
    head_dim: 64,
};
/// How weights may be held.
const FORMATS: [RuntimeWeights; 4] = [
    RuntimeWeights::F32,
    RuntimeWeights::Bf16,
    RuntimeWeights::Q8,
    RuntimeWeights::Q4,
];
/// Tokens in the cache of the halves of a layer.
const CONTEXT: usize = 256;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 0.05), &Device::flex())
}

fn read<const D: usize>(tensor: Tensor<D>) -> f32 {
    // Reading one value waits for the device.
    tensor.sum().into_scalar::<f32>()
}

/// A layer without bias, in the order in which inference reads it, and as a tensor.
fn linear(input: usize, output: usize) -> [Linear; 2] {
    let weight: Tensor<2> = random([input, output]);
    let panels = PanelWeight::of(&weight).map(LinearWeight::Panels);
    let dense = LinearWeight::Dense(weight);
    [panels.unwrap_or_else(|| dense.clone()), dense].map(|weight| Linear {
        weight,
        bias: None,
        lora: None,
    })
}

fn norm() -> Option<Norm> {
    Some(Norm {
        weight: random([HIDDEN]),
        epsilon: 1e-5,
    })
}

fn attention_half(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention_half");
    let width = HEADS.heads * HEADS.head_dim;
    let key_width = HEADS.kv_heads * HEADS.head_dim;
    let layers = [
        (HIDDEN, width),
        (HIDDEN, key_width),
        (HIDDEN, key_width),
        (width, HIDDEN),
    ];
    let layers = layers.map(|(input, output)| linear(input, output));
    let norm = norm();
    let settings = CachedAttentionSettings {
        attention: AttentionSettings {
            heads: HEADS,
            scale: 0.125,
            window: None,
            softcap: None,
        },
        residual: true,
    };
    for rows in [1usize, 12, 128] {
        group.throughput(Throughput::Elements(rows as u64));
        let (x, angle): (Tensor<2>, Tensor<2>) = (random([rows, HIDDEN]), random([rows, HEADS.head_dim / 2]));
        let inputs = |kind: usize| {
            let [query, key, value, output] = layers.each_ref().map(|layer| layer[kind].clone());
            CachedAttentionInputs {
                norm: norm.clone(),
                query,
                key,
                value,
                output,
                query_norm: None,
                key_norm: None,
                rotation: (angle.clone().cos(), angle.clone().sin()),
            }
        };
        fn sequence(rows: usize, cache: CacheMut<'_>) -> Vec<CachedSequence<'_>> {
            vec![CachedSequence {
                tokens: rows,
                start: CONTEXT,
                cache,
            }]
        }
        for (name, format) in [("fused", KvFormat::F32), ("fused, f16", KvFormat::F16)] {
            let pages = Arc::new(Mutex::new(Pages::new(HEADS, format)));
            group.bench_function(BenchmarkId::new(name, rows), |bencher| {
                bencher.iter(|| {
                    let sequences = sequence(rows, CacheMut::Pages(&pages));
                    read(kernels::cached_attention(
                        x.clone(),
                        inputs(0),
                        sequences,
                        settings,
                    ))
                });
            });
        }
        let shape = [1, HEADS.kv_heads, CONTEXT + rows, HEADS.head_dim];
        let (mut keys, mut values): (Tensor<4>, Tensor<4>) = (random(shape), random(shape));
        group.bench_function(BenchmarkId::new("composed", rows), |bencher| {
            bencher.iter(|| {
                let (keys, values) = (&mut keys, &mut values);
                let sequences = sequence(rows, CacheMut::Tensors { keys, values });
                read(reference::cached_attention(
                    x.clone(),
                    inputs(1),
                    sequences,
                    settings,
                ))
            });
        });
    }
}

fn mlp_half(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mlp_half");
    let layers = [
        (HIDDEN, INTERMEDIATE),
        (HIDDEN, INTERMEDIATE),
        (INTERMEDIATE, HIDDEN),
    ];
    let layers = layers.map(|(input, output)| linear(input, output));
    let norm = norm();
    let settings = MlpSettings {
        activation: Gate::Silu,
        residual: true,
        recompute: false,
        precision: kernels::Precision::F32,
    };
    for rows in [1usize, 12, 128] {
        group.throughput(Throughput::Elements(rows as u64));
        let x: Tensor<2> = random([rows, HIDDEN]);
        let inputs = |kind: usize| {
            let [gate, up, down] = layers.each_ref().map(|layer| layer[kind].clone());
            MlpInputs {
                norm: norm.clone(),
                gate,
                up,
                down,
            }
        };
        group.bench_function(BenchmarkId::new("fused", rows), |bencher| {
            bencher.iter(|| read(kernels::inference_mlp(x.clone(), inputs(0), Gate::Silu, true)));
        });
        group.bench_function(BenchmarkId::new("composed", rows), |bencher| {
            bencher.iter(|| read(reference::mlp(x.clone(), inputs(1), settings)));
        });
    }
}

/// The model with its weights in a format, mapped from a file as programs have them.
#[allow(clippy::expect_used)] // files of this bench alone
fn held_in(format: RuntimeWeights) -> CausalDecoder {
    let device = Device::flex();
    let dir = tempfile::tempdir().expect("a directory for the model");
    save_dir(&smollm2_135m(), &model(&device), dir.path()).expect("there is room for the model");
    let cache = WeightsCache::In(dir.path().to_path_buf());
    let load =
        || load_dir_quantized(dir.path(), format, &cache, &device).expect("the model was just written");
    // The first start writes the file.
    drop(load());
    let decoder = load().decoder;
    // Keys and values as programs have them beside such weights.
    match format {
        RuntimeWeights::F32 => decoder,
        _ => decoder.with_kv_format(KvFormat::F16),
    }
}

/// One pass; scores of the last token of each run.
fn pass(model: &CausalDecoder, ids: &[u32], caches: &mut [KvCache]) -> f32 {
    let mut runs: Vec<CachedRun<'_>> = caches
        .iter_mut()
        .map(|cache| CachedRun { ids, cache, keep: 1 })
        .collect();
    read(model.logits_of_rows(model.forward_cached(&mut runs)))
}

fn decode(criterion: &mut Criterion) {
    for format in FORMATS {
        decode_in(format, criterion);
    }
}

fn decode_in(format: RuntimeWeights, criterion: &mut Criterion) {
    let model = LazyCell::new(|| held_in(format));
    let mut group = criterion.benchmark_group(format!("decode_step_{format}"));
    group.sample_size(20);
    for (context, sequences) in [(32usize, 1usize), (256, 1), (1024, 1), (256, 8), (256, 32)] {
        group.throughput(Throughput::Elements(sequences as u64));
        // Each has a context of its own: copies would share their pages, and the processor's caches would hold them.
        let of_its_own = |_| {
            let mut cache = [model.new_cache(1, context + 1)];
            pass(&model, &tokens(context), &mut cache);
            let [cache] = cache;
            cache
        };
        let mut caches = LazyCell::new(|| -> Vec<KvCache> { (0..sequences).map(of_its_own).collect() });
        let id = BenchmarkId::new(format!("{sequences} sequences, context"), context);
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                caches.iter_mut().for_each(|cache| cache.truncate(context));
                pass(&model, &[13], &mut caches)
            });
        });
    }
}

fn prefill(criterion: &mut Criterion) {
    for format in FORMATS {
        prefill_in(format, criterion);
    }
}

fn prefill_in(format: RuntimeWeights, criterion: &mut Criterion) {
    let model = LazyCell::new(|| held_in(format));
    let mut group = criterion.benchmark_group(format!("prefill_{format}"));
    group.sample_size(10);
    for length in [16usize, 128, 512] {
        group.throughput(Throughput::Elements(length as u64));
        let prompt = tokens(length);
        group.bench_function(BenchmarkId::new("tokens", length), |bencher| {
            bencher.iter(|| pass(&model, &prompt, &mut [model.new_cache(1, length)]));
        });
    }
}

criterion_group!(benches, attention_half, mlp_half, decode, prefill);
criterion_main!(benches);
