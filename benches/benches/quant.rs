//! Products with quantised weights on the shapes of models of 135M, 1B and 7B parameters, each against its reference composition
//! (the f32 weight made anew, and Burn's product): `cargo bench -p aligner-bench --bench quant`.
//!
//! One row, as in decoding, is reported in bytes of weights a second: copies of a weight take turns, so that it comes from
//! memory and not from a cache. `read` is the same memory read by all threads and nothing else, the roof of the others. 64 rows
//! are reported in operations a second, two for each weight and row.

use aligner_model::kernels::{quantized_linear, reference};
use aligner_model::weights::HostTensor;
use aligner_model::{QuantFormat, QuantizedWeight, on_pool};
use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;

/// Input and output width of an MLP's projection.
const SHAPES: [(&str, usize, usize); 3] = [("135M", 576, 1536), ("1B", 2048, 8192), ("7B", 4096, 11008)];
const FORMATS: [QuantFormat; 3] = [QuantFormat::Bf16, QuantFormat::Q8, QuantFormat::Q4];
/// More than the caches hold.
const MEMORY: usize = 128 << 20;

fn weight(input: usize, output: usize, format: QuantFormat) -> QuantizedWeight {
    let values = (0..input * output)
        .map(|at| ((at * 7919) % 509) as f32 / 254.0 - 1.0)
        .collect();
    let tensor = HostTensor {
        shape: vec![output, input],
        values,
    };
    #[allow(clippy::expect_used)] // constants
    QuantizedWeight::quantize(&tensor, format).expect("the values are finite")
}

fn rows(count: usize, width: usize) -> Tensor<2> {
    Tensor::random([count, width], Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Reads memory on all threads.
fn read(bytes: &[u8]) -> u64 {
    const PIECE: usize = 1 << 18;
    let sums = bytes.par_chunks(PIECE).map(|piece| {
        let (words, _) = piece.as_chunks::<8>();
        words
            .iter()
            .fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
    });
    sums.reduce(|| 0, u64::wrapping_add)
}

fn one_row(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_row");
    group.sample_size(10);
    let memory = vec![1u8; MEMORY];
    group.throughput(Throughput::Bytes(MEMORY as u64));
    group.bench_function("read", |bencher| bencher.iter(|| read(&memory)));
    for (model, input, output) in SHAPES {
        let x = rows(1, input);
        for format in FORMATS {
            let bytes = format.bytes(input, output);
            let first = weight(input, output, format);
            // Copies that share no memory.
            let copies: Vec<_> = (1..MEMORY.div_ceil(bytes))
                .map(|_| weight(input, output, format))
                .collect();
            group.throughput(Throughput::Bytes((bytes * (copies.len() + 1)) as u64));
            group.bench_function(BenchmarkId::new(format!("kernel {format}"), model), |bencher| {
                bencher.iter(|| {
                    on_pool(|| {
                        for weight in copies.iter().chain([&first]) {
                            quantized_linear(x.clone(), weight, None);
                        }
                    });
                });
            });
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(
                BenchmarkId::new(format!("reference {format}"), model),
                |bencher| {
                    bencher.iter(|| on_pool(|| reference::quantized_linear(x.clone(), &first)));
                },
            );
        }
    }
}

fn many_rows(criterion: &mut Criterion) {
    const ROWS: usize = 64;
    let mut group = criterion.benchmark_group("64_rows");
    group.sample_size(10);
    for (model, input, output) in SHAPES {
        let x = rows(ROWS, input);
        group.throughput(Throughput::Elements((2 * ROWS * input * output) as u64));
        for format in FORMATS {
            let weight = weight(input, output, format);
            group.bench_function(BenchmarkId::new(format!("kernel {format}"), model), |bencher| {
                bencher.iter(|| on_pool(|| quantized_linear(x.clone(), &weight, None)));
            });
            group.bench_function(
                BenchmarkId::new(format!("reference {format}"), model),
                |bencher| {
                    bencher.iter(|| on_pool(|| reference::quantized_linear(x.clone(), &weight)));
                },
            );
        }
        let dense = rows(input, output);
        group.bench_function(BenchmarkId::new("f32", model), |bencher| {
            bencher.iter(|| on_pool(|| x.clone().matmul(dense.clone())));
        });
    }
}

criterion_group!(benches, one_row, many_rows);
criterion_main!(benches);
