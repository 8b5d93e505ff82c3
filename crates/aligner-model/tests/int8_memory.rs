//! A model that is quantised as it is read is never in memory as f32; alone in its binary, because memory is a process's.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use aligner_model::{CausalDecoder, LlamaShape, ModelConfig, WeightFormat, load_dir_as, save_dir};
use burn::tensor::Device;
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

#[test]
fn loading_takes_the_quantised_model_and_a_matrix() {
    let config = ModelConfig::llama(LlamaShape {
        vocab_size: 500,
        hidden_size: 256,
        intermediate_size: 768,
        layers: 8,
        heads: 4,
        kv_heads: 2,
        max_positions: 64,
    })
    .unwrap();
    let device = Device::flex();
    let dir = tempfile::tempdir().unwrap();
    save_dir(
        &config,
        &CausalDecoder::random(&config, 3, &device).unwrap(),
        dir.path(),
    )
    .unwrap();
    let (hidden, inner, keys) = (256, 768, 128);
    let linear = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
        .into_iter()
        .chain([(hidden, inner), (hidden, inner), (inner, hidden)]);
    let int8: usize = 8 * linear.map(|(i, o)| WeightFormat::Int8.bytes(i, o)).sum::<usize>();
    let table = 500 * hidden * 4;
    let matrix = hidden * inner * 4;
    let before = PEAK.current_usage();
    PEAK.reset_peak_usage();
    let loaded = load_dir_as(dir.path(), WeightFormat::Int8, &device).unwrap();
    let (held, peak) = (PEAK.current_usage() - before, PEAK.peak_usage() - before);
    // Names, norms and what the pool's threads hold.
    let rest = 300_000;
    assert!(
        (int8 + table..int8 + table + rest).contains(&held),
        "{held} held, {int8} + {table}"
    );
    assert!(
        peak < int8 + table + 2 * matrix + rest,
        "{peak} at its highest, {held} held"
    );
    drop(loaded);
}
