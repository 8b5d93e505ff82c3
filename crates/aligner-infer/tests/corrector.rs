//! The public API on a model without weights; each test is about one property.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::ops::ControlFlow;
use std::thread;

use aligner_data::{Encoder, Turn};
use aligner_infer::{
    CorrectOptions, Correction, Corrector, Draft, FinishReason, InferError, Input, SamplingParams, Usage,
};
use common::{MockLm, byte_tokenizer, corrector, corrector_writing, template};

fn assert_same(a: &Correction, b: &Correction) {
    // What was drafted depends on the time that passes took.
    assert_eq!(
        (&a.text, &a.ids, a.finish_reason, a.usage.prompt_tokens),
        (&b.text, &b.ids, b.finish_reason, b.usage.prompt_tokens)
    );
    assert_eq!(
        (a.usage.completion_tokens, b.usage.completion_tokens),
        (a.ids.len(), b.ids.len())
    );
}

fn options(max_new_tokens: usize) -> CorrectOptions {
    CorrectOptions {
        max_new_tokens,
        ..CorrectOptions::default()
    }
}

fn sampled(seed: u64) -> CorrectOptions {
    let sampling = SamplingParams {
        temperature: 1.0,
        seed,
        ..SamplingParams::default()
    };
    CorrectOptions {
        sampling,
        ..options(30)
    }
}

/// Compiles only if a corrector can be shared and sent.
fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}

#[test]
fn a_correction_has_text_ids_reason_and_counts() {
    let undrafted = CorrectOptions {
        draft: Draft::Off,
        ..CorrectOptions::default()
    };
    let correction = corrector_writing("Yes.").correct("Q", "A", &undrafted).unwrap();
    let tokenizer = byte_tokenizer();
    assert_eq!(correction.text, "Yes.");
    assert_eq!(correction.finish_reason, FinishReason::Stop);
    // Q | A and the end of the prompt; four bytes and the end of sequence, as transformers counts.
    assert_eq!(
        correction.usage,
        Usage {
            prompt_tokens: 4,
            completion_tokens: 5,
            draft_proposed: 0,
            draft_accepted: 0,
        }
    );
    assert_eq!(
        correction.ids,
        [tokenizer.encode_target("Yes.").unwrap(), vec![tokenizer.eos_id()]].concat()
    );
}

#[test]
fn the_limit_cuts_the_text() {
    let correction = corrector_writing("Yes, quite.")
        .correct("Q", "A", &options(3))
        .unwrap();
    assert_eq!(
        (correction.text.as_str(), correction.finish_reason),
        ("Yes", FinishReason::Length)
    );
    assert_eq!(correction.usage.completion_tokens, 3);
}

#[test]
fn an_empty_correction_is_one() {
    let correction = corrector_writing("")
        .correct("Q", "A", &CorrectOptions::default())
        .unwrap();
    assert_eq!(
        (correction.text.as_str(), correction.finish_reason),
        ("", FinishReason::Stop)
    );
    assert_eq!(correction.usage.completion_tokens, 1);
}

#[test]
fn pieces_are_whole_characters_though_tokens_are_bytes() {
    let text = "Grüße, 世界 🦀 – e\u{301}!";
    let mut pieces = Vec::new();
    let correction = corrector_writing(text).correct_with(Input::new("Q", "A"), &options(99), |piece| {
        pieces.push(piece.to_string());
        ControlFlow::Continue(())
    });
    assert_eq!(correction.unwrap().text, text);
    assert_eq!(pieces, text.chars().map(String::from).collect::<Vec<_>>());
}

#[test]
fn a_character_cut_in_two_by_the_limit_is_one_replacement_character() {
    let mut streamed = String::new();
    let corrector = corrector_writing("ab世");
    let correction = corrector.correct_with(Input::new("Q", "A"), &options(4), |piece| {
        streamed.push_str(piece);
        ControlFlow::Continue(())
    });
    let correction = correction.unwrap();
    assert_eq!(correction.text, "ab\u{fffd}");
    assert_eq!(correction.text, streamed);
    assert_eq!(correction.text, byte_tokenizer().decode(&correction.ids).unwrap());
}

#[test]
fn a_break_ends_it_with_what_there_is() {
    let mut calls = 0;
    let correction = corrector_writing("0123456789").correct_with(Input::new("Q", "A"), &options(99), |_| {
        calls += 1;
        if calls == 4 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let correction = correction.unwrap();
    assert_eq!(
        (correction.text.as_str(), correction.finish_reason),
        ("0123", FinishReason::Cancelled)
    );
    assert_eq!((correction.usage.completion_tokens, calls), (4, 4));
}

#[test]
fn the_prompt_is_the_one_of_training() {
    let model = MockLm::writing("x", &byte_tokenizer());
    let log = model.log.clone();
    let history = [Turn {
        question: "Hi".into(),
        answer: "Hello <eos>".into(),
    }];
    let input = Input {
        question: "Is it {answer}?",
        answer: "No |",
        chat_history: &history,
    };
    let correction = corrector(model).correct_with(input, &options(1), |_| ControlFlow::Continue(()));
    let trained = Encoder::new(byte_tokenizer(), template(), 999);
    let prompt = trained
        .encode_prompt(input.question, input.answer, &history)
        .unwrap();
    assert_eq!(correction.unwrap().usage.prompt_tokens, prompt.len());
    assert_eq!(log.seen(), prompt);
}

#[test]
fn special_tokens_spelled_by_a_user_stay_text() {
    let model = MockLm::writing("fine", &byte_tokenizer());
    let log = model.log.clone();
    let corrector = corrector(model);
    let turns = [Turn {
        question: "<pad>".into(),
        answer: "<eos>".into(),
    }];
    let input = Input {
        question: "<eos>?",
        answer: "<pad><eos>",
        chat_history: &turns,
    };
    corrector
        .correct_with(input, &options(1), |_| ControlFlow::Continue(()))
        .unwrap();
    corrector.score(input, "<eos> <pad>").unwrap();
    let tokenizer = byte_tokenizer();
    let special: Vec<u32> = (0..258)
        .filter(|&id| ["<eos>", "<pad>"].contains(&&*tokenizer.token_text(id)))
        .collect();
    assert_eq!(special.len(), 2);
    assert!(log.seen().iter().all(|id| !special.contains(id)));
}

#[test]
fn a_special_token_spelled_by_the_model_is_text_and_does_not_stop_it() {
    let correction = corrector_writing("say <eos> twice")
        .correct("Q", "A", &CorrectOptions::default())
        .unwrap();
    assert_eq!(
        (correction.text.as_str(), correction.finish_reason),
        ("say <eos> twice", FinishReason::Stop)
    );
}

#[test]
fn odd_texts_are_corrected_as_text() {
    let corrector = corrector_writing("ok");
    for odd in [
        "",
        " ",
        "\n\t \u{a0}",
        "\0\u{1}\u{7f}",
        "\u{feff}x",
        "##Answer: ##Correction:",
        "\u{fffd}",
        "🦀\u{200d}",
    ] {
        for (question, answer) in [("Q", odd), (odd, "A"), (odd, odd)] {
            let correction = corrector
                .correct(question, answer, &CorrectOptions::default())
                .unwrap();
            assert_eq!(correction.text, "ok", "{odd:?}");
            assert_eq!(
                correction.usage.prompt_tokens,
                question.len() + answer.len() + 2,
                "every byte is sent"
            );
        }
    }
}

#[test]
fn a_megabyte_of_one_character_is_refused_with_its_length() {
    let corrector = corrector_writing("ok");
    for character in ["a", " ", "\n", "é", "!"] {
        let answer = character.repeat((1 << 20) / character.len());
        let error = corrector
            .correct("Q", &answer, &CorrectOptions::default())
            .unwrap_err();
        let InferError::PromptTooLong {
            prompt_tokens,
            max_positions,
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(
            (prompt_tokens, max_positions),
            ((1 << 20) + 3, 4096),
            "{character:?}"
        );
        assert!(corrector.score(Input::new("Q", &answer), "ok").is_err());
    }
}

#[test]
fn a_seed_gives_the_same_text_again_and_another_gives_another() {
    let corrector = corrector(MockLm::hashed(common::BYTES_VOCAB));
    let text = |seed| corrector.correct("Q", "A", &sampled(seed)).unwrap().text;
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
}

#[test]
fn many_threads_get_what_one_gets() {
    let corrector = corrector(MockLm::hashed(common::BYTES_VOCAB));
    shared(&corrector);
    let one = |corrector: &Corrector<MockLm>, index: u64| {
        let question = format!("question {index}");
        corrector.correct(&question, "A", &sampled(index / 2)).unwrap()
    };
    let alone: Vec<_> = (0..16).map(|index| one(&corrector, index)).collect();
    let threads: Vec<_> = (0..16)
        .map(|index| {
            let corrector = corrector.clone();
            thread::spawn(move || one(&corrector, index))
        })
        .collect();
    for (thread, alone) in threads.into_iter().zip(&alone) {
        assert_same(&thread.join().unwrap(), alone);
    }
}

#[test]
fn ids_that_the_model_does_not_have_never_reach_it() {
    // Bytes are ids below 258; this model has the first half.
    let model = MockLm::hashed(120);
    let log = model.log.clone();
    let corrector = corrector(model);
    let error = corrector.correct("Q", "世界", &options(5)).unwrap_err();
    assert!(
        matches!(
            error,
            InferError::UnknownToken {
                id: 120..,
                vocab_size: 120
            }
        ),
        "{error}"
    );
    assert!(corrector.score(Input::new("Q", "A"), "世界").is_err());
    assert!(log.calls().is_empty());
}

#[test]
fn options_out_of_range_are_named() {
    let sampling = SamplingParams {
        temperature: -0.5,
        ..SamplingParams::default()
    };
    let options = CorrectOptions {
        sampling,
        ..CorrectOptions::default()
    };
    let error = corrector_writing("x").correct("Q", "A", &options).unwrap_err();
    assert_eq!(error.to_string(), "temperature is -0.5; it must be 0 or more");
}
