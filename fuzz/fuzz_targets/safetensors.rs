//! A safetensors file: its header, and every tensor.
#![no_main]

use std::path::Path;

use aligner_model::weights::{SafetensorsSource, TensorSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut source) = SafetensorsSource::from_bytes(Path::new("model.safetensors"), bytes.to_vec()) else {
        return;
    };
    for name in source.names() {
        let _ = source.read(&name);
        let _ = source.read_transposed(&name);
    }
});
