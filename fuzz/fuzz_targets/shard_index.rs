//! A *.index.json.
#![no_main]

use std::path::Path;

use aligner_model::weights::ShardIndex;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = ShardIndex::parse(Path::new("model.safetensors.index.json"), bytes) {
        assert!(index.tensors().all(|(_, file)| file < index.files().len()));
        assert!(
            index
                .files()
                .iter()
                .all(|file| !file.contains('/') && file != "..")
        );
    }
});
