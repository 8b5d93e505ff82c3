//! What is imported from GGUF files is what llama.cpp's converter wrote there; see `golden/gguf/make_gguf.py` for
//! generator, seed and tolerances.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use aligner_model::weights::gguf::{GgufFile, GgufSource, hf_config, import};
use aligner_model::{ModelError, load_dir};
use burn::tensor::Device;
use common::{assert_close, golden_dir, host, ids};
use serde_json::{Value, json};
use sha2::Digest;
use tokenizers::Tokenizer;

const MODELS: [&str; 6] = [
    "llama",
    "llama-rope-freqs",
    "llama-yarn",
    "qwen2",
    "qwen3",
    "gemma",
];
/// The types of `types.f32`, in order.
const TYPES: [&str; 11] = [
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K",
];

#[derive(serde::Deserialize)]
struct Golden {
    ids: Vec<u32>,
    last_two_logits: Vec<Vec<f64>>,
    rope: Value,
    texts: Vec<String>,
    token_ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

fn path(name: &str) -> PathBuf {
    golden_dir("gguf").join(name)
}

fn golden(model: &str) -> Golden {
    serde_json::from_slice(&std::fs::read(path(&format!("{model}.json"))).unwrap()).unwrap()
}

fn imported(model: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    import(&path(&format!("{model}.gguf")), dir.path(), false)
        .unwrap_or_else(|error| panic!("{model}: {error}"));
    dir
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn file_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_element_type_is_dequantized_to_the_same_bits() {
    let file = GgufFile::open(&path("types.gguf")).unwrap();
    let expected = std::fs::read(path("types.f32")).unwrap();
    let mut expected = expected.as_chunks::<4>().0.iter();
    for name in TYPES {
        let tensor = file.read_tensor(name).unwrap().unwrap();
        assert_eq!(file.tensors()[name].kind.name(), name);
        for (at, value) in tensor.values.iter().enumerate() {
            let bits = u32::from_le_bytes(*expected.next().unwrap());
            assert_eq!(value.to_bits(), bits, "{name}: element {at} is {value}");
        }
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn logits_equal_those_of_the_model_that_was_converted() {
    let device = Device::flex();
    for model in MODELS {
        let golden = golden(model);
        let dir = imported(model);
        let loaded = load_dir(dir.path(), &device).unwrap();
        let hidden = loaded.decoder.forward(ids(&[&golden.ids], &device), None);
        let logits = loaded.decoder.logits(hidden.narrow(1, golden.ids.len() - 2, 2));
        let expected: Vec<f32> = golden
            .last_two_logits
            .concat()
            .iter()
            .map(|&logit| logit as f32)
            .collect();
        assert_close(&host(logits), &expected, 1e-4, model);
    }
}

#[test]
fn rope_parameters_are_those_of_the_model_that_was_converted() {
    for model in MODELS {
        let golden = golden(model);
        let file = GgufFile::open(&path(&format!("{model}.gguf"))).unwrap();
        let parameters = hf_config(&file).unwrap()["rope_parameters"].clone();
        for (name, expected) in golden.rope.as_object().unwrap() {
            let equal = match (parameters[name].as_f64(), expected.as_f64()) {
                (Some(got), Some(expected)) => got == expected,
                _ => parameters[name] == *expected,
            };
            assert!(
                equal,
                "{model}: {name} is {} and not {expected}",
                parameters[name]
            );
        }
    }
}

#[test]
fn tokenizers_encode_and_decode_like_the_originals() {
    for model in MODELS {
        let golden = golden(model);
        let dir = imported(model);
        let tokenizer = Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
        let cases = golden.texts.iter().zip(&golden.token_ids).zip(&golden.decoded);
        for ((text, expected), decoded) in cases {
            let got = tokenizer.encode(text.as_str(), true).unwrap();
            assert_eq!(
                got.get_ids(),
                expected,
                "{model}: {text:?} {:?}",
                got.get_tokens()
            );
            let is_sentence_piece = ["llama", "gemma"].contains(&model);
            let got = tokenizer.decode(expected, is_sentence_piece).unwrap();
            assert_eq!(got, *decoded, "{model}");
        }
    }
}

#[test]
fn the_directory_is_complete_and_names_its_special_tokens() {
    let dir = imported("qwen2");
    let expected = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(file_names(dir.path()), expected);
    let config = read_json(&dir.path().join("tokenizer_config.json"));
    assert_eq!(
        (&config["bos_token"], &config["eos_token"]),
        (&json!("<|start|>"), &json!("<|end|>"))
    );
    assert_eq!(config["model_max_length"], 128);
    let template = std::fs::read_to_string(dir.path().join("chat_template.jinja")).unwrap();
    assert_eq!(config["chat_template"], template.as_str());
    let eos = read_json(&dir.path().join("config.json"))["eos_token_id"].clone();
    assert_eq!(
        read_json(&dir.path().join("generation_config.json"))["eos_token_id"],
        eos
    );
    // The row that only fills the embedding up is no token.
    let vocab = read_json(&dir.path().join("tokenizer.json"))["model"]["vocab"].clone();
    assert!(vocab.get("[PAD323]").is_none() && vocab.as_object().unwrap().len() == 323);
}

#[test]
fn a_model_is_overwritten_only_when_told_and_other_files_stay() {
    let dir = imported("qwen2");
    let file = path("gemma.gguf");
    assert!(matches!(
        import(&file, dir.path(), false),
        Err(ModelError::ModelExists(_))
    ));
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    std::fs::write(dir.path().join("aligner.json"), "{}").unwrap();
    let done = import(&file, dir.path(), true).unwrap();
    assert_eq!(
        (done.architecture.as_str(), done.has_manifest),
        ("GemmaForCausalLM", false)
    );
    // What spoke for the old model has gone: Gemma's file has no chat template.
    let expected = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "notes.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(file_names(dir.path()), expected);
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("notes.txt"), "mine").unwrap();
    for overwrite in [false, true] {
        let refused = import(&file, other.path(), overwrite);
        assert!(matches!(refused, Err(ModelError::NoModelDirectory(_))));
    }
    assert_eq!(file_names(other.path()), ["notes.txt"]);
}

#[test]
fn a_failed_import_leaves_nothing_behind() {
    let parent = tempfile::tempdir().unwrap();
    // Half a weight is no number: the last tensor of the file ends in NaN.
    let mut bytes = std::fs::read(path("gemma.gguf")).unwrap();
    let file = GgufFile::open(&path("gemma.gguf")).unwrap();
    let norm = file.read_tensor("output_norm.weight").unwrap().unwrap();
    let needle: Vec<u8> = norm.values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let at = bytes
        .windows(needle.len())
        .position(|window| window == needle)
        .unwrap();
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let damaged = parent.path().join("damaged.gguf");
    std::fs::write(&damaged, bytes).unwrap();
    let error = import(&damaged, &parent.path().join("out"), false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("output_norm.weight holds NaN"), "{error}");
    assert_eq!(file_names(parent.path()), ["damaged.gguf"]);
}

#[test]
fn what_a_killed_import_left_is_no_hindrance() {
    let parent = tempfile::tempdir().unwrap();
    let left = parent.path().join(".out.importing");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("model.safetensors.123.part"), "half").unwrap();
    import(&path("gemma.gguf"), &parent.path().join("out"), false).unwrap();
    assert_eq!(file_names(parent.path()), ["out"]);
}

#[test]
fn tensors_have_hugging_faces_names() {
    let source = GgufSource::open(&path("llama-rope-freqs.gguf")).unwrap();
    let names = aligner_model::weights::TensorSource::names(&source);
    assert!(names.contains(&"model.layers.1.self_attn.k_proj.bias".to_string()));
    assert!(names.iter().all(|name| name.starts_with("model.")), "{names:?}");
}

/// A golden with one more text in its metadata.
fn with_text(model: &str, key: &str, value: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    let bytes = std::fs::read(path(&format!("{model}.gguf"))).unwrap();
    std::fs::write(&file, added(bytes, key, value)).unwrap();
    (dir, file)
}

/// A file with a text before all other metadata. What fills the entry up keeps the data where alignment wants it: an
/// entry of its own, because a text must not change.
fn added(mut bytes: Vec<u8>, key: &str, value: &str) -> Vec<u8> {
    let entry = |key: &str, value: &str| {
        let mut entry = (key.len() as u64).to_le_bytes().to_vec();
        entry.extend(key.as_bytes());
        entry.extend(8u32.to_le_bytes());
        entry.extend((value.len() as u64).to_le_bytes());
        entry.extend(value.as_bytes());
        entry
    };
    let mut entries = entry(key, value);
    let with_empty = entries.len() + entry("filler", "").len();
    let missing = with_empty.next_multiple_of(32) - with_empty;
    entries.extend(entry("filler", &" ".repeat(missing)));
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 2;
    bytes[16..24].copy_from_slice(&count.to_le_bytes());
    bytes.splice(24..24, entries);
    bytes
}

#[test]
fn a_manifest_comes_back_with_the_hash_of_the_tokenizer_beside_it() {
    let text = r#"{"format_version": 1, "tokenizer_hash": "sha256:00", "stages": []}"#;
    let (dir, file) = with_text("qwen2", "aligner.manifest", text);
    let out = dir.path().join("out");
    assert!(import(&file, &out, false).unwrap().has_manifest);
    let manifest = read_json(&out.join("aligner.json"));
    let hash = sha2::Sha256::digest(std::fs::read(out.join("tokenizer.json")).unwrap());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(manifest["tokenizer_hash"], format!("sha256:{hash}"));
    assert_eq!(
        (&manifest["format_version"], &manifest["stages"]),
        (&json!(1), &json!([]))
    );
    let (_dir, file) = with_text("qwen2", "aligner.manifest", "no JSON");
    let error = import(&file, &dir.path().join("other"), false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("aligner.manifest is no JSON object"), "{error}");
}

#[test]
fn a_whole_tokenizer_in_the_file_is_taken_as_it_is() {
    let (dir, file) = with_text("qwen2", "tokenizer.huggingface.json", r#"{"version": "1.0"}"#);
    import(&file, &dir.path().join("out"), false).unwrap();
    let text = std::fs::read_to_string(dir.path().join("out/tokenizer.json")).unwrap();
    assert_eq!(text, r#"{"version": "1.0"}"#);
}

#[test]
fn every_known_pre_tokenizer_is_one_that_the_tokenizers_library_reads() {
    let known = with_pre("none-of-these").unwrap_err().to_string();
    let (_, known) = known.split_once("read are ").unwrap();
    let text = "It's 1234 DÉJÀ-vu,  \u{ff01}\u{4e2d}\u{6587}\r\n\n x  ";
    for name in known.split(", ") {
        let tokenizer = with_pre(name).unwrap();
        let ids = tokenizer.encode(text, false).unwrap();
        let decoded = tokenizer.decode(ids.get_ids(), false).unwrap();
        assert_eq!(decoded, text, "{name}");
    }
    assert!(known.split(", ").count() > 30);
}

/// The tokenizer of a golden whose pre-tokenizer has another name.
fn with_pre(name: &str) -> aligner_model::Result<Tokenizer> {
    let mut bytes = std::fs::read(path("qwen2.gguf")).unwrap();
    let key = b"tokenizer.ggml.pre\x08";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    // The golden's own gives way under a key that nobody reads.
    bytes[at..at + 18].copy_from_slice(b"tokenizer.ggml.old");
    let bytes = added(bytes, "tokenizer.ggml.pre", name);
    let file = GgufFile::from_reader(std::io::Cursor::new(bytes), Path::new("test.gguf"))?;
    let files = aligner_model::weights::gguf::tokenizer_files(&file)?;
    Ok(Tokenizer::from_bytes(files["tokenizer.json"].as_bytes()).unwrap())
}
