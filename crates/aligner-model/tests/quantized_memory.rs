//! A model that is quantised as it is read is never in memory as f32, and one from the file beside it not at all; alone in its
//! binary, because memory is a process's.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use aligner_model::{
    CausalDecoder, LlamaShape, ModelConfig, QuantFormat, RuntimeWeights, WeightsCache, load_dir_quantized,
    save_dir,
};
use burn::tensor::Device;
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

#[test]
fn loading_takes_the_quantised_model_and_a_matrix_and_mapping_takes_neither() {
    let (vocabulary, hidden, inner, keys) = (500, 256, 768, 128);
    let config = ModelConfig::llama(LlamaShape {
        vocab_size: vocabulary,
        hidden_size: hidden,
        intermediate_size: inner,
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
    let linear = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
        .into_iter()
        .chain([(hidden, inner), (hidden, inner), (inner, hidden)]);
    let layers = 8 * linear.map(|(i, o)| QuantFormat::Q4.bytes(i, o)).sum::<usize>();
    let model = layers + QuantFormat::Q8.bytes(hidden, vocabulary);
    let largest = inner * hidden * 4;
    // Names, norms and what the pool's threads hold; the writer's buffer is a mebibyte.
    let rest = 300_000;
    let writer = 1 << 20;
    let at_first = model + largest + writer;
    for (start, most) in [("without a file", at_first), ("with a file", 0)] {
        let before = PEAK.current_usage();
        PEAK.reset_peak_usage();
        let loaded = load_dir_quantized(
            dir.path(),
            RuntimeWeights::Q4,
            &WeightsCache::BesideModel,
            &device,
        )
        .unwrap();
        let (held, peak) = (PEAK.current_usage() - before, PEAK.peak_usage() - before);
        assert!(held < rest, "{start}: {held} held, though the weights are mapped");
        assert!(peak < most + rest, "{start}: {peak} at its highest, {most}");
        assert_eq!(most > 0, peak > model, "{start}: {peak} at its highest, {model}");
        drop(loaded);
    }
    let before = PEAK.current_usage();
    let loaded = load_dir_quantized(dir.path(), RuntimeWeights::Q4, &WeightsCache::Off, &device).unwrap();
    let held = PEAK.current_usage() - before;
    assert!((model..model + rest).contains(&held), "{held} held, {model}");
    drop(loaded);
}
