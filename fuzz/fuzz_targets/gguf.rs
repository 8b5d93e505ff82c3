//! A GGUF file: its header, every tensor, and the model directory's files that are made of its metadata.
#![no_main]

use std::io::Cursor;
use std::path::Path;

use aligner_model::weights::TensorSource;
use aligner_model::weights::gguf::{GgufFile, GgufSource, hf_config, tokenizer_files};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = GgufFile::from_reader(Cursor::new(bytes.to_vec()), Path::new("model.gguf")) else {
        return;
    };
    let _ = hf_config(&file);
    let _ = tokenizer_files(&file);
    let Ok(mut source) = GgufSource::new(file) else {
        return;
    };
    for name in source.names() {
        let _ = source.read(&name);
    }
});
