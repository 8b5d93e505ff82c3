//! The scorer: what it reads, in what words it asks the model, and what it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use aligner_data::synthetic::{CorrectionTask, train_tokenizer};
use aligner_data::{ChatFormat, DataError, PromptTemplate, Tokenizer, Turn};
use aligner_infer::{InferError, Input, Scorer};
use aligner_model::{
    CausalDecoder, LlamaShape, ModelConfig, ModelError, ScoreKind, ScoreModel, load_score_dir, save_dir,
};
use burn::tensor::Device;

/// A tokenizer and a small model with a new head, the same each time.
fn make(dir: &Path, kind: ScoreKind) -> Tokenizer {
    let rows = CorrectionTask::new(3).train(200);
    let tokenizer = train_tokenizer(&rows, &PromptTemplate::default(), 320, dir).unwrap();
    let shape = LlamaShape {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        max_positions: 128,
    };
    let device = Device::flex();
    let writes = ModelConfig::llama(shape)
        .unwrap()
        .with_token_ids(None, tokenizer.eos_id());
    let decoder = CausalDecoder::random(&writes, 9, &device).unwrap();
    let config = writes.into_score(kind);
    save_dir(&config, &decoder.with_new_score(&config, 9, &device), dir).unwrap();
    tokenizer
}

#[test]
fn a_score_is_that_of_the_conversation_with_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = make(dir.path(), ScoreKind::Cost);
    let scorer = Scorer::open(dir.path()).unwrap();
    assert_eq!(
        (scorer.kind(), scorer.chat()),
        (ScoreKind::Cost, &ChatFormat::SAFE_RLHF)
    );
    let history = [Turn {
        question: "Who has the map?".into(),
        answer: "Ada.".into(),
    }];
    let input = Input {
        question: "And the lamp?",
        answer: "Ben has <eos> it.",
        chat_history: &history,
    };
    let eos = tokenizer.eos_id();
    let mut ids = tokenizer
        .encode_target("BEGINNING OF CONVERSATION: USER: Who has the map? ASSISTANT:Ada.")
        .unwrap();
    ids.push(eos);
    ids.extend(
        tokenizer
            .encode_target("USER: And the lamp? ASSISTANT:Ben has <eos> it.")
            .unwrap(),
    );
    ids.push(eos);
    assert_eq!(
        ids.iter().filter(|&&id| id == eos).count(),
        2,
        "a text's own end is text"
    );
    let model = ScoreModel::new(load_score_dir(dir.path(), &Device::flex()).unwrap()).unwrap();
    let want = model.scores(&[&ids]).unwrap()[0][0];
    let got = scorer.score(input).unwrap();
    assert!((got - want).abs() < 1e-5, "{got} {want}");
}

#[test]
fn a_batch_of_many_threads_gives_what_each_answer_has_alone() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), ScoreKind::Reward);
    let scorer = Scorer::open(dir.path()).unwrap();
    let rows = CorrectionTask::new(7).held_out(150);
    let inputs: Vec<Input<'_>> = rows
        .iter()
        .map(|row| Input::new(&row.question, &row.answer))
        .collect();
    // More than one pass.
    let batch = scorer.score_batch(&inputs).unwrap();
    let alone: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = inputs
            .chunks(50)
            .map(|part| {
                let scorer = scorer.clone();
                scope.spawn(move || {
                    part.iter()
                        .map(|input| scorer.score(*input).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(batch, alone);
    assert!(batch.windows(2).any(|pair| pair[0] != pair[1]));
    assert!(scorer.score_batch(&[]).unwrap().is_empty());
}

#[test]
fn the_chat_template_beside_the_model_decides_the_words() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), ScoreKind::Reward);
    let input = Input::new("Is it raining?", "Yes.");
    let plain = Scorer::open(dir.path()).unwrap().score(input).unwrap();
    let template = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'}}{% endfor %}";
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let scorer = Scorer::open(dir.path()).unwrap();
    assert_eq!(scorer.chat().to_string(), "chatml");
    assert_ne!(scorer.score(input).unwrap(), plain);
    // What the model records counts more.
    let path = dir.path().join("config.json");
    let bare = std::fs::read(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&bare).unwrap();
    config["chat_format"] = "safe-rlhf".into();
    std::fs::write(&path, config.to_string()).unwrap();
    assert_eq!(Scorer::open(dir.path()).unwrap().score(input).unwrap(), plain);
    std::fs::write(&path, bare).unwrap();
    // And what one is told counts most.
    let told = Scorer::builder(dir.path())
        .chat(ChatFormat::SAFE_RLHF)
        .build()
        .unwrap();
    assert_eq!(told.score(input).unwrap(), plain);
    std::fs::write(
        dir.path().join("chat_template.jinja"),
        "[INST] {{ messages }} [/INST]",
    )
    .unwrap();
    let error = Scorer::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, InferError::Data(DataError::ChatFormat { .. })),
        "{error}"
    );
}

#[test]
fn what_cannot_be_scored_is_an_error_that_says_why() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), ScoreKind::Reward);
    let scorer = Scorer::open(dir.path()).unwrap();
    let long = "Ada has two apples. ".repeat(40);
    let inputs = [Input::new("q", "a"), Input::new("q", &long)];
    assert!(matches!(
        scorer.score_batch(&inputs),
        Err(InferError::ConversationTooLong {
            max_positions: 128,
            ..
        })
    ));
    let path = dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["architectures"] = serde_json::json!(["LlamaForCausalLM"]);
    std::fs::write(&path, config.to_string()).unwrap();
    assert!(matches!(
        Scorer::open(dir.path()),
        Err(InferError::Model(ModelError::NoScoreModel { .. }))
    ));
}
