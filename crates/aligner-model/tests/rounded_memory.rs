//! A model whose weights are rounded as they are read is never in memory as f32, and one from the file beside it not at all; alone in
//! its binary and in one test, because memory is a process's.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;

use aligner_model::{
    CausalDecoder, LlamaShape, ModelConfig, QuantFormat, RuntimeWeights, WeightFormat, WeightsCache,
    load_dir_as, load_dir_quantized, save_dir,
};
use burn::tensor::Device;
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

const VOCABULARY: usize = 500;
const HIDDEN: usize = 256;
const INNER: usize = 768;
const KEYS: usize = 128;
const LAYERS: usize = 8;
/// Names, norms and what the pool's threads hold.
const REST: usize = 300_000;

/// Bytes of all linear layers of the blocks.
fn linear_layers(bytes: impl Fn(usize, usize) -> usize) -> usize {
    let attention = [(HIDDEN, HIDDEN), (HIDDEN, KEYS), (HIDDEN, KEYS), (HIDDEN, HIDDEN)];
    let mlp = [(HIDDEN, INNER), (HIDDEN, INNER), (INNER, HIDDEN)];
    let of_layer: usize = attention
        .into_iter()
        .chain(mlp)
        .map(|(input, output)| bytes(input, output))
        .sum();
    LAYERS * of_layer
}

/// Bytes that are held and that were held at most, beyond what was there before.
fn loaded<R>(load: impl FnOnce() -> R) -> (usize, usize) {
    let before = PEAK.current_usage();
    PEAK.reset_peak_usage();
    let model = load();
    let held = PEAK.current_usage() - before;
    let peak = PEAK.peak_usage() - before;
    drop(model);
    (held, peak)
}

#[test]
fn loading_takes_the_rounded_model_and_a_matrix_and_mapping_takes_neither() {
    let config = ModelConfig::llama(LlamaShape {
        vocab_size: VOCABULARY,
        hidden_size: HIDDEN,
        intermediate_size: INNER,
        layers: LAYERS,
        heads: 4,
        kv_heads: 2,
        max_positions: 64,
    })
    .unwrap();
    let device = Device::flex();
    let dir = tempfile::tempdir().unwrap();
    let decoder = CausalDecoder::random(&config, 3, &device).unwrap();
    save_dir(&config, &decoder, dir.path()).unwrap();
    drop(decoder);
    of_training(dir.path(), &device);
    of_running(dir.path(), &device);
}

fn of_training(dir: &Path, device: &Device) {
    let int8 = linear_layers(|input, output| WeightFormat::Int8.bytes(input, output));
    let (table, matrix) = (VOCABULARY * HIDDEN * 4, HIDDEN * INNER * 4);
    let (held, peak) = loaded(|| load_dir_as(dir, WeightFormat::Int8, device).unwrap());
    assert!(
        (int8 + table..int8 + table + REST).contains(&held),
        "{held} held, {int8} + {table}"
    );
    assert!(
        peak < int8 + table + 2 * matrix + REST,
        "{peak} at its highest, {held} held"
    );
}

fn of_running(dir: &Path, device: &Device) {
    let model = linear_layers(|input, output| QuantFormat::Q4.bytes(input, output))
        + QuantFormat::Q8.bytes(HIDDEN, VOCABULARY);
    let largest = INNER * HIDDEN * 4;
    // The writer's buffer is two mebibytes.
    let at_first = model + largest + (2 << 20);
    let load = |cache: &WeightsCache| load_dir_quantized(dir, RuntimeWeights::Q4, cache, device).unwrap();
    for (start, most) in [("without a file", at_first), ("with a file", 0)] {
        let (held, peak) = loaded(|| load(&WeightsCache::BesideModel));
        assert!(held < REST, "{start}: {held} held, though the weights are mapped");
        assert!(peak < most + REST, "{start}: {peak} at its highest, {most}");
        assert_eq!(most > 0, peak > model, "{start}: {peak} at its highest, {model}");
    }
    let (held, _) = loaded(|| load(&WeightsCache::Off));
    assert!((model..model + REST).contains(&held), "{held} held, {model}");
}
