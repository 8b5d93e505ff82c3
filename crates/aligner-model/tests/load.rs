//! Loading takes one tensor's memory beside the model's own, and how long it takes.
//!
//! Memory is the process's: each measurement is a process of its own, this test program called again with a directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aligner_model::weights::named_tensors;
use aligner_model::{CausalDecoder, LlamaShape, ModelConfig, load_dir, save_dir};
use burn::tensor::Device;
use common::files;

/// Names a directory to the process that loads it.
const CHILD: &str = "ALIGNER_LOAD_TEST_DIR";

/// A line of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Measured {
    /// Growth of the largest resident memory, pages of mapped files included.
    resident_bytes: u64,
    /// Growth of the largest memory that was allocated.
    allocated_bytes: u64,
    /// Of the first load and of the fastest of three more.
    secs: [f64; 2],
}

fn load(dir: &Path) -> Measured {
    let device = Device::flex();
    // The thread pool and what else is made once is not the model's.
    rayon::join(|| (), || ());
    let before = (status("VmHWM"), status("RssAnon"));
    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut largest = 0;
            while !done.load(Ordering::Relaxed) {
                largest = largest.max(status("RssAnon"));
                std::thread::sleep(Duration::from_millis(1));
            }
            largest
        }
    });
    let start = Instant::now();
    let model = load_dir(dir, &device).unwrap();
    let first = start.elapsed().as_secs_f64();
    done.store(true, Ordering::Relaxed);
    let (allocated, resident) = (watcher.join().unwrap(), status("VmHWM"));
    drop(model);
    let again = (0..3).map(|_| {
        let start = Instant::now();
        drop(load_dir(dir, &device).unwrap());
        start.elapsed().as_secs_f64()
    });
    Measured {
        resident_bytes: resident - before.0,
        allocated_bytes: allocated.saturating_sub(before.1),
        secs: [first, again.fold(f64::INFINITY, f64::min)],
    }
}

fn in_a_process(test: &str, dir: &Path) -> Measured {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text.lines().find_map(|line| line.split_once("measured "));
    let (_, json) = line.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&out.stderr)));
    serde_json::from_str(json).unwrap()
}

/// Whether this is the process that loads; then it does.
fn is_child() -> bool {
    let Some(dir) = std::env::var_os(CHILD) else {
        return false;
    };
    println!(
        "measured {}",
        serde_json::to_string(&load(Path::new(&dir))).unwrap()
    );
    true
}

/// Prints how long `ALIGNER_TEST_MODEL` takes to load.
#[test]
fn a_real_model_is_loaded_in() {
    if is_child() {
        return;
    }
    let Some(dir) = std::env::var_os("ALIGNER_TEST_MODEL") else {
        println!("skipped: ALIGNER_TEST_MODEL does not name a model directory");
        return;
    };
    println!("{:?}", in_a_process("a_real_model_is_loaded_in", Path::new(&dir)));
}

#[test]
fn loading_takes_little_more_memory_than_the_model() {
    if is_child() {
        return;
    }
    let config = ModelConfig::llama(LlamaShape {
        vocab_size: 32_000,
        hidden_size: 512,
        intermediate_size: 1536,
        layers: 8,
        heads: 8,
        kv_heads: 8,
        max_positions: 512,
    })
    .unwrap();
    let decoder = CausalDecoder::random(&config, 1, &Device::flex()).unwrap();
    let size = config.parameters() as f64 * 4.0;
    let check = |what: &str, dir: &Path| {
        let measured = in_a_process("loading_takes_little_more_memory_than_the_model", dir);
        let shares = [measured.resident_bytes, measured.allocated_bytes].map(|bytes| bytes as f64 / size);
        println!(
            "{what}: resident and allocated {shares:.3?} of {:.0} MB, {measured:?}",
            size / 1e6
        );
        assert!(shares.iter().all(|&share| share < 1.3), "{what}: {shares:?}");
        // Less than the model would say that something else was measured.
        assert!(shares[1] > 0.9, "{what}: {shares:?}");
    };
    let dir = tempfile::tempdir().unwrap();
    save_dir(&config, &decoder, dir.path()).unwrap();
    check("safetensors f32", dir.path());
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let tensors: Vec<Written> = named_tensors(&decoder)
        .into_iter()
        .map(|tensor| (tensor.name, tensor.shape, (tensor.read)().unwrap()))
        .collect();
    let f32s = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let bf16s = |values: &[f32]| {
        values
            .iter()
            .flat_map(|&value| half::bf16::from_f32(value).to_le_bytes())
            .collect()
    };
    write_torch(
        &dir.path().join("pytorch_model.bin"),
        &tensors,
        "FloatStorage",
        f32s,
    );
    check("pytorch f32", dir.path());
    write_torch(
        &dir.path().join("pytorch_model.bin"),
        &tensors,
        "BFloat16Storage",
        bf16s,
    );
    check("pytorch bf16", dir.path());
    std::fs::remove_file(dir.path().join("pytorch_model.bin")).unwrap();
    write_bf16(&dir.path().join("model.safetensors"), &tensors, bf16s);
    check("safetensors bf16", dir.path());
}

/// Name, shape, elements.
type Written = (String, Vec<usize>, Vec<f32>);

fn write_torch(path: &Path, tensors: &[Written], storage: &'static str, encode: impl Fn(&[f32]) -> Vec<u8>) {
    let entries: Vec<files::Entry> = tensors
        .iter()
        .map(|(name, shape, _)| files::Entry::whole(name, storage, name, shape))
        .collect();
    let storages: Vec<(&str, Vec<u8>)> = tensors
        .iter()
        .map(|(name, _, values)| (name.as_str(), encode(values)))
        .collect();
    std::fs::write(path, files::torch_file(files::pickle(&entries), &storages)).unwrap();
}

fn write_bf16(path: &Path, tensors: &[Written], encode: impl Fn(&[f32]) -> Vec<u8>) {
    let (mut header, mut data) = (BTreeMap::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(encode(values));
        let entry = serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name, entry);
    }
    let header = serde_json::to_string(&header).unwrap();
    std::fs::write(path, files::safetensors_file(&header, &data)).unwrap();
}
