//! Correction strength: what a vector changes, and that it is used with its own model alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use aligner_data::{AlignerManifest, PromptTemplate, Tokenizer};
use aligner_infer::{Corrector, InferError, Input, sign_steering};
use aligner_model::{
    CausalDecoder, DeviceSpec, LlamaShape, LoraAdapter, LoraConfig, ModelConfig, SteeringVector, load_dir,
    save_dir,
};
use common::BYTES_VOCAB;
use tempfile::TempDir;

const LAYERS: usize = 3;

/// An Aligner's directory, with random weights.
fn aligner(seed: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config = ModelConfig::llama(LlamaShape {
        vocab_size: BYTES_VOCAB,
        hidden_size: 32,
        intermediate_size: 48,
        layers: LAYERS,
        heads: 4,
        kv_heads: 2,
        max_positions: 512,
    })
    .unwrap();
    config.initializer_range = 0.2;
    let device = DeviceSpec::Cpu.open().unwrap();
    let decoder = CausalDecoder::random(&config, seed, &device).unwrap();
    save_dir(&config, &decoder, dir.path()).unwrap();
    let template = PromptTemplate::default();
    let tokenizer =
        aligner_data::synthetic::train_tokenizer(&[], &template, BYTES_VOCAB, dir.path()).unwrap();
    let manifest = AlignerManifest::new(template, tokenizer.hash(), "random");
    manifest.write(dir.path()).unwrap();
    dir
}

/// A vector in the directory, as `aligner steer fit` leaves it.
fn fitted(dir: &Path, base: Option<&Path>) -> SteeringVector {
    let corrector = Corrector::open(dir).unwrap();
    let values = (0..32).map(|at| (at * 7 % 11) as f32 / 5.0 - 1.0).collect();
    let mut vector = SteeringVector {
        layers: BTreeMap::from([(1, values)]),
        facts: BTreeMap::new(),
    };
    sign_steering(&mut vector, dir, base, corrector.template()).unwrap();
    vector.write(dir).unwrap();
    vector
}

#[test]
fn strengths_are_points_on_a_line_through_the_model_as_it_was_trained() {
    let dir = aligner(3);
    let plain = Corrector::open(dir.path()).unwrap();
    let vector = fitted(dir.path(), None);
    let score = |corrector: &Corrector| {
        corrector
            .score(Input::new("Is it?", "It is."), "It is not.")
            .unwrap()
            .token_logprobs
    };
    let one = Corrector::builder(dir.path()).strength(1.0).build().unwrap();
    assert_eq!(score(&one), score(&plain));
    for strength in [0.0, 0.5, 1.5] {
        let opened = Corrector::builder(dir.path()).strength(strength).build().unwrap();
        let shared = plain.with_strength(&vector, strength).unwrap();
        assert_eq!(score(&opened), score(&shared));
        assert_ne!(score(&opened), score(&plain), "{strength}");
        // Strength is not added up.
        assert_eq!(score(&shared.with_strength(&vector, 1.0).unwrap()), score(&plain));
    }
    for strength in [-0.1, 1.6, f64::NAN, f64::INFINITY] {
        let error = Corrector::builder(dir.path())
            .strength(strength)
            .build()
            .unwrap_err()
            .to_string();
        assert!(error.contains("from 0 to 1.5"), "{error}");
        assert!(plain.with_strength(&vector, strength).is_err());
    }
}

#[test]
fn a_model_without_a_vector_says_how_to_make_one() {
    let dir = aligner(3);
    let error = Corrector::builder(dir.path()).strength(0.5).build().unwrap_err();
    assert!(matches!(error, InferError::NoSteering(_)));
    assert!(error.to_string().contains("aligner steer fit"), "{error}");
    Corrector::builder(dir.path()).strength(1.0).build().unwrap();
}

#[test]
fn a_vector_is_used_with_its_own_weights_and_template_alone() {
    let dir = aligner(3);
    fitted(dir.path(), None);
    let other = aligner(4);
    let file = "steering.safetensors";
    std::fs::copy(dir.path().join(file), other.path().join(file)).unwrap();
    let error = Corrector::builder(other.path())
        .strength(0.5)
        .build()
        .unwrap_err()
        .to_string();
    assert!(error.contains("its weights is not this one's"), "{error}");
    let template = PromptTemplate::builtin("revision").unwrap();
    let builder = Corrector::builder(dir.path()).template(template).allow_mismatch();
    let error = builder.strength(0.5).build().unwrap_err().to_string();
    assert!(error.contains("its template is not this one's"), "{error}");
}

#[test]
fn an_adapter_has_a_vector_of_its_own() {
    let base = aligner(3);
    let device = DeviceSpec::Cpu.open().unwrap();
    let decoder = load_dir(base.path(), &device).unwrap().decoder;
    let config = LoraConfig {
        rank: 2,
        ..LoraConfig::default()
    };
    let mut adapter = LoraAdapter::new(&config, &decoder, 5).unwrap();
    for layer in adapter.layers.values_mut() {
        layer.b.values.fill(0.05);
    }
    adapter.base_model = Some(base.path().display().to_string());
    let dir = tempfile::tempdir().unwrap();
    adapter.write(dir.path()).unwrap();
    let tokenizer = Tokenizer::from_dir(base.path()).unwrap();
    let manifest = AlignerManifest::new(PromptTemplate::default(), tokenizer.hash(), "base");
    manifest.write(dir.path()).unwrap();
    // The base's vector is not the adapter's.
    let of_base = fitted(base.path(), None);
    let open = || Corrector::builder(dir.path()).strength(0.5).build();
    assert!(matches!(open().unwrap_err(), InferError::NoSteering(_)));
    let vector = fitted(dir.path(), Some(base.path()));
    let score = |corrector: &Corrector| corrector.score(Input::new("Q", "A"), "B").unwrap().logprob;
    let opened = score(&open().unwrap());
    let plain = Corrector::open(dir.path()).unwrap();
    assert_eq!(opened, score(&plain.with_strength(&vector, 0.5).unwrap()));
    assert_ne!(opened, score(&plain));
    // Over the base, chosen by name.
    let named = Corrector::builder(base.path())
        .adapter("own", dir.path())
        .strength(0.5)
        .build()
        .unwrap();
    assert_eq!(score(&named.adapter("own").unwrap()), opened);
    // At another strength of the base the adapter is there as it was.
    let stronger = named.with_strength(&of_base, 1.5).unwrap();
    assert_ne!(score(&stronger), score(&named));
    assert_eq!(score(&stronger.adapter("own").unwrap()), opened);
    // Over another base it is another model.
    let other = aligner(4);
    let error = Corrector::builder(dir.path())
        .base(other.path())
        .strength(0.5)
        .build()
        .unwrap_err()
        .to_string();
    assert!(error.contains("base_weights"), "{error}");
}
