//! Damaged tokenizer files end in one clear error.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use aligner_data::synthetic::{CorrectionTask, train_tokenizer};
use aligner_data::{PromptTemplate, Tokenizer};
use proptest::prelude::*;
use proptest::sample::Index;

fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = CorrectionTask::new(3).train(20);
    train_tokenizer(&rows, &PromptTemplate::default(), 300, dir.path()).unwrap();
    dir
}

fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

fn error_of(change: impl FnOnce(&Path)) -> String {
    let dir = dir();
    change(dir.path());
    Tokenizer::from_dir(dir.path()).unwrap_err().to_string()
}

#[test]
fn an_end_of_sequence_token_that_the_vocabulary_does_not_have() {
    let error = error_of(|dir| {
        edit(&dir.join("tokenizer_config.json"), |config| {
            config["eos_token"] = "<nowhere>".into()
        });
    });
    assert!(
        error.contains("\"<nowhere>\" is not in the vocabulary"),
        "{error}"
    );
    let of_id = |id: serde_json::Value| {
        error_of(|dir| {
            edit(&dir.join("tokenizer_config.json"), |config| {
                config["eos_token"] = serde_json::Value::Null
            });
            std::fs::write(
                dir.join("generation_config.json"),
                serde_json::json!({"eos_token_id": id}).to_string(),
            )
            .unwrap();
        })
    };
    let error = of_id(70_000.into());
    assert!(
        error.contains("eos_token_id 70000 is not in the vocabulary"),
        "{error}"
    );
    // 2³² + 1 is not token 1.
    let error = of_id(4_294_967_297u64.into());
    assert!(error.contains("no end-of-sequence token"), "{error}");
}

#[test]
fn files_that_are_none() {
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let error = error_of(|dir| std::fs::write(dir.join(name), "[".repeat(100_000)).unwrap());
        assert!(
            error.contains("JSON") || error.contains("invalid type") || error.contains("recursion"),
            "{name}: {error}"
        );
        let error = error_of(|dir| {
            std::fs::remove_file(dir.join(name)).unwrap();
            std::fs::create_dir(dir.join(name)).unwrap();
        });
        assert!(
            error.contains(name) && error.contains("is not a file"),
            "{name}: {error}"
        );
    }
    let error = error_of(|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap());
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn a_tokenizer_that_panics_when_read_or_used_is_an_error() {
    // A table of four bytes whose only entry points far behind them.
    let outside = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "BAAAAP////9hYmMA"});
    let missing = serde_json::json!({"type": "Precompiled"});
    let error = error_of(|dir| edit(&dir.join("tokenizer.json"), |json| json["normalizer"] = missing));
    assert!(error.contains("contradict"), "{error}");
    let dir = dir();
    edit(&dir.path().join("tokenizer.json"), |json| {
        json["normalizer"] = outside
    });
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let error = tokenizer.encode_target("What is 2 + 2?").unwrap_err().to_string();
    assert!(error.contains("contradict"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_changed_tokenizer_ends_in_a_tokenizer_or_an_error(
        places in prop::collection::vec((any::<Index>(), any::<u8>(), 0usize..30), 1..4),
    ) {
        let dir = dir();
        let path = dir.path().join("tokenizer.json");
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, value, removed) in places {
            let at = at.index(bytes.len());
            bytes.splice(at..(at + removed).min(bytes.len()), [value]);
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_dir(dir.path()) {
            let ids = tokenizer.encode_prompt(&PromptTemplate::default(), "What is 2 + 2?", "5 \u{1f600}", &[]);
            let _ = ids.and_then(|ids| tokenizer.decode(&ids));
        }
    }
}
