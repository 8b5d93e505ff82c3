//! Drafts and batches on a tiny decoder of random weights: what comes out does not depend on what goes through it together.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::thread;

use aligner_data::PromptTemplate;
use aligner_data::synthetic::train_tokenizer;
use aligner_infer::{
    BatchOptions, CancelToken, CausalLm, CorrectOptions, Corrector, DecoderLm, Draft, Drafting, FinishReason,
    InferError, Input, Request, SamplingParams, generate,
};
use aligner_model::{
    CausalDecoder, DeviceSpec, KvFormat, LlamaShape, LoraAdapter, LoraConfig, ModelConfig, RuntimeWeights,
    load_dir, save_dir,
};
use common::{BYTES_VOCAB, template};

/// A directory with a model and its tokenizer.
fn model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let shape = LlamaShape {
        vocab_size: BYTES_VOCAB,
        hidden_size: 128,
        intermediate_size: 192,
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
    corrector_with(KvFormat::F32)
}

fn corrector_with(format: KvFormat) -> Corrector {
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
        .kv_format(format)
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
    let formats = [KvFormat::F32, KvFormat::F16].map(corrector_with);
    for number in 0..24 {
        let corrector = &formats[number / 12];
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
    [KvFormat::F32, KvFormat::F16]
        .map(corrector_with)
        .into_iter()
        .for_each(batch_gives_what_each_gets_alone);
}

fn batch_gives_what_each_gets_alone(base: Corrector) {
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

#[test]
fn keys_and_values_are_halves_beside_rounded_weights_or_where_they_are_asked_for() {
    let dir = model_dir();
    let bytes = |weights, format: Option<KvFormat>| {
        let mut builder = Corrector::builder(dir.path())
            .template(template())
            .weights(weights);
        if let Some(format) = format {
            builder = builder.kv_format(format);
        }
        builder.build().unwrap().model().cache_bytes(100)
    };
    let whole = bytes(RuntimeWeights::F32, None);
    for weights in [RuntimeWeights::Bf16, RuntimeWeights::Q8, RuntimeWeights::Q4] {
        assert_eq!(2 * bytes(weights, None), whole, "{weights}");
        assert_eq!(bytes(weights, Some(KvFormat::F32)), whole, "{weights}");
    }
    assert_eq!(2 * bytes(RuntimeWeights::F32, Some(KvFormat::F16)), whole);
}

#[test]
fn a_prompt_longer_than_a_part_is_taken_in_by_parts_alone_and_in_a_batch() {
    let corrector = corrector();
    let answer = "An answer that is long. ".repeat(30);
    let options = options(0, Draft::Off, None);
    let alone = corrector.correct("Q", &answer, &options).unwrap();
    assert!(alone.usage.prompt_tokens > 600, "{:?}", alone.usage);
    let batcher = corrector.batcher(BatchOptions::default());
    assert_eq!(
        batcher.correct(Input::new("Q", &answer), &options).unwrap().ids,
        alone.ids
    );
    // Parts of other sizes, with scores behind each token.
    let prompt = corrector
        .tokenizer()
        .encode_prompt(corrector.template(), "Q", &answer, &[])
        .unwrap();
    let lm = corrector.model();
    let mut cache = lm.new_cache(prompt.len()).unwrap();
    let mut last = Vec::new();
    for part in prompt.chunks(100) {
        last = lm.forward(part, &mut cache, part.len()).unwrap();
    }
    let last = &last[last.len() - BYTES_VOCAB..];
    let best = (0..BYTES_VOCAB)
        .max_by(|&a, &b| last[a].total_cmp(&last[b]))
        .unwrap();
    assert_eq!(best as u32, alone.ids[0]);
}

/// Under these scalings longer sequences are rotated otherwise, and keys that are in a cache are not.
#[test]
fn the_context_ends_where_the_rotation_would_change() {
    for variant in ["llama-dynamic", "phi3-longrope"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aligner-model/tests/golden");
        let device = DeviceSpec::Cpu.open().unwrap();
        let lm = DecoderLm::new(load_dir(&golden.join(variant), &device).unwrap(), device);
        let generated = |prompt: &[u32], mode| {
            let request = Request {
                prompt,
                sampling: SamplingParams::default(),
                stop_ids: &[],
                max_new_tokens: 100,
                cancel: CancelToken::default(),
                drafting: Drafting {
                    mode,
                    ..Drafting::default()
                },
            };
            generate(&lm, &request, |_| Ok(ControlFlow::Continue(())))
        };
        // Each token by a pass over all before it.
        let prompt: Vec<u32> = (0..19).map(|place| 3 + place * 7 % 58).collect();
        let mut whole = prompt.clone();
        while whole.len() < 24 {
            let mut cache = lm.new_cache(whole.len()).unwrap();
            let scores = lm.forward(&whole, &mut cache, 1).unwrap();
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            whole.push(best.unwrap() as u32);
        }
        for mode in [Draft::Off, Draft::Always(3)] {
            let generated = generated(&prompt, mode).unwrap();
            assert_eq!(generated.ids, whole[prompt.len()..], "{variant}");
            assert_eq!(generated.finish_reason, FinishReason::Length);
        }
        let error = generated(&whole, Draft::Off).unwrap_err();
        assert!(
            matches!(
                error,
                InferError::PromptTooLong {
                    max_positions: 24,
                    ..
                }
            ),
            "{error}"
        );
    }
}
