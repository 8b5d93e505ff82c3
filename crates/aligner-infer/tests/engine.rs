//! The decoding loop on a model without weights; each test is about one property.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use std::thread;

use aligner_infer::{
    CancelToken, CausalLm, Draft, Drafting, FinishReason, Generated, InferError, Request, Result,
    SamplingParams, generate, score_tokens,
};
use common::{Call, MockCache, MockLm, hashed_scores, log_softmax, one_hot};

const VOCAB: usize = 50;

fn request(prompt: &[u32], max_new_tokens: usize) -> Request<'_> {
    Request {
        prompt,
        sampling: SamplingParams::default(),
        stop_ids: &[],
        max_new_tokens,
        cancel: CancelToken::default(),
        drafting: Drafting {
            mode: Draft::Off,
            ..Drafting::default()
        },
    }
}

fn run(model: &MockLm, request: &Request<'_>) -> Generated {
    generate(model, request, |_| Ok(ControlFlow::Continue(()))).unwrap()
}

/// After token `n` comes `7 n + 3`.
fn counting() -> MockLm {
    MockLm::new(VOCAB, |ids| {
        Ok(one_hot((ids[ids.len() - 1] * 7 + 3) % VOCAB as u32, VOCAB))
    })
}

#[test]
fn greedy_takes_the_highest_score_of_each_step() {
    let out = run(&counting(), &request(&[4, 2], 5));
    assert_eq!(out.ids, [17, 22, 7, 2, 17]);
    assert_eq!(out.finish_reason, FinishReason::Length);
}

#[test]
fn each_step_sees_the_whole_sequence() {
    let out = run(&MockLm::hashed(VOCAB), &request(&[1, 2, 3], 40));
    let mut sequence = vec![1, 2, 3];
    for token in out.ids {
        let scores = hashed_scores(&sequence, VOCAB);
        let best = scores.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(scores[token as usize], best, "after {} tokens", sequence.len());
        sequence.push(token);
    }
    assert_eq!(sequence.len(), 43);
}

#[test]
fn a_stop_id_is_counted_but_not_handed_out() {
    let mut handed_out = Vec::new();
    let request = Request {
        stop_ids: &[49, 7],
        ..request(&[4, 2], 100)
    };
    let out = generate(&counting(), &request, |token| {
        handed_out.push(token);
        Ok(ControlFlow::Continue(()))
    });
    let out = out.unwrap();
    assert_eq!(
        (out.ids.as_slice(), out.finish_reason),
        (&[17, 22, 7][..], FinishReason::Stop)
    );
    assert_eq!(handed_out, [17, 22]);
}

#[test]
fn stopping_at_the_last_allowed_token_is_a_stop() {
    let out = run(
        &counting(),
        &Request {
            stop_ids: &[7],
            ..request(&[4, 2], 3)
        },
    );
    assert_eq!((out.ids.len(), out.finish_reason), (3, FinishReason::Stop));
}

#[test]
fn a_token_that_nothing_follows_is_not_computed_further() {
    let model = counting();
    run(&model, &request(&[4, 2], 5));
    let step = Call { ids: 1, keep: 1 };
    assert_eq!(
        model.log.calls(),
        [Call { ids: 2, keep: 1 }, step, step, step, step]
    );
}

#[test]
fn no_new_tokens_is_an_empty_output_cut_at_the_limit() {
    let out = run(&counting(), &request(&[4, 2], 0));
    assert_eq!((out.ids.len(), out.finish_reason), (0, FinishReason::Length));
}

#[test]
fn a_long_prompt_goes_in_by_chunks_and_only_its_last_token_is_scored() {
    let prompt: Vec<u32> = (0..1200).map(|index| index % VOCAB as u32).collect();
    let model = MockLm::hashed(VOCAB);
    let out = run(&model, &request(&prompt, 1));
    let expected = [
        Call { ids: 512, keep: 0 },
        Call { ids: 512, keep: 0 },
        Call { ids: 176, keep: 1 },
    ];
    assert_eq!(model.log.calls(), expected);
    assert_eq!(model.log.seen(), prompt);
    let scores = hashed_scores(&prompt, VOCAB);
    assert!(scores.iter().all(|&score| score <= scores[out.ids[0] as usize]));
}

/// Cancels a request while the second chunk of its prompt is computed.
struct CancelsInSecondChunk(MockLm, CancelToken);

impl CausalLm for CancelsInSecondChunk {
    type Cache = MockCache;

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn max_positions(&self) -> usize {
        self.0.max_positions()
    }

    fn new_cache(&self, capacity: usize) -> Result<MockCache> {
        self.0.new_cache(capacity)
    }

    fn cache_len(&self, cache: &MockCache) -> usize {
        self.0.cache_len(cache)
    }

    fn truncate(&self, cache: &mut MockCache, len: usize) {
        self.0.truncate(cache, len);
    }

    fn forward(&self, ids: &[u32], cache: &mut MockCache, keep: usize) -> Result<Vec<f32>> {
        if self.cache_len(cache) > 0 {
            self.1.cancel();
        }
        self.0.forward(ids, cache, keep)
    }
}

#[test]
fn a_prompt_is_cancelled_between_two_chunks() {
    let model = CancelsInSecondChunk(MockLm::hashed(VOCAB), CancelToken::default());
    let request = Request {
        cancel: model.1.clone(),
        ..request(&[1; 2000], 10)
    };
    let out = generate(&model, &request, |_| Ok(ControlFlow::Continue(()))).unwrap();
    assert_eq!((out.ids.len(), out.finish_reason), (0, FinishReason::Cancelled));
    assert_eq!(model.0.log.calls().len(), 2);
}

#[test]
fn a_request_cancelled_beforehand_does_no_pass() {
    let cancel = CancelToken::default();
    cancel.cancel();
    let model = MockLm::hashed(VOCAB);
    let out = run(
        &model,
        &Request {
            cancel,
            ..request(&[1; 20], 10)
        },
    );
    assert_eq!((out.ids.len(), out.finish_reason), (0, FinishReason::Cancelled));
    assert!(model.log.calls().is_empty());
}

#[test]
fn another_thread_cancels_in_the_middle() {
    let cancel = CancelToken::default();
    let (reached, wait) = channel();
    let (done, go_on) = channel();
    let other = {
        let cancel = cancel.clone();
        thread::spawn(move || {
            wait.recv().unwrap();
            cancel.cancel();
            done.send(()).unwrap();
        })
    };
    let mut tokens = 0;
    let out = generate(
        &MockLm::hashed(VOCAB),
        &Request {
            cancel,
            ..request(&[1], 1000)
        },
        |_| {
            tokens += 1;
            if tokens == 5 {
                reached.send(()).unwrap();
                go_on.recv().unwrap();
            }
            Ok(ControlFlow::Continue(()))
        },
    );
    other.join().unwrap();
    let out = out.unwrap();
    assert_eq!((out.ids.len(), out.finish_reason), (5, FinishReason::Cancelled));
}

#[test]
fn the_callback_can_end_it_or_fail() {
    let model = counting();
    let out = generate(&model, &request(&[4, 2], 9), |_| Ok(ControlFlow::Break(()))).unwrap();
    assert_eq!(
        (out.ids.as_slice(), out.finish_reason),
        (&[17][..], FinishReason::Cancelled)
    );
    let error = InferError::BadLogits { position: 99 };
    let mut error = Some(error);
    let out = generate(&model, &request(&[4, 2], 9), |_| Err(error.take().unwrap()));
    assert!(matches!(out, Err(InferError::BadLogits { position: 99 })));
}

#[test]
fn the_context_cuts_what_the_limit_would_allow() {
    let model = counting().with_max_positions(10);
    let out = run(&model, &request(&[4, 2, 3], usize::MAX));
    assert_eq!((out.ids.len(), out.finish_reason), (7, FinishReason::Length));
    assert_eq!(model.log.caches(), [10]);
}

#[test]
fn a_prompt_that_fills_the_context_is_an_error_before_any_work() {
    let model = counting().with_max_positions(10);
    for prompt_tokens in [10, 11, 5000] {
        let out = generate(&model, &request(&vec![1; prompt_tokens], 1), |_| {
            Ok(ControlFlow::Continue(()))
        });
        let error = out.unwrap_err();
        assert!(
            matches!(
                error,
                InferError::PromptTooLong {
                    max_positions: 10,
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains(&format!("{prompt_tokens} tokens")),
            "{error}"
        );
    }
    assert!(model.log.calls().is_empty() && model.log.caches().is_empty());
    assert_eq!(run(&model, &request(&[1; 9], 5)).ids.len(), 1);
}

#[test]
fn parameters_out_of_range_are_an_error_before_any_work() {
    let model = counting();
    let sampling = SamplingParams {
        top_p: 1.5,
        ..SamplingParams::default()
    };
    let out = generate(
        &model,
        &Request {
            sampling,
            ..request(&[1], 5)
        },
        |_| Ok(ControlFlow::Continue(())),
    );
    assert!(out.unwrap_err().to_string().contains("top_p is 1.5"));
    assert!(model.log.calls().is_empty() && model.log.caches().is_empty());
}

#[test]
fn scores_that_are_no_numbers_name_the_position() {
    let model = MockLm::new(VOCAB, |ids| {
        Ok(if ids.len() < 6 {
            one_hot(3, VOCAB)
        } else {
            vec![f32::NAN; VOCAB]
        })
    });
    let out = generate(&model, &request(&[1, 2], 20), |_| Ok(ControlFlow::Continue(())));
    assert!(
        matches!(out, Err(InferError::BadLogits { position: 6 })),
        "{out:?}"
    );
}

#[test]
fn a_failing_model_is_an_error() {
    let model = MockLm::new(VOCAB, |_| Err(InferError::UnknownToken { id: 7, vocab_size: 5 }));
    let out = generate(&model, &request(&[1], 3), |_| Ok(ControlFlow::Continue(())));
    assert!(matches!(out, Err(InferError::UnknownToken { id: 7, .. })));
}

#[test]
fn a_seed_gives_the_same_tokens_again_and_another_gives_others() {
    let model = MockLm::hashed(VOCAB);
    let draw = |seed| {
        let sampling = SamplingParams {
            temperature: 1.0,
            seed,
            ..SamplingParams::default()
        };
        run(
            &model,
            &Request {
                sampling,
                ..request(&[1, 2], 60)
            },
        )
        .ids
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
    assert_ne!(
        draw(3),
        run(&model, &request(&[1, 2], 60)).ids,
        "sampling is not greedy"
    );
}

#[test]
fn the_repetition_penalty_counts_prompt_and_output() {
    // Whatever the sequence is, scores fall from 2.0 with the id: a penalty of 1.5 puts a seen one behind unseen ones.
    let model = MockLm::new(5, |_| Ok(vec![2.0, 1.9, 1.8, 1.7, 1.6]));
    let sampling = SamplingParams {
        repetition_penalty: 1.5,
        ..SamplingParams::default()
    };
    let out = run(
        &model,
        &Request {
            sampling,
            ..request(&[1, 1, 0], 4)
        },
    );
    assert_eq!(out.ids, [2, 3, 4, 0]);
}

#[test]
fn log_probabilities_are_those_of_a_softmax_in_any_number_of_chunks() {
    let tokens = |count: u32, step: u32| {
        (0..count)
            .map(|index| index * step % VOCAB as u32)
            .collect::<Vec<_>>()
    };
    for (prompt, target) in [(1, 1), (1, 150), (513, 64), (700, 65), (2, 63)] {
        let (prompt, target) = (tokens(prompt, 3), tokens(target, 7));
        let model = MockLm::hashed(VOCAB);
        let scores = score_tokens(&model, &prompt, &target).unwrap();
        assert_eq!(scores.len(), target.len());
        let mut sequence = prompt.clone();
        for (score, &id) in scores.iter().zip(&target) {
            let logits = hashed_scores(&sequence, VOCAB);
            let expected = log_softmax(&logits, id);
            assert!(
                (score.logprob - expected).abs() < 1e-12,
                "{score:?} {expected} after {} tokens",
                sequence.len()
            );
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = logits.iter().position(|&logit| logit == highest);
            assert_eq!(Some(score.most_probable as usize), first);
            sequence.push(id);
        }
        assert!(
            model
                .log
                .calls()
                .iter()
                .all(|call| call.keep <= 64 && call.ids <= 512)
        );
        assert_eq!(
            model.log.seen(),
            sequence[..sequence.len() - 1],
            "the last token is not computed"
        );
    }
}

#[test]
fn log_probabilities_of_large_scores_do_not_overflow() {
    let model = MockLm::new(3, |_| Ok(vec![30_000.0, 30_001.0, -30_000.0]));
    let scores = score_tokens(&model, &[0], &[0, 1, 2]).unwrap();
    let expected = [
        -1.0 - (-1f64).exp().ln_1p(),
        -(-1f64).exp().ln_1p(),
        -60_001.0 - (-1f64).exp().ln_1p(),
    ];
    for (score, expected) in scores.iter().zip(expected) {
        assert!((score.logprob - expected).abs() < 1e-9, "{scores:?}");
        assert_eq!(score.most_probable, 1);
    }
}

#[test]
fn a_target_that_just_fits_is_scored_and_a_longer_one_is_an_error_before_any_work() {
    let model = MockLm::hashed(VOCAB).with_max_positions(10);
    assert_eq!(score_tokens(&model, &[1; 6], &[2; 4]).unwrap().len(), 4);
    let work = model.log.calls().len();
    assert!(matches!(
        score_tokens(&model, &[1; 6], &[2; 5]),
        Err(InferError::TargetTooLong { .. })
    ));
    assert_eq!((model.log.calls().len(), model.log.caches().len()), (work, 1));
}

#[test]
fn scores_that_are_no_numbers_have_no_log_probability() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let model = MockLm::new(3, move |_| Ok(vec![bad; 3]));
        let out = score_tokens(&model, &[0], &[1]);
        assert!(matches!(out, Err(InferError::BadLogits { .. })), "{bad}: {out:?}");
    }
}
