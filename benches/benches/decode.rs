//! Inference on SmolLM2-135M's shape in f32: a decode step behind contexts of several lengths, and prefill.
//!
//! Reported as tokens a second. Both run through the cache, as the engine does.

use aligner_bench::{ids, model};
use burn::tensor::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn read(tensor: Tensor<3>) -> f32 {
    // Reading one value waits for the device.
    tensor.sum().into_scalar::<f32>()
}

fn decode(criterion: &mut Criterion) {
    let device = Device::flex();
    let model = model(&device);
    let mut group = criterion.benchmark_group("decode_step");
    group.sample_size(20).throughput(Throughput::Elements(1));
    for context in [32, 256, 1024] {
        let mut cache = model.new_cache(1, context + 1);
        model.forward(ids(context, &device), Some(&mut cache));
        let next = ids(1, &device);
        group.bench_function(BenchmarkId::new("context", context), |bencher| {
            bencher.iter(|| {
                cache.truncate(context);
                read(model.logits(model.forward(next.clone(), Some(&mut cache))))
            });
        });
    }
}

fn prefill(criterion: &mut Criterion) {
    let device = Device::flex();
    let model = model(&device);
    let mut group = criterion.benchmark_group("prefill");
    group.sample_size(10);
    for length in [128, 512] {
        group.throughput(Throughput::Elements(length as u64));
        let prompt = ids(length, &device);
        group.bench_function(BenchmarkId::new("tokens", length), |bencher| {
            bencher.iter(|| {
                let mut cache = model.new_cache(1, length);
                let hidden = model.forward(prompt.clone(), Some(&mut cache));
                read(model.logits(hidden.narrow(1, length - 1, 1)))
            });
        });
    }
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
