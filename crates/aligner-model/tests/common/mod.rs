//! What the tests of this crate share.
#![allow(dead_code, clippy::print_stdout)]

pub mod files;

use std::path::{Path, PathBuf};
use std::process::Command;

use aligner_model::{CausalDecoder, KvCache, Loaded, load_dir};
use burn::tensor::{Device, Int, Tensor, TensorData};

pub const VARIANTS: [&str; 17] = [
    "tied",
    "untied-bias-llama3",
    "sharded-bf16-linear",
    "f16",
    "llama-dynamic",
    "llama-yarn",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-longrope",
    "smollm3",
    "olmo2",
    "baichuan",
];

/// The variants whose rotation does not change with the length of the sequence: only for those is a sequence in pieces,
/// or beside a longer one, the same as alone.
pub fn of_fixed_rotation() -> impl Iterator<Item = &'static str> {
    VARIANTS
        .into_iter()
        .filter(|variant| !["llama-dynamic", "phi3-longrope"].contains(variant))
}

#[derive(serde::Deserialize)]
pub struct Golden {
    pub first: Vec<u32>,
    pub second: Vec<u32>,
    pub last_two_logits: Vec<Vec<f64>>,
    pub second_nll: f64,
    pub greedy: Vec<u32>,
}

pub fn golden_dir(variant: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(variant)
}

pub fn golden(variant: &str, device: &Device) -> (Loaded, Golden) {
    let dir = golden_dir(variant);
    let golden = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    (load_dir(&dir, device).unwrap(), golden)
}

pub fn ids(rows: &[&[u32]], device: &Device) -> Tensor<2, Int> {
    let longest = rows.iter().map(|row| row.len()).max().unwrap();
    let padded = rows.iter().flat_map(|row| {
        let padding = std::iter::repeat_n(0, longest - row.len());
        row.iter().map(|&id| id as i32).chain(padding)
    });
    Tensor::from_data(
        TensorData::new(padded.collect::<Vec<_>>(), [rows.len(), longest]),
        device,
    )
}

pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().unwrap()
}

pub fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g - w).abs())
        .fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: largest difference {worst}");
}

/// Greedy continuation, one token at a time through the cache.
pub fn greedy(decoder: &CausalDecoder, prompt: &[u32], tokens: usize, cache: &mut KvCache) -> Vec<u32> {
    let device = decoder.norm.weight.val().device();
    let mut out = Vec::new();
    let mut next: Vec<u32> = prompt.to_vec();
    while out.len() < tokens {
        let hidden = decoder.forward(ids(&[&next], &device), Some(cache));
        let last = hidden.dims()[1] - 1;
        let logits = host(decoder.logits(hidden.narrow(1, last, 1)));
        let best = (0..logits.len())
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap() as u32;
        out.push(best);
        next = vec![best];
    }
    out
}

/// The last two rows of logits by transformers (and PEFT) of a directory on disk.
///
/// Runs when `ALIGNER_TEST_PYTHON` names a Python that has both.
pub fn saved_logits(model: &Path, sequence: &[u32], adapter: Option<&Path>) -> Option<Vec<f32>> {
    let Some(python) = std::env::var_os("ALIGNER_TEST_PYTHON") else {
        println!("skipped: ALIGNER_TEST_PYTHON does not name a Python with transformers");
        return None;
    };
    let out = Command::new(python)
        .arg(golden_dir("check_saved.py"))
        .arg(model)
        .arg(serde_json::to_string(sequence).unwrap())
        .args(adapter)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let last = text.lines().last().unwrap_or_default();
    let rows: Result<Vec<Vec<f32>>, _> = serde_json::from_str(last);
    let rows = rows.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    Some(rows.concat())
}

/// The last two rows of logits by llama.cpp of a GGUF file.
///
/// Runs when `ALIGNER_TEST_PYTHON` names a Python that has it.
pub fn llama_cpp_logits(file: &Path, sequence: &[u32], context: usize) -> Option<Vec<f32>> {
    let Some(python) = std::env::var_os("ALIGNER_TEST_PYTHON") else {
        println!("skipped: ALIGNER_TEST_PYTHON does not name a Python with llama_cpp");
        return None;
    };
    let out = Command::new(python)
        .arg(golden_dir("check_gguf.py"))
        .arg(file)
        .arg(serde_json::to_string(sequence).unwrap())
        .arg(context.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let rows: Result<Vec<Vec<f32>>, _> = serde_json::from_str(text.lines().last().unwrap_or_default());
    let rows = rows.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    Some(rows.concat())
}
