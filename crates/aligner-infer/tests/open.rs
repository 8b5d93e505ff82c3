//! A corrector from a directory, with a tiny decoder of random weights.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use aligner_data::synthetic::train_tokenizer;
use aligner_data::{AlignerManifest, PromptTemplate, Tokenizer};
use aligner_infer::{CausalLm, CorrectOptions, Corrector, DecoderLm, InferError, Input};
use aligner_model::{
    CausalDecoder, DeviceSpec, LlamaShape, LoraAdapter, LoraConfig, ModelConfig, load_dir, save_dir,
};
use burn::tensor::{Int, Tensor, TensorData};
use common::{BYTES_VOCAB, log_softmax, template};
use tempfile::TempDir;

/// A model directory; `aligner.json` comes from [`sign`].
fn model_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ModelConfig::llama(LlamaShape {
        vocab_size: BYTES_VOCAB,
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        max_positions: 1024,
    })
    .unwrap();
    // Ten times the usual deviation: scores differ by far more than rounding does.
    config.initializer_range = 0.2;
    let device = DeviceSpec::Cpu.open().unwrap();
    save_dir(
        &config,
        &CausalDecoder::random(&config, 3, &device).unwrap(),
        dir.path(),
    )
    .unwrap();
    train_tokenizer(&[], &PromptTemplate::default(), BYTES_VOCAB, dir.path()).unwrap();
    dir
}

fn sign(dir: &Path, template: PromptTemplate) {
    let tokenizer = Tokenizer::from_dir(dir).unwrap();
    AlignerManifest::new(template, tokenizer.hash(), "random")
        .write(dir)
        .unwrap();
}

fn decoder(dir: &Path) -> (DecoderLm, CausalDecoder) {
    let device = DeviceSpec::Cpu.open().unwrap();
    let loaded = load_dir(dir, &device).unwrap();
    let decoder = loaded.decoder.clone();
    (DecoderLm::new(loaded, device), decoder)
}

/// Scores behind every token, in one pass and without a cache.
fn uncached(decoder: &CausalDecoder, ids: &[u32]) -> Vec<Vec<f32>> {
    let device = DeviceSpec::Cpu.open().unwrap();
    let values: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let input = Tensor::<2, Int>::from_data(TensorData::new(values, [1, ids.len()]), &device);
    let scores: Vec<f32> = decoder
        .logits(decoder.forward(input, None))
        .try_into_vec_as()
        .unwrap();
    scores.chunks(BYTES_VOCAB).map(<[f32]>::to_vec).collect()
}

fn assert_close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let worst = got
        .iter()
        .zip(want)
        .map(|(got, want)| (got - want).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-4, "largest difference {worst}");
}

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|index| index * 37 % BYTES_VOCAB as u32).collect()
}

#[test]
fn a_directory_that_does_not_name_its_template_says_so_until_it_is_given() {
    let dir = model_dir();
    let error = Corrector::open(dir.path()).unwrap_err();
    assert!(matches!(error, InferError::NoTemplate(_)));
    let text = error.to_string();
    assert!(
        text.contains(dir.path().to_str().unwrap()) && text.contains("--template"),
        "{text}"
    );
    let corrector = Corrector::builder(dir.path())
        .template(template())
        .build()
        .unwrap();
    assert_eq!(corrector.template(), &template());
}

#[test]
fn the_recorded_template_is_used() {
    let dir = model_dir();
    sign(dir.path(), template());
    let corrector = Corrector::open(dir.path()).unwrap();
    assert_eq!(corrector.template(), &template());
    let options = CorrectOptions {
        max_new_tokens: 2,
        ..CorrectOptions::default()
    };
    assert_eq!(
        corrector.correct("Q", "A", &options).unwrap().usage.prompt_tokens,
        4
    );
}

#[test]
fn another_template_is_an_error_with_both_fingerprints_unless_asked_for() {
    let dir = model_dir();
    sign(dir.path(), template());
    let other = PromptTemplate::builtin("edit").unwrap();
    let builder = Corrector::builder(dir.path()).template(other.clone());
    let error = builder.clone().build().unwrap_err().to_string();
    assert!(
        error.contains(&other.fingerprint()) && error.contains(&template().fingerprint()),
        "{error}"
    );
    assert_eq!(builder.allow_mismatch().build().unwrap().template(), &other);
}

#[test]
fn the_same_template_under_another_name_is_the_same() {
    let dir = model_dir();
    sign(dir.path(), template());
    let renamed = PromptTemplate::custom("renamed", template().text()).unwrap();
    assert!(Corrector::builder(dir.path()).template(renamed).build().is_ok());
}

#[test]
fn a_tokenizer_of_another_model_is_an_error_unless_asked_for() {
    let dir = model_dir();
    AlignerManifest::new(template(), "sha256:00", "random")
        .write(dir.path())
        .unwrap();
    let error = Corrector::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, InferError::WrongTokenizer { recorded, .. } if recorded == "sha256:00"),
        "{error}"
    );
    assert!(Corrector::builder(dir.path()).allow_mismatch().build().is_ok());
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    for (file, content) in [
        ("tokenizer.json", None),
        ("config.json", None),
        ("model.safetensors", None),
        ("tokenizer.json", Some("{")),
        ("config.json", Some("[]")),
        ("model.safetensors", Some("damaged")),
        ("aligner.json", Some("{}")),
    ] {
        let dir = model_dir();
        sign(dir.path(), template());
        let path = dir.path().join(file);
        match content {
            None => std::fs::remove_file(path).unwrap(),
            Some(content) => std::fs::write(path, content).unwrap(),
        }
        let error = Corrector::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(dir.path().to_str().unwrap()),
            "{file} {content:?}: {error}"
        );
    }
    assert!(
        Corrector::open("/no/such/model")
            .unwrap_err()
            .to_string()
            .contains("/no/such/model")
    );
}

#[test]
fn greedy_is_the_highest_score_of_uncached_passes() {
    let dir = model_dir();
    sign(dir.path(), template());
    let (_, decoder) = decoder(dir.path());
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let options = CorrectOptions {
        max_new_tokens: 20,
        ..CorrectOptions::default()
    };
    let correction = Corrector::open(dir.path())
        .unwrap()
        .correct("Is it?", "It is.", &options)
        .unwrap();
    let mut sequence = tokenizer
        .encode_prompt(&template(), "Is it?", "It is.", &[])
        .unwrap();
    for &id in &correction.ids {
        let scores = uncached(&decoder, &sequence).pop().unwrap();
        assert!(
            scores.iter().all(|&score| score <= scores[id as usize] + 1e-4),
            "after {} tokens",
            sequence.len()
        );
        sequence.push(id);
    }
    assert!(!correction.ids.is_empty());
}

#[test]
fn a_score_in_chunks_is_that_of_one_pass() {
    let dir = model_dir();
    sign(dir.path(), template());
    let (_, decoder) = decoder(dir.path());
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let (answer, text) = ("answer ".repeat(80), "correction ".repeat(16));
    let score = Corrector::open(dir.path())
        .unwrap()
        .score(Input::new("Q", &answer), &text)
        .unwrap();
    let prompt = tokenizer.encode_prompt(&template(), "Q", &answer, &[]).unwrap();
    assert!(
        prompt.len() > 512 && score.tokens > 128,
        "both are longer than a chunk"
    );
    let target = [tokenizer.encode_target(&text).unwrap(), vec![tokenizer.eos_id()]].concat();
    let scores = uncached(&decoder, &[prompt.clone(), target.clone()].concat());
    for (index, (&got, &id)) in score.token_logprobs.iter().zip(&target).enumerate() {
        let want = log_softmax(&scores[prompt.len() - 1 + index], id);
        assert!((got - want).abs() < 1e-4, "token {index}: {got} {want}");
    }
}

#[test]
fn passes_in_pieces_are_one_pass() {
    let dir = model_dir();
    let (model, decoder) = decoder(dir.path());
    let ids = ids(40);
    let want = uncached(&decoder, &ids);
    let mut cache = model.new_cache(ids.len()).unwrap();
    let mut start = 0;
    for (tokens, keep) in [(7, 7), (1, 1), (20, 0), (2, 1), (10, 3)] {
        let scores = model
            .forward(&ids[start..start + tokens], &mut cache, keep)
            .unwrap();
        start += tokens;
        assert_eq!(model.cache_len(&cache), start);
        assert_close(&scores, &want[start - keep..start].concat());
    }
    assert_eq!(start, ids.len());
}

#[test]
fn forgotten_tokens_leave_no_trace() {
    let dir = model_dir();
    let (model, decoder) = decoder(dir.path());
    let ids = ids(12);
    let mut cache = model.new_cache(20).unwrap();
    model.forward(&ids[..9], &mut cache, 0).unwrap();
    model.forward(&[200, 201, 202, 203], &mut cache, 4).unwrap();
    model.truncate(&mut cache, 9);
    assert_eq!(model.cache_len(&cache), 9);
    let scores = model.forward(&ids[9..], &mut cache, 3).unwrap();
    assert_close(&scores, &uncached(&decoder, &ids)[9..].concat());
}

/// An adapter that changes much, over the model in `base`, with its own template.
fn adapter_dir(base: &Path, seed: u64, template: Option<PromptTemplate>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (_, decoder) = decoder(base);
    let config = LoraConfig {
        rank: 2,
        ..LoraConfig::default()
    };
    let mut adapter = LoraAdapter::new(&config, &decoder, seed).unwrap();
    for weights in adapter.layers.values_mut() {
        let values = &mut weights.b.values;
        let count = values.len() as u64;
        values
            .iter_mut()
            .zip(0u64..)
            .for_each(|(value, index)| *value = ((index * 31 + seed) % count) as f32 / count as f32 - 0.5);
    }
    adapter.base_model = Some(base.to_string_lossy().into_owned());
    adapter.write(dir.path()).unwrap();
    if let Some(template) = template {
        let tokenizer = Tokenizer::from_dir(base).unwrap();
        AlignerManifest::new(template, tokenizer.hash(), "random")
            .write(dir.path())
            .unwrap();
    }
    dir
}

fn short() -> CorrectOptions {
    CorrectOptions {
        max_new_tokens: 12,
        ..CorrectOptions::default()
    }
}

#[test]
fn an_adapters_directory_opens_over_the_base_it_names() {
    let base = model_dir();
    let adapter = adapter_dir(base.path(), 1, Some(template()));
    let corrector = Corrector::open(adapter.path()).unwrap();
    let (_, decoder) = decoder(base.path());
    let merged = decoder
        .merged(&LoraAdapter::read(adapter.path()).unwrap())
        .unwrap();
    let got = corrector.score(Input::new("Q", "A"), "correction").unwrap();
    let other_dir = tempfile::tempdir().unwrap();
    let config = ModelConfig::read(base.path()).unwrap();
    save_dir(&config, &merged, other_dir.path()).unwrap();
    Tokenizer::from_dir(base.path())
        .unwrap()
        .save_to(other_dir.path())
        .unwrap();
    sign(other_dir.path(), template());
    let merged = Corrector::open(other_dir.path()).unwrap();
    let want = merged.score(Input::new("Q", "A"), "correction").unwrap();
    assert!((got.logprob - want.logprob).abs() < 1e-3, "{got:?} {want:?}");
    sign(base.path(), template());
    let bare = Corrector::open(base.path()).unwrap();
    let bare = bare.score(Input::new("Q", "A"), "correction").unwrap();
    assert!(
        (got.logprob - bare.logprob).abs() > 0.1,
        "the adapter changes something"
    );
}

#[test]
fn several_adapters_over_one_base_are_chosen_by_request_and_answer_as_alone() {
    let base = model_dir();
    sign(base.path(), template());
    let dirs = [1, 2].map(|seed| adapter_dir(base.path(), seed, Some(template())));
    let together = Corrector::builder(base.path())
        .adapter("one", dirs[0].path())
        .adapter("two", dirs[1].path())
        .build()
        .unwrap();
    assert_eq!(together.adapters().collect::<Vec<_>>(), ["one", "two"]);
    let mut texts = Vec::new();
    for (name, dir) in ["one", "two"].into_iter().zip(&dirs) {
        let alone = Corrector::open(dir.path())
            .unwrap()
            .correct("Q", "A", &short())
            .unwrap();
        let chosen = together
            .adapter(name)
            .unwrap()
            .correct("Q", "A", &short())
            .unwrap();
        assert_eq!(chosen.ids, alone.ids, "{name}");
        texts.push(chosen.ids);
    }
    let bare = Corrector::open(base.path())
        .unwrap()
        .correct("Q", "A", &short())
        .unwrap();
    assert_eq!(together.correct("Q", "A", &short()).unwrap().ids, bare.ids);
    assert!(
        texts[0] != texts[1] && texts[0] != bare.ids,
        "the adapters differ"
    );
    let error = together.adapter("three").unwrap_err().to_string();
    assert!(
        error.contains("\"three\"") && error.contains("one, two"),
        "{error}"
    );
}

#[test]
fn each_adapter_keeps_its_own_template_and_a_base_needs_none() {
    let base = model_dir();
    let edit = PromptTemplate::builtin("edit").unwrap();
    let dirs = [
        adapter_dir(base.path(), 1, Some(edit.clone())),
        adapter_dir(base.path(), 2, Some(template())),
    ];
    let corrector = Corrector::builder(base.path())
        .adapter("b", dirs[0].path())
        .adapter("a", dirs[1].path())
        .build()
        .unwrap();
    assert_eq!(corrector.adapter("a").unwrap().template(), &template());
    assert_eq!(
        corrector.template(),
        &edit,
        "the first that was given stands in for the base"
    );
    let unsigned = adapter_dir(base.path(), 3, None);
    let error = Corrector::builder(base.path())
        .adapter("c", unsigned.path())
        .build()
        .unwrap_err();
    assert!(matches!(error, InferError::NoTemplate(_)), "{error}");
}

#[test]
fn an_adapter_whose_base_is_not_there_says_what_to_do() {
    let base = model_dir();
    let adapter = adapter_dir(base.path(), 1, Some(template()));
    let moved = tempfile::tempdir().unwrap();
    let place = moved.path().join("moved");
    std::fs::rename(base.path(), &place).unwrap();
    let error = Corrector::open(adapter.path()).unwrap_err().to_string();
    assert!(error.contains(base.path().to_str().unwrap()), "{error}");
    Corrector::builder(adapter.path()).base(&place).build().unwrap();
}
