//! Drafts on models without weights: they change how fast tokens come and nothing else. Each test is about one property.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::ops::ControlFlow;

use aligner_infer::replay::Replay;
use aligner_infer::{
    CancelToken, CorrectOptions, Draft, Drafting, FinishReason, Generated, InferError, Request, Sampler,
    SamplingParams, generate, verify,
};
use common::{MockLm, byte_tokenizer, corrector, hashed_scores, mix, one_hot};
use proptest::prelude::*;

const VOCAB: usize = 12;
const END: u32 = 0;

fn request<'a>(prompt: &'a [u32], drafting: Drafting<'a>) -> Request<'a> {
    Request {
        prompt,
        sampling: SamplingParams::default(),
        stop_ids: &[END],
        max_new_tokens: 100,
        cancel: CancelToken::default(),
        drafting,
    }
}

fn drafting<'a>(mode: Draft, answer: &'a [u32], prediction: &'a [u32]) -> Drafting<'a> {
    Drafting {
        mode,
        answer,
        prediction,
        ..Drafting::default()
    }
}

fn run(model: &MockLm, request: &Request<'_>) -> Generated {
    generate(model, request, |_| Ok(ControlFlow::Continue(()))).unwrap()
}

/// Scores by the last `order` tokens alone: such a model repeats itself, so that guesses are often right and often wrong.
fn forgetful(order: usize, seed: u64) -> MockLm {
    MockLm::new(VOCAB, move |ids| {
        let tail = &ids[ids.len().saturating_sub(order)..];
        Ok(hashed_scores(&[tail, &[mix(seed) as u32]].concat(), VOCAB))
    })
}

/// Writes `answer` with every so manieth token another one, left out or put twice, and the end behind it.
fn editing(answer: &[u32], prompt_tokens: usize, seed: u64) -> MockLm {
    let mut written = Vec::new();
    for (index, &id) in answer.iter().enumerate() {
        match mix(seed ^ index as u64) % 16 {
            0 => {}
            1 => written.push(1 + (id + 1) % (VOCAB as u32 - 1)),
            2 => written.extend([id, id]),
            _ => written.push(id),
        }
    }
    written.push(END);
    MockLm::new(VOCAB, move |ids| {
        Ok(one_hot(
            *written.get(ids.len() - prompt_tokens).unwrap_or(&END),
            VOCAB,
        ))
    })
}

fn words(most: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(1..VOCAB as u32, 0..most)
}

fn sampling() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(0.0f32), Just(1.0), Just(0.5)];
    let penalty = prop_oneof![Just(1.0f32), Just(1.3)];
    (temperature, penalty, 0usize..6, 0.5f32..=1.0, any::<u64>()).prop_map(
        |(temperature, repetition_penalty, top_k, top_p, seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            repetition_penalty,
            seed,
            ..SamplingParams::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Greedy or sampled, with every filter, whatever is guessed and however many tokens: the same tokens for the same seed.
    #[test]
    fn a_drafted_text_is_the_undrafted_one(
        (prompt, answer, prediction) in (words(40), words(60), words(60)),
        (order, seed, longest, limit) in (0usize..4, any::<u64>(), 1usize..40, 0usize..120),
        params in sampling(),
    ) {
        let prompt = [&[1], prompt.as_slice(), answer.as_slice()].concat();
        let ended = [answer.as_slice(), &[END]].concat();
        let model = || match order {
            0 => editing(&answer, prompt.len(), seed),
            order => forgetful(order, seed),
        };
        let run = |mode, prediction: &[u32]| {
            let request = Request {
                sampling: params,
                max_new_tokens: limit,
                ..request(&prompt, drafting(mode, &ended, prediction))
            };
            run(&model(), &request)
        };
        let plain = run(Draft::Off, &[]);
        for drafted in [run(Draft::Always(longest), &prediction), run(Draft::Auto, &prediction)] {
            prop_assert_eq!(&drafted.ids, &plain.ids);
            prop_assert_eq!(drafted.finish_reason, plain.finish_reason);
            prop_assert!(drafted.draft_accepted <= drafted.draft_proposed);
        }
        prop_assert_eq!(plain.draft_proposed, 0);
    }

    /// Each accepted token saves a pass, and what was drafted is what went through the model beyond that.
    #[test]
    fn passes_and_counts_add_up(answer in words(60), seed in any::<u64>(), longest in 1usize..40) {
        let prompt = [&[1], answer.as_slice()].concat();
        let ended = [answer.as_slice(), &[END]].concat();
        let model = editing(&answer, prompt.len(), seed);
        let out = run(&model, &request(&prompt, drafting(Draft::Always(longest), &ended, &[])));
        let calls = model.log.calls();
        // A pass gives one token more than were right, but for one whose draft ended the text.
        let ended_by_draft = calls.len() + out.draft_accepted - out.ids.len();
        prop_assert!(ended_by_draft <= 1, "{:?}", out);
        let rows: usize = calls.iter().map(|call| call.ids).sum();
        prop_assert_eq!(rows, prompt.len() + calls.len() - 1 + out.draft_proposed);
        prop_assert_eq!(calls.iter().map(|call| call.keep).sum::<usize>(), calls.len() + out.draft_proposed);
    }
}

#[test]
fn a_copy_takes_a_pass_for_each_draft() {
    let answer: Vec<u32> = (0..99).map(|index| 1 + (mix(index) % 11) as u32).collect();
    let prompt = [&[1], answer.as_slice()].concat();
    let ended = [answer.as_slice(), &[END]].concat();
    let model = MockLm::new(VOCAB, {
        let (ended, start) = (ended.clone(), prompt.len());
        move |ids| Ok(one_hot(*ended.get(ids.len() - start).unwrap_or(&END), VOCAB))
    });
    let out = run(
        &model,
        &request(&prompt, drafting(Draft::Always(19), &ended, &[])),
    );
    assert_eq!(out.ids, ended);
    assert_eq!((model.log.calls().len(), out.draft_accepted), (5, 95));
    assert_eq!(out.finish_reason, FinishReason::Stop);
}

#[test]
fn a_prediction_is_followed_before_the_answer() {
    let prediction: Vec<u32> = (0..50).map(|index| 1 + (mix(index) % 11) as u32).collect();
    let answer: Vec<u32> = (50..100).map(|index| 1 + (mix(index) % 11) as u32).collect();
    let model = MockLm::new(VOCAB, {
        let written = prediction.clone();
        move |ids| Ok(one_hot(*written.get(ids.len() - 3).unwrap_or(&END), VOCAB))
    });
    let passes = |prediction: &[u32]| {
        let before = model.log.calls().len();
        run(
            &model,
            &request(&[1, 2, 3], drafting(Draft::Always(10), &answer, prediction)),
        );
        model.log.calls().len() - before
    };
    // 50 tokens and the end, eleven a pass.
    assert_eq!(passes(&[prediction.as_slice(), &[END]].concat()), 5);
    assert!(passes(&[]) > 25);
}

#[test]
fn nothing_comes_behind_a_stop_in_the_middle_of_a_draft() {
    let mut handed_out = Vec::new();
    let model = MockLm::new(VOCAB, |ids| {
        Ok(one_hot([4, 5, END, 6, 7, 8][ids.len() - 1], VOCAB))
    });
    let request = request(&[1], drafting(Draft::Always(9), &[4, 5, END, 6, 7], &[]));
    let out = generate(&model, &request, |token| {
        handed_out.push(token);
        Ok(ControlFlow::Continue(()))
    });
    let out = out.unwrap();
    assert_eq!(
        (out.ids.as_slice(), out.finish_reason),
        (&[4, 5, END][..], FinishReason::Stop)
    );
    assert_eq!(handed_out, [4, 5]);
    assert_eq!((out.draft_proposed, out.draft_accepted), (5, 3));
}

#[test]
fn a_break_a_failure_and_a_cancellation_in_the_middle_of_a_draft_end_it_there() {
    let model = MockLm::new(VOCAB, |_| Ok(one_hot(5, VOCAB)));
    let cancel = CancelToken::default();
    let request = Request {
        cancel: cancel.clone(),
        ..request(&[1], drafting(Draft::Always(20), &[5; 30], &[]))
    };
    let until = |end: &mut dyn FnMut() -> aligner_infer::Result<ControlFlow<()>>| {
        let mut tokens = 0;
        generate(&model, &request, |_| {
            tokens += 1;
            if tokens == 7 {
                end()
            } else {
                Ok(ControlFlow::Continue(()))
            }
        })
    };
    let broken = until(&mut || Ok(ControlFlow::Break(()))).unwrap();
    assert_eq!(
        (broken.ids.len(), broken.finish_reason),
        (7, FinishReason::Cancelled)
    );
    let failed = until(&mut || Err(InferError::BadLogits { position: 99 }));
    assert!(matches!(failed, Err(InferError::BadLogits { position: 99 })));
    let cancelled = until(&mut || {
        cancel.cancel();
        Ok(ControlFlow::Continue(()))
    });
    let cancelled = cancelled.unwrap();
    assert_eq!(
        (cancelled.ids.len(), cancelled.finish_reason),
        (7, FinishReason::Cancelled)
    );
}

#[test]
fn drafts_end_where_the_context_or_the_limit_does() {
    // The mock fails when its cache or its context is too small for a pass.
    for (limit, expected) in [(6, 6), (7, 7), (50, 7)] {
        let model = MockLm::new(VOCAB, |_| Ok(one_hot(5, VOCAB))).with_max_positions(10);
        let request = Request {
            max_new_tokens: limit,
            ..request(&[1, 2, 3], drafting(Draft::Always(99), &[5; 99], &[]))
        };
        let out = run(&model, &request);
        assert_eq!(
            (out.ids.len(), out.finish_reason),
            (expected, FinishReason::Length)
        );
        assert_eq!(model.log.calls().len(), 1, "one pass gives them all");
    }
}

#[test]
fn scores_behind_a_wrong_guess_do_not_count() {
    let model = MockLm::new(VOCAB, |ids| {
        Ok(if ids.contains(&9) {
            vec![f32::NAN; VOCAB]
        } else {
            one_hot(5, VOCAB)
        })
    });
    let request = Request {
        max_new_tokens: 5,
        ..request(&[1], drafting(Draft::Always(9), &[5, 5, 9, 9, 9], &[]))
    };
    assert_eq!(run(&model, &request).ids, [5; 5]);
}

#[test]
fn scores_that_are_no_numbers_name_the_same_position_as_without_drafts() {
    let model = MockLm::new(VOCAB, |ids| {
        Ok(if ids.len() < 6 {
            one_hot(5, VOCAB)
        } else {
            vec![f32::NAN; VOCAB]
        })
    });
    let out = generate(
        &model,
        &request(&[1, 2], drafting(Draft::Always(9), &[5; 9], &[])),
        |_| Ok(ControlFlow::Continue(())),
    );
    assert!(
        matches!(out, Err(InferError::BadLogits { position: 6 })),
        "{out:?}"
    );
}

/// Probabilities of the next token after `ids`, as the sampler's documentation says, written down a second time.
fn distribution(scores: &[f32], seen: &[u32], params: SamplingParams) -> Vec<f64> {
    let penalised = scores
        .iter()
        .enumerate()
        .map(|(id, &score)| match seen.contains(&(id as u32)) {
            true if score > 0.0 => score / params.repetition_penalty,
            true => score * params.repetition_penalty,
            false => score,
        });
    let mut weights: Vec<f64> = penalised
        .map(|score| (f64::from(score) / f64::from(params.temperature)).exp())
        .collect();
    let mut sorted = weights.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let lowest = sorted[params.top_k - 1];
    weights
        .iter_mut()
        .filter(|weight| **weight < lowest)
        .for_each(|weight| *weight = 0.0);
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// A text of three drafted tokens has the probability that the model gives it, filters and penalty at each position included.
///
/// Of all seeds one in a thousand would fail a right program; these do not, as they are always the same.
#[test]
fn sampled_texts_have_the_models_probabilities_however_they_are_drafted() {
    const TOKENS: usize = 4;
    const TEXTS: usize = 30_000;
    let params = SamplingParams {
        temperature: 0.8,
        top_k: 3,
        repetition_penalty: 1.2,
        ..SamplingParams::default()
    };
    let scores = |ids: &[u32]| -> Vec<f32> {
        hashed_scores(ids, TOKENS)
            .iter()
            .map(|score| score / 2.0)
            .collect()
    };
    let mut expected = vec![0.0; TOKENS.pow(3)];
    for (text, probability) in expected.iter_mut().enumerate() {
        let mut ids = vec![1];
        *probability = 1.0;
        for token in [text / 16, text / 4 % 4, text % 4] {
            *probability *= distribution(&scores(&ids), &ids, params)[token];
            ids.push(token as u32);
        }
    }
    let mut counts = vec![0usize; expected.len()];
    let mut accepted = 0;
    for seed in 0..TEXTS as u64 {
        let model = MockLm::new(TOKENS, move |ids| Ok(scores(ids)));
        let draft = [(seed % 4) as u32, (seed / 4 % 4) as u32, 2];
        let request = Request {
            sampling: SamplingParams {
                seed: mix(seed),
                ..params
            },
            stop_ids: &[],
            max_new_tokens: 3,
            ..request(&[1], drafting(Draft::Always(2), &draft, &[]))
        };
        let out = run(&model, &request);
        accepted += out.draft_accepted;
        counts[out.ids.iter().fold(0, |text, &id| text * TOKENS + id as usize)] += 1;
    }
    assert!(accepted > TEXTS / 4, "drafts were accepted: {accepted}");
    let possible: Vec<(f64, usize)> = expected
        .iter()
        .copied()
        .zip(counts)
        .filter(|(p, _)| *p > 0.0)
        .collect();
    assert_eq!(
        possible.iter().map(|(_, count)| count).sum::<usize>(),
        TEXTS,
        "an impossible text"
    );
    let chi_squared: f64 = possible
        .iter()
        .map(|(p, count)| (*count as f64 - p * TEXTS as f64).powi(2) / (p * TEXTS as f64))
        .sum();
    // Three tokens at each of three positions: 26 degrees of freedom, of which 99.9 % stay below 54.05.
    assert_eq!(possible.len(), 27);
    assert!(chi_squared < 54.05, "{chi_squared}");
}

#[test]
fn verification_stops_at_the_first_wrong_token_and_replaces_it() {
    let mut sampler = Sampler::new(SamplingParams::default()).unwrap();
    let mut scores = [one_hot(3, 5), one_hot(4, 5), one_hot(1, 5)].concat();
    let mut seen = vec![7];
    let verified = verify(&mut sampler, &mut scores, &[3, 2], &mut seen, |_| {
        Ok(ControlFlow::<()>::Continue(()))
    });
    assert_eq!(verified.unwrap().accepted, 1);
    assert_eq!(seen, [7, 3, 4]);
}

#[test]
fn a_correction_counts_what_was_drafted() {
    let answer = "The quick brown fox jumps over the lazy dog.";
    let corrector = corrector(MockLm::writing(answer, &byte_tokenizer()));
    let correct = |draft, prediction: Option<&str>, answer| {
        let options = CorrectOptions {
            draft,
            prediction: prediction.map(str::to_string),
            ..CorrectOptions::default()
        };
        corrector.correct("Q", answer, &options).unwrap()
    };
    let copied = correct(Draft::Always(8), None, answer);
    assert_eq!(copied.text, answer);
    // 45 tokens with the end, nine a pass.
    assert_eq!(
        (copied.usage.draft_proposed, copied.usage.draft_accepted),
        (40, 40)
    );
    let predicted = correct(Draft::Always(8), Some(answer), "Something else.");
    assert_eq!(
        (predicted.usage.draft_proposed, predicted.usage.draft_accepted),
        (40, 40)
    );
    assert_eq!(correct(Draft::Off, Some(answer), answer).usage.draft_proposed, 0);
}

#[test]
fn a_prediction_with_tokens_that_the_model_does_not_have_never_reaches_it() {
    // Bytes are ids below 258; this model has some of them, and fails where it is given others.
    let model = MockLm::new(221, |_| Ok(one_hot(65, 221)));
    let log = model.log.clone();
    let options = CorrectOptions {
        draft: Draft::Always(9),
        prediction: Some("no世界".into()),
        max_new_tokens: 20,
        ..CorrectOptions::default()
    };
    corrector(model).correct("Q", "A", &options).unwrap();
    let prediction = byte_tokenizer().encode_target("no").unwrap();
    assert!(
        log.seen().windows(2).any(|ids| ids == prediction),
        "what it has is drafted"
    );
}

#[test]
fn a_replayed_text_is_written_whatever_the_model_would_write() {
    let model = MockLm::hashed(VOCAB);
    let recorded = [3, 3, 7, 1, END];
    for mode in [Draft::Off, Draft::Always(3)] {
        let replay = Replay::new(&model, 2, &recorded);
        let out = generate(&replay, &request(&[1, 2], drafting(mode, &recorded, &[])), |_| {
            Ok(ControlFlow::Continue(()))
        });
        assert_eq!(out.unwrap().ids, recorded);
    }
}
