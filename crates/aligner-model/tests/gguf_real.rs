//! A published GGUF file is imported as the model that others made of it.
//!
//! Runs when `ALIGNER_TEST_MODEL` names the directory of SmolLM2-135M-Instruct with its `*.gguf` file: the weights there
//! were dequantized by gguf-py, the tokenizer was converted by transformers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use aligner_model::ModelConfig;
use aligner_model::weights::gguf::import;
use aligner_model::weights::{SafetensorsSource, TensorSource};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// The directory and what was imported from the GGUF file in it.
fn model() -> Option<(PathBuf, &'static Path)> {
    static IMPORTED: OnceLock<tempfile::TempDir> = OnceLock::new();
    let Some(dir) = std::env::var_os("ALIGNER_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: ALIGNER_TEST_MODEL does not name a model directory");
        return None;
    };
    let entries = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_gguf = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "gguf");
    let Some(file) = entries.into_iter().find(is_gguf) else {
        println!("skipped: {} has no GGUF file", dir.display());
        return None;
    };
    let imported = IMPORTED.get_or_init(|| {
        let out = tempfile::tempdir().unwrap();
        import(&file, out.path(), false).unwrap();
        out
    });
    Some((dir, imported.path()))
}

#[test]
fn weights_are_equal_bit_for_bit() {
    let Some((dir, imported)) = model() else { return };
    let mut expected = SafetensorsSource::open(&dir).unwrap();
    let mut got = SafetensorsSource::open(imported).unwrap();
    assert_eq!(got.names(), expected.names());
    for name in expected.names() {
        let (got, expected) = (
            got.read(&name).unwrap().unwrap(),
            expected.read(&name).unwrap().unwrap(),
        );
        assert_eq!(got.shape, expected.shape, "{name}");
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert!(bits(&got.values) == bits(&expected.values), "{name}");
    }
}

#[test]
fn the_configuration_describes_the_same_model() {
    let Some((dir, imported)) = model() else { return };
    let (expected, got) = (
        ModelConfig::read(&dir).unwrap(),
        ModelConfig::read(imported).unwrap(),
    );
    // The other reader kept the single precision of the GGUF file's numbers.
    assert_eq!(got.rms_norm_eps as f32, expected.rms_norm_eps as f32);
    let shape = |config: &ModelConfig| {
        let c = config.clone();
        (
            (
                c.architecture,
                c.vocab_size,
                c.hidden_size,
                c.intermediate_size,
                c.layers,
                c.heads,
                c.kv_heads,
            ),
            (
                c.head_dim,
                c.max_positions,
                c.layer_kinds,
                c.rope,
                c.tie_embeddings,
                c.qkv_bias,
                c.output_bias,
            ),
            (
                c.mlp_bias,
                c.qk_norm,
                c.norms,
                c.norm_offset,
                c.activation,
                c.attention_scale,
            ),
        )
    };
    assert_eq!(shape(&got), shape(&expected));
    for file in ["config.json", "generation_config.json"] {
        let read = |dir: &Path| -> Value {
            serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap()
        };
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            assert_eq!(read(imported)[key], read(&dir)[key], "{file}: {key}");
        }
    }
}

/// Some hundred texts: each of a list alone, and joined to others by what splits differ about.
fn texts() -> Vec<String> {
    let pieces = [
        "The quick brown fox",
        "it's they'RE we'll DON'T",
        "3.14159 and 1,000,000",
        "2024-11-24T10:20:30Z",
        "naïve café e\u{301}",
        "日本語のテキスト",
        "한국어",
        "Ελληνικά Кириллица",
        "😀👩‍👩‍👧 emoji",
        "fn main() { println!(\"{x:?}\"); }",
        "def f(x):\n\treturn x**2 # note",
        "<|im_start|>user\nhi<|im_end|>\n",
        "<|endoftext|>",
        "a\u{a0}b\u{3000}c\u{200b}d",
        "½ ² Ⅷ ٣٤ ๑๒",
        "https://example.org/a?b=1&c=%20",
        "C++/C# & <html>",
        "    indented",
        "tabs\t\there",
        "trailing   ",
        "\r\n\r\n",
        "''s 's",
        "x=1;y=22;z=333",
        "MiXeD CaSe WoRdS",
    ];
    let joints = ["", " ", "  ", "\n", "\n\n   ", "\t", " - "];
    let mut texts: Vec<String> = pieces.iter().map(|piece| (*piece).to_string()).collect();
    for (at, piece) in pieces.iter().enumerate() {
        for (offset, joint) in joints.iter().enumerate() {
            texts.push(format!(
                "{piece}{joint}{}",
                pieces[(at + 7 * offset + 1) % pieces.len()]
            ));
        }
    }
    texts
}

/// Whether it matters that digits are cut off first: where several spaces stand before one, and where one has bytes
/// that merge with others.
fn digits_matter(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    let behind_spaces = characters
        .windows(3)
        .any(|three| three[0].is_whitespace() && three[1].is_whitespace() && three[2].is_numeric());
    behind_spaces || characters.iter().any(|&one| one.is_numeric() && !one.is_ascii())
}

#[test]
fn the_tokenizer_gives_the_same_ids() {
    let Some((dir, imported)) = model() else { return };
    let own = Tokenizer::from_file(imported.join("tokenizer.json")).unwrap();
    let text = std::fs::read_to_string(dir.join("tokenizer.json")).unwrap();
    let converted = Tokenizer::from_bytes(&text).unwrap();
    // transformers' conversion forgets that the file says `smollm`: digits are cut off before the rest is split.
    let mut json: Value = serde_json::from_str(&text).unwrap();
    let rest = json["pre_tokenizer"].clone();
    json["pre_tokenizer"] = json!({
        "type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, rest]
    });
    let corrected = Tokenizer::from_bytes(json.to_string()).unwrap();
    let texts = texts();
    let (mut equal, mut different) = (0, 0);
    for text in &texts {
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text.as_str(), true).unwrap().get_ids().to_vec();
        let got = ids(&own);
        assert_eq!(got, ids(&corrected), "{text:?}");
        if digits_matter(text) {
            different += usize::from(got != ids(&converted));
        } else {
            assert_eq!(got, ids(&converted), "{text:?}");
            equal += 1;
        }
        assert_eq!(own.decode(&got, false).unwrap(), *text);
    }
    println!(
        "{} texts: {equal} as converted by transformers, {different} otherwise, for their digits",
        texts.len()
    );
    assert!(equal > 150 && different > 0, "{equal} {different}");
}
