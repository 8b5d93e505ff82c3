//! A PEFT adapter: the length of its adapter_config.json in two bytes, that file, and adapter_model.safetensors.
#![no_main]

use aligner_model::LoraAdapter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes(*length));
    if let Some((config, weights)) = rest.split_at_checked(length) {
        let _ = LoraAdapter::from_bytes(config, weights.to_vec());
    }
});
