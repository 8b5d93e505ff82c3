//! What the machine can do, and how much of it a training step uses: `cargo bench -p aligner-bench --bench roofline`.
//!
//! Measured in one process, in turn, best of several: the largest matrix product of a layer into a warm buffer, a copy of more
//! memory than the caches hold, and a training step of 4 × 512 tokens on SmolLM2-135M's shape whose last fifth carries loss; the step in
//! mixed precision as well, where the processor multiplies numbers of bf16, which it does twice as many of at a time.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use aligner_bench::{HIDDEN, INTERMEDIATE, VOCABULARY, keep_freed_memory, model, tokens};
use aligner_data::{Batch, Cursor, Example};
use aligner_model::Precision;
use aligner_train::objective::Sft;
use aligner_train::{AdamW, StepBatch, TrainConfig, TrainedModel, gradient_norm};
use burn::tensor::Device;
use burn::train::TrainStep;
use gemm::{Parallelism, gemm};
use rayon::prelude::*;

const ROWS: usize = 4;
const LENGTH: usize = 512;
const TARGETS: usize = 100;
const LAYERS: usize = 30;
/// Weights of one layer's linear layers: queries and output, keys and values of a third of the width, the MLP.
const LINEAR: usize = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * HIDDEN / 3 + 3 * HIDDEN * INTERMEDIATE;

/// Seconds of the fastest of `times` runs.
fn best(times: usize, mut run: impl FnMut()) -> f64 {
    let once = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..times).map(once).fold(f64::INFINITY, f64::min)
}

fn gemm_flops() -> f64 {
    let (m, k, n) = (ROWS * LENGTH, HIDDEN, INTERMEDIATE);
    let (a, b, mut out) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0.0f32; m * n]);
    let seconds = best(30, || {
        let (k_stride, n_stride) = (k as isize, n as isize);
        // SAFETY: the three matrices are as large as the shapes say.
        unsafe {
            gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                n_stride,
                false,
                a.as_ptr(),
                1,
                k_stride,
                b.as_ptr(),
                1,
                n_stride,
                1.0,
                1.0,
                false,
                false,
                false,
                Parallelism::Rayon(0),
            );
        }
    });
    2.0 * (m * k * n) as f64 / seconds
}

fn copy_bytes() -> f64 {
    let from = vec![1.0f32; 1 << 28];
    let mut to = vec![0.0f32; from.len()];
    let seconds = best(5, || {
        let pieces = to.par_chunks_mut(1 << 16).zip(from.par_chunks(1 << 16));
        pieces.for_each(|(to, from)| to.copy_from_slice(from));
    });
    (2 * from.len() * size_of::<f32>()) as f64 / seconds
}

/// Seconds of a whole step.
fn step_seconds(precision: Precision) -> f64 {
    let ids = tokens(LENGTH);
    let batch = Batch::new((0..ROWS).map(|_| Example {
        ids: &ids,
        prompt_len: LENGTH - TARGETS,
    }));
    let step = StepBatch {
        target_tokens: batch.target_tokens() as u64,
        tokens: batch.tokens() as u64,
        micro_batches: vec![batch],
        start: Cursor::default(),
        end: Cursor::default(),
        rows: ROWS as u64,
    };
    let mut optimizer = AdamW::new(TrainConfig::default().adamw());
    let mut trained = Some(TrainedModel::new(
        model(&Device::flex().autodiff()).with_precision(precision),
        Arc::new(Sft),
    ));
    best(4, || {
        let Some(model) = trained.take() else { return };
        let output = aligner_model::on_pool(|| TrainStep::step(&model, step.clone()));
        let norm = gradient_norm(&model, &output.grads).unwrap_or(f64::NAN);
        assert!(norm.is_finite(), "gradient norm");
        trained = Some(aligner_model::on_pool(|| {
            optimizer.step(model, output.grads, 1e-5, 1.0)
        }));
    })
}

fn main() {
    keep_freed_memory();
    let (flops, bytes) = (gemm_flops(), copy_bytes());
    let tokens = ROWS * LENGTH;
    let linear = 6 * LAYERS * LINEAR * tokens;
    // Scores and weighted values, forward, and twice that and the scores again backward, over half of all pairs.
    let attention = LAYERS * ROWS * LENGTH * LENGTH / 2 * HIDDEN * 2 * 7;
    let head = 6 * HIDDEN * VOCABULARY * ROWS * TARGETS;
    let work = (linear + attention + head) as f64;
    println!("matrix product   {:6.0} GFLOP/s", flops / 1e9);
    println!("memory copy      {:6.1} GB/s", bytes / 1e9);
    for precision in [Precision::F32, Precision::Bf16] {
        if !precision.is_native() {
            continue;
        }
        let seconds = step_seconds(precision);
        println!(
            "step in {precision:<8} {seconds:6.2} s, {:.0} tokens/s",
            tokens as f64 / seconds
        );
        println!(
            "of which needed  {:6.0} GFLOP, {:.0} GFLOP/s: {:.0} % of the matrix product's",
            work / 1e9,
            work / seconds / 1e9,
            100.0 * work / seconds / flops
        );
    }
}
