//! Defects that were found and mended, one test each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aligner_data::PromptTemplate;
use aligner_infer::{
    CancelToken, CorrectOptions, Corrector, EditOp, FinishReason, Piece, Sampler, SamplingParams, diff,
    score_tokens,
};
use common::{MockLm, byte_tokenizer, corrector, corrector_writing, one_hot};

#[test]
fn options_can_be_used_again_behind_a_stream() {
    let corrector = corrector_writing("fine");
    let options = CorrectOptions::default();
    assert_eq!(corrector.stream("Q", "A", &options).count(), 5);
    let again = corrector.correct("Q", "A", &options).unwrap();
    assert_eq!(
        (again.text.as_str(), again.finish_reason),
        ("fine", FinishReason::Stop)
    );
}

#[test]
fn a_dropped_stream_does_not_end_its_sibling() {
    let corrector = corrector_writing(&"z".repeat(2000));
    let options = CorrectOptions {
        max_new_tokens: 3000,
        ..CorrectOptions::default()
    };
    let sibling = corrector.stream("Q", "A", &options);
    drop(corrector.stream("Q", "A", &options));
    let last = sibling.last().unwrap().unwrap();
    assert!(matches!(last, Piece::Done(correction) if correction.finish_reason == FinishReason::Stop));
}

#[test]
fn a_stream_never_ends_without_an_end() {
    let model = MockLm::new(common::BYTES_VOCAB, |ids| {
        assert!(ids.len() < 8, "the device is gone");
        Ok(one_hot(70, common::BYTES_VOCAB))
    });
    let last = corrector(model)
        .stream("Q", "A", &CorrectOptions::default())
        .last()
        .unwrap();
    assert!(matches!(last, Err(_) | Ok(Piece::Done(_))), "{last:?}");
}

#[test]
fn the_parameter_that_is_wrong_is_the_one_named() {
    let params = SamplingParams {
        repetition_penalty: f32::INFINITY,
        ..SamplingParams::default()
    };
    let error = params.validate().unwrap_err().to_string();
    assert!(error.starts_with("repetition_penalty"), "{error}");
}

#[test]
fn a_model_without_the_end_of_sequence_is_refused() {
    assert!(Corrector::from_parts(MockLm::hashed(1), byte_tokenizer(), common::template()).is_err());
}

#[test]
fn an_empty_prompt_is_called_empty() {
    let template = PromptTemplate::custom("bare", "{question}{answer}").unwrap();
    let corrector = Corrector::from_parts(MockLm::hashed(258), byte_tokenizer(), template).unwrap();
    let error = corrector
        .correct("", "", &CorrectOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("empty") && !error.contains("shorten"), "{error}");
}

#[test]
fn a_score_that_does_not_fit_tells_prompt_and_correction_apart() {
    let corrector = corrector(MockLm::hashed(common::BYTES_VOCAB).with_max_positions(20));
    let input = aligner_infer::Input::new("Q", "A");
    let error = corrector.score(input, &"x".repeat(40)).unwrap_err().to_string();
    assert!(
        !error.contains("prompt of 45 tokens"),
        "the prompt has 4: {error}"
    );
}

#[test]
fn bad_scores_are_named_by_their_position_in_the_sequence() {
    let model = MockLm::new(3, |ids| Ok(vec![if ids.len() < 7 { 0.0 } else { f32::NAN }; 3]));
    let error = score_tokens(&model, &[0; 5], &[1; 4]).unwrap_err().to_string();
    assert!(error.contains("token 7"), "{error}");
}

#[test]
fn a_cancelled_prompt_took_time() {
    let cancel = CancelToken::default();
    let token = cancel.clone();
    let model = MockLm::new(3, move |_| Ok(vec![0.0; 3]));
    cancel.cancel();
    let request = aligner_infer::Request {
        prompt: &[1; 5],
        sampling: SamplingParams::default(),
        stop_ids: &[],
        max_new_tokens: 5,
        cancel: token,
        drafting: aligner_infer::Drafting::default(),
    };
    let out = aligner_infer::generate(&model, &request, |_| Ok(std::ops::ControlFlow::Continue(()))).unwrap();
    assert!(out.timings.prefill_seconds > 0.0);
}

#[test]
fn top_k_keeps_ties_as_transformers_does() {
    let params = SamplingParams {
        temperature: 1.0,
        top_k: 1,
        seed: 3,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params).unwrap();
    let drawn: Vec<u32> = (0..100)
        .map(|_| sampler.sample(&mut [1.0, 1.0, 0.0], &[]).unwrap())
        .collect();
    assert!(drawn.contains(&0) && drawn.contains(&1) && !drawn.contains(&2));
}

#[test]
fn as_many_words_are_kept_as_possible() {
    let edits = diff("a b", "b c d");
    let kept = edits
        .iter()
        .filter(|edit| edit.op == EditOp::Keep)
        .flat_map(|edit| edit.text.split_whitespace());
    assert_eq!(kept.count(), 1, "{edits:?}");
}
