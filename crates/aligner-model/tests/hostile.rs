//! Bytes of any kind give a value or an error: never a panic, and never more memory than the input justifies.
//!
//! Memory is what this program allocates, counted by its allocator. There is one test, because another one's allocations on
//! another thread would be counted as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use aligner_model::weights::{PytorchSource, SafetensorsSource, ShardIndex, TensorSource};
use aligner_model::{LoraAdapter, ModelConfig};
use common::{VARIANTS, files, golden_dir};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::sample::Index;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// What a parser may need beside a multiple of its input: messages, tables, the thread pool.
const BASE_BYTES: usize = 4 << 20;
/// Memory for a byte of input. JSON takes the most: `[],` is three bytes of text and a value of 80 in a list that doubles.
const FACTOR: usize = 100;

/// Runs a parser on bytes, checks the largest memory that it took, and gives it.
fn bounded(bytes: &[u8], parse: impl FnOnce(&[u8])) -> usize {
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    parse(bytes);
    let taken = ALLOCATED.peak_usage().saturating_sub(before);
    let allowed = BASE_BYTES + FACTOR * bytes.len();
    assert!(taken <= allowed, "{taken} bytes for an input of {}", bytes.len());
    taken
}

fn read_all(source: Result<impl TensorSource, aligner_model::ModelError>) {
    let Ok(mut source) = source else { return };
    for name in source.names() {
        let _ = source.read(&name);
        let _ = source.read_transposed(&name);
    }
}

fn safetensors(bytes: &[u8]) {
    read_all(SafetensorsSource::from_bytes(Path::new("file"), bytes.to_vec()));
}

fn pytorch(bytes: &[u8]) {
    read_all(PytorchSource::from_bytes(Path::new("file"), bytes.to_vec()));
}

fn config(bytes: &[u8]) {
    if let Ok(config) = ModelConfig::parse(Path::new("config.json"), bytes) {
        // No product of its numbers may overflow.
        assert!(config.parameters() > 0);
    }
}

fn index(bytes: &[u8]) {
    if let Ok(index) = ShardIndex::parse(Path::new("index.json"), bytes) {
        assert!(index.tensors().all(|(_, file)| file < index.files().len()));
    }
}

fn adapter_config(bytes: &[u8]) {
    let weights = std::fs::read(golden_dir("lora/attention/adapter_model.safetensors")).unwrap();
    let _ = LoraAdapter::from_bytes(bytes, weights);
}

fn adapter_weights(bytes: &[u8]) {
    let config = std::fs::read(golden_dir("lora/attention/adapter_config.json")).unwrap();
    let _ = LoraAdapter::from_bytes(&config, bytes.to_vec());
}

/// One change of a file.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let place = |index: &Index| index.index(bytes.len());
        match self {
            Self::Set(at, value) => {
                let at = place(at);
                bytes[at] = *value;
            }
            Self::Flip(at, bit) => {
                let at = place(at);
                bytes[at] ^= 1 << (bit % 8);
            }
            Self::Insert(at, new) => {
                let at = place(at);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = place(at);
                bytes.drain(at..(at + count).min(bytes.len()));
            }
            Self::Repeat(at, count) => {
                let at = place(at);
                let part = bytes[at..(at + count).min(bytes.len())].to_vec();
                bytes.splice(at..at, part);
            }
            Self::Cut(at) => bytes.truncate(place(at)),
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    // Numbers at the edges do more harm than any others.
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..9),
        prop::sample::select(vec![
            vec![0xff; 4],
            vec![0xff; 8],
            vec![0; 8],
            b"[[[[".to_vec(),
            b"99999999".to_vec()
        ]),
    ];
    let change = prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, value)| Change::Set(at, value)),
        4 => (at(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        2 => (at(), bytes).prop_map(|(at, new)| Change::Insert(at, new)),
        2 => (at(), 1usize..40).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (at(), 1usize..40).prop_map(|(at, count)| Change::Repeat(at, count)),
        1 => at().prop_map(Change::Cut),
    ];
    prop::collection::vec(change, 1..6)
}

fn small_torch_file() -> Vec<u8> {
    let entries = [
        files::Entry::whole("a", "FloatStorage", "0", &[2, 3]),
        files::Entry::whole("b", "BFloat16Storage", "1", &[4]),
        files::Entry {
            shape: vec![3, 2],
            strides: vec![1, 3],
            ..files::Entry::whole("c", "FloatStorage", "0", &[2, 3])
        },
    ];
    files::torch_file(
        files::pickle(&entries),
        &[("0", files::f32s(6)), ("1", vec![0; 8])],
    )
}

fn small_safetensors_file() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[24,32]}}"#;
    files::safetensors_file(header, &files::f32s(8))
}

type Parser = fn(&[u8]);

/// A valid file for each parser, small enough that a change hits something.
fn parsers() -> [(&'static str, Vec<Vec<u8>>, Parser); 6] {
    let file = |name: &str| std::fs::read(golden_dir(name)).unwrap();
    [
        ("safetensors", vec![small_safetensors_file()], safetensors),
        (
            "pytorch",
            vec![small_torch_file(), file("pytorch/single/pytorch_model.bin")],
            pytorch,
        ),
        (
            "config",
            VARIANTS
                .map(|variant| file(&format!("{variant}/config.json")))
                .to_vec(),
            config,
        ),
        (
            "index",
            vec![
                file("sharded-bf16-linear/model.safetensors.index.json"),
                br#"{"weight_map":{"a":"b"}}"#.to_vec(),
            ],
            index,
        ),
        (
            "adapter config",
            vec![file("lora/attention/adapter_config.json")],
            adapter_config,
        ),
        (
            "adapter weights",
            vec![file("lora/attention/adapter_model.safetensors")],
            adapter_weights,
        ),
    ]
}

#[test]
fn any_bytes_end_in_a_value_or_an_error_within_their_memory() {
    valid_files_are_within_their_memory();
    random_bytes_end_in_a_value_or_an_error();
    changed_files_end_in_a_value_or_an_error();
}

fn valid_files_are_within_their_memory() {
    for (name, files, parse) in parsers() {
        for file in files {
            let taken = bounded(&file, parse);
            assert!(
                taken > file.len() / 8,
                "{name}: {taken} bytes; the count cannot be right"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    fn random_bytes_end_in_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for (_, _, parse) in parsers() {
            bounded(&bytes, parse);
        }
        // Behind what a format begins with, so that more than the first check is met.
        let begun: [(&[u8], Parser); 3] =
            [(b"PK\x03\x04", pytorch), (b"{\"", config), (b"{\"weight_map\":{\"", index)];
        for (magic, parse) in begun {
            bounded(&[magic, &bytes[..]].concat(), parse);
        }
        let pickle = files::torch_file([&b"\x80\x02"[..], &bytes].concat(), &[("0", files::f32s(6))]);
        bounded(&pickle, pytorch);
        let header = (bytes.len() as u64).to_le_bytes();
        bounded(&[&header[..], &bytes[..], &[0; 64]].concat(), safetensors);
    }

    fn changed_files_end_in_a_value_or_an_error(changes in changes(), which in any::<Index>()) {
        for (_, files, parse) in parsers() {
            let mut bytes = files[which.index(files.len())].clone();
            for change in &changes {
                change.apply(&mut bytes);
            }
            bounded(&bytes, parse);
        }
    }
}
