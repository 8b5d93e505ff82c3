//! Damaged and hostile GGUF files end in one clear error, whatever is read from them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::Cursor;
use std::path::Path;

use aligner_model::Result;
use aligner_model::weights::TensorSource;
use aligner_model::weights::gguf::{GgufFile, GgufSource, hf_config, import, tokenizer_files};
use common::golden_dir;
use proptest::prelude::*;

const STRING: u32 = 8;
const ARRAY: u32 = 9;
const F16: u32 = 1;

fn golden(model: &str) -> Vec<u8> {
    std::fs::read(golden_dir("gguf").join(format!("{model}.gguf"))).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<GgufFile> {
    GgufFile::from_reader(Cursor::new(bytes), Path::new("test.gguf"))
}

/// Reads all there is to read.
fn read_all(bytes: Vec<u8>) -> Result<()> {
    let file = open(bytes)?;
    hf_config(&file)?;
    tokenizer_files(&file)?;
    let mut source = GgufSource::new(file)?;
    for name in source.names() {
        source.read(&name)?;
    }
    Ok(())
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A file of metadata (key, type, bytes) and tensors (name, dimensions, type, offset), with `data` behind them.
#[derive(Default)]
struct Builder {
    metadata: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: usize,
}

impl Builder {
    fn with(mut self, key: &str, kind: u32, bytes: Vec<u8>) -> Self {
        self.metadata.push((key.into(), kind, bytes));
        self
    }

    fn tensor(mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors
            .push((name.into(), dimensions.to_vec(), kind, offset));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, bytes) in &self.metadata {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
        for (name, dimensions, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((dimensions.len() as u32).to_le_bytes());
            dimensions.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }

    fn error(&self) -> String {
        open(self.bytes()).unwrap_err().to_string()
    }
}

fn array(kind: u32, count: u64, bytes: &[u8]) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &count.to_le_bytes(), bytes].concat()
}

#[test]
fn a_header_cut_at_every_byte() {
    let whole = golden("gemma");
    let file = open(whole.clone()).unwrap();
    let bytes: usize = file
        .tensors()
        .values()
        .map(|tensor| tensor.shape.iter().product::<usize>())
        .sum();
    let header = whole.len() - bytes;
    assert!(header > 1000);
    for length in 0..header {
        let error = open(whole[..length].to_vec()).unwrap_err().to_string();
        assert!(error.starts_with("test.gguf: "), "{length}: {error}");
    }
    for length in [whole.len() - 64, whole.len() - 33] {
        let error = open(whole[..length].to_vec()).unwrap_err().to_string();
        assert!(error.contains("needs"), "{length}: {error}");
    }
}

#[test]
fn what_is_no_gguf_file_or_another_version() {
    for (bytes, expected) in [
        (b"".to_vec(), "no GGUF file"),
        (b"GGUF".to_vec(), "no GGUF file"),
        (b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaa".to_vec(), "no GGUF file"),
        (b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "version 1"),
        (b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "big-endian"),
    ] {
        let error = open(bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn counts_and_lengths_beyond_the_file() {
    let mut bytes = Builder::default().bytes();
    for at in [8, 16] {
        for count in [1u64 << 40, u64::MAX, u64::MAX / 2 + 1] {
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let error = open(bytes.clone()).unwrap_err().to_string();
            assert!(error.contains(&count.to_string()), "{error}");
        }
        bytes[at..at + 8].fill(0);
    }
    let huge = u64::MAX.to_le_bytes().to_vec();
    let long_text = Builder::default().with("a", STRING, huge);
    assert!(
        long_text.error().contains("bytes are due"),
        "{}",
        long_text.error()
    );
    for kind in [0, 6, STRING, 10] {
        for count in [u64::MAX, 1 << 61] {
            let list = Builder::default().with("a", ARRAY, array(kind, count, &[0; 64]));
            assert!(list.error().contains("\"a\""), "{}", list.error());
        }
    }
}

#[test]
fn types_and_texts_that_do_not_exist() {
    let cases = [
        (Builder::default().with("a", 13, vec![0; 8]), "unknown type 13"),
        (
            Builder::default().with("a", ARRAY, array(77, 0, &[])),
            "unknown type 77",
        ),
        (
            Builder::default().with("a", ARRAY, array(ARRAY, 1, &[0; 64])),
            "array of arrays",
        ),
        (
            Builder::default()
                .with("a", STRING, [text(""), vec![]].concat())
                .with("a", 0, vec![1]),
            "twice",
        ),
        (
            Builder::default().with("a", STRING, [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()),
            "not UTF-8",
        ),
        (
            Builder::default().with("general.alignment", 4, 24u32.to_le_bytes().into()),
            "power of two",
        ),
        (
            Builder::default().with("general.alignment", 4, 0u32.to_le_bytes().into()),
            "power of two",
        ),
        (
            Builder::default().with("general.alignment", STRING, text("32")),
            "power of two",
        ),
    ];
    for (builder, expected) in cases {
        assert!(builder.error().contains(expected), "{}", builder.error());
    }
}

#[test]
fn tensors_that_cannot_be() {
    let data = |builder: Builder| Builder { data: 256, ..builder };
    let cases = [
        (
            Builder::default().tensor("a", &[32], 10, 0),
            "Q2_K, which is not read; read are F32",
        ),
        (
            Builder::default().tensor("a", &[32], 4000, 0),
            "4000, which is not read",
        ),
        (Builder::default().tensor("a", &[], F16, 0), "0 dimensions"),
        (
            Builder::default().tensor("a", &[1, 1, 1, 1, 1], F16, 0),
            "5 dimensions",
        ),
        (
            Builder::default().tensor("a", &[0], F16, 0),
            "cannot have the dimensions",
        ),
        (
            Builder::default().tensor("a", &[33], 8, 0),
            "cannot have the dimensions",
        ),
        (
            Builder::default().tensor("a", &[1 << 33, 1 << 33], F16, 0),
            "cannot have the dimensions",
        ),
        (
            Builder::default().tensor("a", &[1 << 62, 2], F16, 0),
            "cannot have the dimensions",
        ),
        (Builder::default().tensor("a", &[1 << 40], F16, 0), "needs"),
        (Builder::default().tensor("a", &[16], F16, u64::MAX - 31), "needs"),
        (Builder::default().tensor("a", &[16], F16, 8), "no multiple of 32"),
        (
            Builder::default()
                .tensor("a", &[32], F16, 0)
                .tensor("b", &[16], F16, 32),
            "overlap",
        ),
        (
            Builder::default()
                .tensor("a", &[16], F16, 0)
                .tensor("b", &[16], F16, 0),
            "overlap",
        ),
        (
            Builder::default()
                .tensor("a", &[16], F16, 0)
                .tensor("a", &[16], F16, 32),
            "twice",
        ),
    ];
    for (builder, expected) in cases {
        let builder = data(builder);
        assert!(builder.error().contains(expected), "{}", builder.error());
    }
}

/// The error of reading a golden after one piece of it, which occurs once, was replaced by another of its length.
fn error_after(model: &str, from: &[u8], to: &[u8]) -> String {
    assert_eq!(from.len(), to.len());
    let mut bytes = golden(model);
    let found: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|&at| bytes[at..].starts_with(from))
        .collect();
    let [at] = found[..] else {
        panic!("{} times", found.len());
    };
    bytes[at..at + to.len()].copy_from_slice(to);
    read_all(bytes).unwrap_err().to_string()
}

#[test]
fn metadata_that_does_not_fit_together() {
    let entry = |key: &str, kind: u32, value: u32| {
        [key.as_bytes(), &kind.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let cases = [
        (
            error_after(
                "qwen2",
                b"\x05\0\0\0\0\0\0\0qwen2\x14",
                b"\x05\0\0\0\0\0\0\0mamba\x14",
            ),
            "mamba",
        ),
        (
            error_after("gemma", b"gemma.block_count", b"gemma.block_kount"),
            "no metadata gemma.block_count",
        ),
        (
            error_after("qwen2", b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokers"),
            "tokenizer.ggml.tokens",
        ),
        (
            error_after(
                "qwen2",
                &entry("eos_token_id", 4, 321),
                &entry("eos_token_id", 4, 9999),
            ),
            "eos_token_id = 9999, but 324 tokens",
        ),
        (
            error_after(
                "qwen2",
                &entry("eos_token_id", 4, 321),
                &entry("eos_token_id", 6, 0),
            ),
            "eos_token_id is not one whole number",
        ),
        (
            error_after(
                "qwen2",
                b"\x05\0\0\0\0\0\0\0qwen2\x15",
                b"\x05\0\0\0\0\0\0\0qwenX\x15",
            ),
            "\"qwenX\", which is not read; read are default, gpt-2",
        ),
        (
            error_after("gemma", b"tokenizer.ggml.scores", b"tokenizer.ggml.merges"),
            "merges is not a list of texts",
        ),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn tensors_that_are_not_the_architectures() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = golden("llama");
    let name = b"blk.1.ffn_up.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    bytes[at..at + name.len()].copy_from_slice(b"blk.1.ffn_op.weight");
    let file = dir.path().join("a.gguf");
    std::fs::write(&file, bytes).unwrap();
    let error = import(&file, &dir.path().join("out"), false)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("missing") && error.contains("model.layers.1.mlp.up_proj.weight"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// No byte that is changed makes a panic; what still reads has whole numbers of everything.
    #[test]
    fn flipped_bytes(model in 0usize..4, changes in prop::collection::vec((0usize..1 << 20, any::<u8>()), 1..6)) {
        let mut bytes = golden(["gemma", "llama-rope-freqs", "qwen2", "types"][model]);
        let length = bytes.len();
        for (at, byte) in changes {
            bytes[at % length] = byte;
        }
        if let Err(error) = read_all(bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    /// The same where it hurts: before the data, in the first kilobyte and in what follows the vocabulary.
    #[test]
    fn flipped_bytes_of_the_header(at in 0usize..1400, byte in any::<u8>(), from_end in any::<bool>()) {
        let mut bytes = golden("qwen2");
        let header = bytes.windows(12).rposition(|window| window == b"attn_norm.we").unwrap() + 64;
        let at = if from_end { header - at } else { at };
        bytes[at] = byte;
        let _ = read_all(bytes);
    }
}
