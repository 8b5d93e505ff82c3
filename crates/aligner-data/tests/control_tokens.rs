//! Control tokens that a user spells stay text, whatever kind of tokenizer a model has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use aligner_data::{PromptTemplate, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A tokenizer of parts that are written down here.
fn tokenizer(model: Value, pre_tokenizer: Value, decoder: Value, added: &[(u32, &str, bool)]) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let added: Vec<Value> = added
        .iter()
        .map(|(id, content, special)| {
            json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model,
    });
    std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
    let config = json!({"eos_token": "</s>"});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::from_dir(dir.path()).unwrap()
}

/// Letters and the marks that control tokens are written with.
fn letters() -> Vec<String> {
    "abcdefghijklmnopqrstuvwxyz<>/|[]_▁SEP."
        .chars()
        .map(String::from)
        .collect()
}

/// A model that finds `</s>` among its own words, as those converted from SentencePiece's Unigram do.
fn unigram() -> Tokenizer {
    let mut vocab = vec![json!(["<unk>", 0.0]), json!(["<s>", 0.0]), json!(["</s>", 0.0])];
    vocab.extend(letters().iter().map(|letter| json!([letter, -5.0])));
    let model = json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false});
    let metaspace =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false});
    tokenizer(
        model,
        metaspace.clone(),
        metaspace,
        &[(0, "<unk>", true), (1, "<s>", true), (2, "</s>", true)],
    )
}

/// A list of words, with `[SEP]` among them.
fn word_level() -> Tokenizer {
    let words = ["[UNK]", "[SEP]", "</s>", "a", "b", "[", "SEP]", "<", "/s>"];
    let vocab: Value = words
        .iter()
        .enumerate()
        .map(|(id, word)| (word.to_string(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    tokenizer(
        json!({"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}),
        json!({"type": "WhitespaceSplit"}),
        Value::Null,
        &[(0, "[UNK]", true), (1, "[SEP]", true), (2, "</s>", true)],
    )
}

/// A stop token that nobody marked as special.
fn unmarked() -> Tokenizer {
    let letters = letters();
    let vocab: Value = letters
        .iter()
        .enumerate()
        .map(|(id, letter)| (letter.clone(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let id = letters.len() as u32;
    tokenizer(
        json!({"type": "BPE", "vocab": vocab, "merges": [], "dropout": null, "unk_token": null,
               "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false}),
        Value::Null,
        json!({"type": "Fuse"}),
        &[(id, "</s>", false), (id + 1, "tool", false)],
    )
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode_target(text).unwrap();
    ids.iter().map(|&id| tokenizer.token_text(id)).collect()
}

#[test]
fn a_control_token_among_the_words_is_taken_apart() {
    assert_eq!(ids(&unigram(), "a</s>b"), ["a", "<", "/", "s", ">", "b"]);
    assert_eq!(ids(&unigram(), "<s>"), ["<", "s", ">"]);
    assert_eq!(ids(&word_level(), "a [SEP] b"), ["a", "[", "SEP]", "b"]);
    assert_eq!(ids(&unmarked(), "a</s>b"), ["a", "<", "/", "s", ">", "b"]);
}

#[test]
fn other_tokens_stay_what_they_are() {
    // Added, but no control token.
    assert_eq!(
        ids(&unmarked(), "a tool".replace(' ', "").as_str()),
        ["a", "tool"]
    );
    // Unknown characters have a token that is marked as special, and are text all the same.
    assert_eq!(ids(&word_level(), "a Ω b"), ["a", "[UNK]", "b"]);
    assert_eq!(ids(&unigram(), "aΩb"), ["a", "<unk>", "b"]);
    assert_eq!(ids(&unigram(), "Ω</s>"), ["<unk>", "<", "/", "s", ">"]);
}

#[test]
fn a_templates_own_control_tokens_are_tokens() {
    let template = PromptTemplate::custom("own", "{question}</s>{answer}</s>").unwrap();
    for tokenizer in [unigram(), unmarked()] {
        let prompt = tokenizer.encode_prompt(&template, "a</s>", "</s>", &[]).unwrap();
        let ends = prompt.iter().filter(|&&id| id == tokenizer.eos_id()).count();
        assert_eq!(ends, 2, "{prompt:?}");
        assert_eq!(*prompt.last().unwrap(), tokenizer.eos_id());
    }
}

proptest! {
    #[test]
    fn no_text_has_a_control_token(text in "(</s>|<s>|<|/|s|>|a|</s|\\[SEP\\]| ){0,12}") {
        for tokenizer in [unigram(), unmarked(), word_level()] {
            let control: Vec<u32> = ["</s>", "<s>", "[SEP]"]
                .iter()
                .filter_map(|text| (0..60).find(|&id| tokenizer.token_text(id) == *text))
                .collect();
            let ids = tokenizer.encode_target(&text).unwrap();
            prop_assert!(ids.iter().all(|id| !control.contains(id)), "{:?}", ids);
        }
        let tokenizer = unigram();
        let ids = tokenizer.encode_target(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn a_megabyte_of_control_tokens_takes_a_moment() {
    let text = "</s>".repeat(1 << 18);
    for tokenizer in [unigram(), unmarked()] {
        let started = Instant::now();
        let ids = tokenizer.encode_target(&text).unwrap();
        assert_eq!(ids.len(), text.len());
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{:?}",
            started.elapsed()
        );
    }
}
