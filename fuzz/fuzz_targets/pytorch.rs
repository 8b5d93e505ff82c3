//! A file of torch.save: the archive, its pickle, and every tensor. A file that is no archive is taken as the pickle of one,
//! which the fuzzer could not reach through the archive's offsets.
#![no_main]

use std::path::Path;

use aligner_model::weights::{PytorchSource, TensorSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = if bytes.starts_with(b"\x80\x02") {
        archive(bytes)
    } else {
        bytes.to_vec()
    };
    let Ok(mut source) = PytorchSource::from_bytes(Path::new("pytorch_model.bin"), file) else {
        return;
    };
    for name in source.names() {
        let _ = source.read(&name);
        let _ = source.read_transposed(&name);
    }
});

/// A zip archive of this pickle and a storage `0` of six floats.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in [("m/data.pkl", pickle), ("m/data/0", &[0; 24])] {
        let at = out.len() as u32;
        let size = (bytes.len() as u32).to_le_bytes();
        let length = (name.len() as u16).to_le_bytes();
        let common = [&[0; 12][..], &size, &size, &length, &[0; 2]].concat();
        out.extend([&b"PK\x03\x04\x14\0"[..], &common, name.as_bytes(), bytes].concat());
        let entry = [
            &b"PK\x01\x02\x14\0\x14\0"[..],
            &common,
            &[0; 10],
            &at.to_le_bytes(),
            name.as_bytes(),
        ];
        directory.extend(entry.concat());
    }
    let (start, size) = (out.len() as u32, directory.len() as u32);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
    out.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
    out.extend([0; 2]);
    out
}
