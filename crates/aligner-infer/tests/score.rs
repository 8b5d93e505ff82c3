//! Scores of given corrections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aligner_data::Turn;
use aligner_infer::{CorrectOptions, InferError, Input};
use common::{MockLm, byte_tokenizer, corrector, corrector_writing, hashed_scores, log_softmax, template};

#[test]
fn a_score_is_the_sum_over_the_text_and_the_end_of_sequence() {
    let tokenizer = byte_tokenizer();
    let corrector = corrector(MockLm::hashed(common::BYTES_VOCAB));
    for text in ["", "Yes.", "Grüße, 世界", &"long ".repeat(60)] {
        let score = corrector.score(Input::new("Q", "A"), text).unwrap();
        let mut sequence = tokenizer.encode_prompt(&template(), "Q", "A", &[]).unwrap();
        assert_eq!(
            (score.prompt_tokens, score.tokens),
            (sequence.len(), text.len() + 1)
        );
        let target = [tokenizer.encode_target(text).unwrap(), vec![tokenizer.eos_id()]].concat();
        assert_eq!(
            (score.token_logprobs.len(), score.token_argmax.len()),
            (target.len(), target.len())
        );
        for (got, id) in score.token_logprobs.iter().zip(target) {
            assert!((got - log_softmax(&hashed_scores(&sequence, common::BYTES_VOCAB), id)).abs() < 1e-12);
            sequence.push(id);
        }
        assert!((score.logprob - score.token_logprobs.iter().sum::<f64>()).abs() < 1e-9);
    }
}

#[test]
fn what_a_model_writes_scores_above_what_it_does_not() {
    let corrector = corrector_writing("It is blue.");
    let score = |text| corrector.score(Input::new("Q", "A"), text).unwrap().logprob;
    let written = corrector
        .correct("Q", "A", &CorrectOptions::default())
        .unwrap()
        .text;
    assert!(score(&written) > -0.001, "{}", score(&written));
    for other in ["It is blue", "It is blue. ", "It is grey.", ""] {
        assert!(score(other) < -10.0, "{other:?} {}", score(other));
    }
}

#[test]
fn earlier_turns_count() {
    let corrector = corrector(MockLm::hashed(common::BYTES_VOCAB));
    let history = [Turn {
        question: "Hi".into(),
        answer: "Hello".into(),
    }];
    let plain = corrector.score(Input::new("Q", "A"), "C").unwrap();
    let after = corrector
        .score(
            Input {
                chat_history: &history,
                ..Input::new("Q", "A")
            },
            "C",
        )
        .unwrap();
    assert!(after.prompt_tokens > plain.prompt_tokens);
    assert_ne!(after.logprob, plain.logprob);
}

#[test]
fn a_correction_that_leaves_the_context_is_refused() {
    let corrector = corrector(MockLm::hashed(common::BYTES_VOCAB).with_max_positions(20));
    // Four tokens of prompt, fifteen bytes, the end of sequence.
    assert!(corrector.score(Input::new("Q", "A"), &"x".repeat(15)).is_ok());
    let error = corrector
        .score(Input::new("Q", "A"), &"x".repeat(16))
        .unwrap_err();
    assert!(
        matches!(
            error,
            InferError::TargetTooLong {
                prompt_tokens: 4,
                target_tokens: 17,
                max_positions: 20,
            }
        ),
        "{error}"
    );
}

#[test]
fn a_score_is_stable_json() {
    let score = corrector_writing("a").score(Input::new("Q", "A"), "").unwrap();
    let json = serde_json::to_value(&score).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "logprob",
            "tokens",
            "prompt_tokens",
            "token_logprobs",
            "token_argmax"
        ]
    );
    assert_eq!(
        serde_json::from_value::<aligner_infer::Score>(json).unwrap(),
        score
    );
}
