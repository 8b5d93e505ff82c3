//! Drafts and batches on a tiny decoder of random weights: what comes out does not depend on what goes through it together.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::thread;

use aligner_data::PromptTemplate;
use aligner_data::synthetic::train_tokenizer;
use aligner_infer::{BatchOptions, CausalLm, CorrectOptions, Corrector, Draft, Input, SamplingParams};
use aligner_model::{
    CausalDecoder, DeviceSpec, LlamaShape, LoraAdapter, LoraConfig, ModelConfig, load_dir, save_dir,
};
use common::{BYTES_VOCAB, template};

/// A directory with a model and its tokenizer.
fn model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let shape = LlamaShape {
        vocab_size: BYTES_VOCAB,
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        max_positions: 1024,
    };
    let mut config = ModelConfig::llama(shape).unwrap();
    // Ten times the usual deviation: scores differ by far more than rounding does.
    config.initializer_range = 0.2;
    let device = DeviceSpec::Cpu.open().unwrap();
    let decoder = CausalDecoder::random(&config, 3, &device).unwrap();
    save_dir(&config, &decoder, dir.path()).unwrap();
    train_tokenizer(&[], &PromptTemplate::default(), BYTES_VOCAB, dir.path()).unwrap();
    dir
}

/// A corrector of that model, and of an adapter over it that changes what it writes.
fn corrector() -> Corrector {
    let (dir, adapter_dir) = (model_dir(), tempfile::tempdir().unwrap());
    let decoder = load_dir(dir.path(), &DeviceSpec::Cpu.open().unwrap())
        .unwrap()
        .decoder;
    let mut adapter = LoraAdapter::new(&LoraConfig::default(), &decoder, 5).unwrap();
    for weights in adapter.layers.values_mut() {
        let values = weights.b.values.iter_mut().enumerate();
        values.for_each(|(index, value)| *value = (index * 31 % 64) as f32 / 64.0 - 0.5);
    }
    adapter.write(adapter_dir.path()).unwrap();
    Corrector::builder(dir.path())
        .template(template())
        .adapter("other", adapter_dir.path())
        .build()
        .unwrap()
}

fn options(number: usize, draft: Draft, prediction: Option<String>) -> CorrectOptions {
    CorrectOptions {
        max_new_tokens: 40,
        sampling: SamplingParams {
            temperature: [0.0, 0.8][number % 2],
            seed: number as u64,
            ..SamplingParams::default()
        },
        draft,
        prediction,
        ..CorrectOptions::default()
    }
}

#[test]
fn drafts_right_and_wrong_leave_the_text_as_it_is() {
    let corrector = corrector();
    for number in 0..12 {
        let question = format!("Question {number}?");
        let correct = |draft, prediction| {
            let answer = "An answer of some length that is about something.";
            corrector
                .correct(&question, answer, &options(number, draft, prediction))
                .unwrap()
        };
        let plain = correct(Draft::Off, None);
        for longest in [1, 3, 7, 30] {
            let wrong = correct(Draft::Always(longest), None);
            assert_eq!(wrong.ids, plain.ids, "request {number}, drafts of {longest}");
            assert!(wrong.usage.draft_proposed > 0);
        }
        assert_eq!(correct(Draft::Auto, None).ids, plain.ids);
        // Random bytes are not always text that gives the same bytes again.
        let text = corrector.tokenizer().encode_target(&plain.text).unwrap();
        if plain.ids.starts_with(&text) && text.len() > 5 {
            let right = correct(Draft::Always(9), Some(plain.text.clone()));
            assert_eq!(right.ids, plain.ids);
            assert!(right.usage.draft_accepted > 4, "{:?}", right.usage);
        }
    }
}

#[test]
fn a_batch_gives_each_what_it_would_get_alone_adapters_included() {
    let base = corrector();
    let correctors = [base.clone(), base.adapter("other").unwrap()];
    let inputs: Vec<(String, String)> = (0..24)
        .map(|number| (format!("Question {number}?"), "Some answer. ".repeat(number % 9)))
        .collect();
    let modes = [Draft::Auto, Draft::Off, Draft::Always(4)];
    let options = |number: usize| options(number, modes[number % 3], None);
    let alone: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(number, (question, answer))| {
            let corrector = &correctors[number / 3 % 2];
            corrector.correct(question, answer, &options(number)).unwrap()
        })
        .collect();
    let of = |corrector: &Corrector| corrector.correct("Q", "A", &options(0)).unwrap().ids;
    assert_ne!(
        of(&correctors[0]),
        of(&correctors[1]),
        "the adapter writes something else"
    );
    // Memory for about ten, and prompts in small parts.
    let batcher = base.batcher(BatchOptions {
        kv_memory_bytes: 10 * base.model().cache_bytes(160),
        prefill_tokens: 16,
        ..BatchOptions::default()
    });
    let batchers = [batcher.clone(), batcher.adapter("other").unwrap()];
    let together: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = inputs
            .iter()
            .enumerate()
            .map(|(number, (question, answer))| {
                let batcher = &batchers[number / 3 % 2];
                scope.spawn(move || {
                    batcher
                        .correct(Input::new(question, answer), &options(number))
                        .unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (number, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert_eq!(
            (&together.text, &together.ids),
            (&alone.text, &alone.ids),
            "request {number}"
        );
    }
}
