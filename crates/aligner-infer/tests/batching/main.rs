//! Many corrections at once, on models without weights and on a tiny real one. Each test is about one property.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod ends;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use aligner_infer::{
    BatchOptions, Batcher, CorrectOptions, Correction, Corrector, Draft, FinishReason, InferError, Input,
    Piece, Result, SamplingParams, part_seed,
};
use common::batch::{BatchLm, Seen};
use common::{BYTES_VOCAB, MockLm, byte_tokenizer, corrector, hashed_scores, one_hot, template};

fn batcher(lm: MockLm, options: BatchOptions) -> (Batcher<BatchLm>, Arc<Seen>) {
    let lm = BatchLm::new(lm);
    let seen = Arc::clone(&lm.seen);
    let corrector = Corrector::from_parts(lm, byte_tokenizer(), template()).unwrap();
    (corrector.batcher(options), seen)
}

/// Scores by the last three tokens: texts that end now and then, and that repeat themselves.
fn babbling() -> MockLm {
    MockLm::new(BYTES_VOCAB, |ids| {
        let mut scores = hashed_scores(&ids[ids.len().saturating_sub(3)..], BYTES_VOCAB);
        // The end of sequence is one of the last two ids.
        scores[256..].iter_mut().for_each(|score| *score += 0.5);
        Ok(scores)
    })
}

/// Options of the request with this number: greedy and sampled, drafted and not.
fn options(number: u64) -> CorrectOptions {
    CorrectOptions {
        max_new_tokens: 10 + number as usize * 7 % 90,
        sampling: SamplingParams {
            temperature: [0.0, 1.0, 0.7][number as usize % 3],
            repetition_penalty: [1.0, 1.2][number as usize % 2],
            seed: number,
            ..SamplingParams::default()
        },
        draft: [Draft::Auto, Draft::Off, Draft::Always(5)][number as usize / 3 % 3],
        ..CorrectOptions::default()
    }
}

fn texts(number: u64) -> (String, String) {
    let answer = "An answer, which may be long. ".repeat(1 + number as usize % 7);
    (format!("Question {number}?"), answer)
}

fn assert_same(a: &Correction, b: &Correction) {
    assert_eq!(
        (&a.text, &a.ids, a.finish_reason),
        (&b.text, &b.ids, b.finish_reason)
    );
    assert_eq!(
        (a.usage.prompt_tokens, a.usage.completion_tokens),
        (b.usage.prompt_tokens, b.usage.completion_tokens)
    );
}

#[test]
fn many_threads_get_from_a_batch_what_each_would_get_alone() {
    for can_fork in [true, false] {
        let mut lm = BatchLm::new(babbling());
        lm.can_fork = can_fork;
        let seen = Arc::clone(&lm.seen);
        let corrector = Corrector::from_parts(lm, byte_tokenizer(), template()).unwrap();
        let alone: Vec<_> = (0..40)
            .map(|number| {
                let (question, answer) = texts(number);
                corrector.correct(&question, &answer, &options(number)).unwrap()
            })
            .collect();
        let batcher = corrector.batcher(BatchOptions {
            max_running: 7,
            prefill_tokens: 33,
            ..BatchOptions::default()
        });
        seen.close();
        let threads: Vec<_> = (0..40)
            .map(|number| {
                let batcher = batcher.clone();
                thread::spawn(move || {
                    let (question, answer) = texts(number);
                    batcher
                        .correct(Input::new(&question, &answer), &options(number))
                        .unwrap()
                })
            })
            .collect();
        seen.open();
        for (thread, alone) in threads.into_iter().zip(&alone) {
            assert_same(&thread.join().unwrap(), alone);
        }
        let together = seen.passes().iter().map(Vec::len).max().unwrap();
        assert!((2..=7).contains(&together), "{together} requests in a pass");
    }
}

#[test]
fn the_pieces_of_a_stream_are_its_text_and_a_slow_reader_holds_nobody_up() {
    let (batcher, _) = batcher(babbling(), BatchOptions::default());
    let (question, answer) = texts(4);
    let slow = batcher.stream(Input::new(&question, &answer), &options(4));
    let expected = batcher
        .correct(Input::new(&question, &answer), &options(4))
        .unwrap();
    let mut text = String::new();
    for piece in slow {
        match piece.unwrap() {
            Piece::Text(piece) => text.push_str(&piece),
            Piece::Done(correction) => assert_same(&correction, &expected),
        }
    }
    assert_eq!(text, expected.text);
}

#[test]
fn memory_is_never_more_than_allowed_and_everybody_gets_some() {
    // A prompt of 4 tokens and 60 new ones: three fit, with what prompts have in common.
    let options = CorrectOptions {
        max_new_tokens: 60,
        ..CorrectOptions::default()
    };
    let batch = BatchOptions {
        kv_memory_bytes: 200,
        ..BatchOptions::default()
    };
    let (batcher, seen) = batcher(MockLm::writing(&"z".repeat(50), &byte_tokenizer()), batch);
    seen.close();
    let streams: Vec<_> = (0..20)
        .map(|_| batcher.stream(Input::new("Q", "A"), &options))
        .collect();
    seen.open();
    for stream in streams {
        assert_eq!(stream.wait().unwrap().text, "z".repeat(50));
    }
    let most = seen.most_bytes.load(Ordering::SeqCst);
    assert!((3 * 64..=200).contains(&most), "{most} bytes");
    assert_eq!(seen.passes().iter().map(Vec::len).max(), Some(3));
}

#[test]
fn a_request_that_can_never_fit_is_refused_with_what_it_needs() {
    let batch = BatchOptions {
        kv_memory_bytes: 100,
        ..BatchOptions::default()
    };
    let (batcher, seen) = batcher(babbling(), batch);
    let big = CorrectOptions {
        max_new_tokens: 97,
        ..CorrectOptions::default()
    };
    let error = batcher.correct(Input::new("Q", "A"), &big).unwrap_err();
    assert!(
        matches!(
            error,
            InferError::KvMemory {
                tokens: 101,
                needed: 101,
                allowed: 100
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("--kv-memory"));
    assert!(seen.passes().is_empty());
    let fits = CorrectOptions {
        max_new_tokens: 96,
        ..CorrectOptions::default()
    };
    batcher.correct(Input::new("Q", "A"), &fits).unwrap();
}

/// The first that waits for memory is not overtaken by smaller ones behind it.
#[test]
fn requests_are_admitted_in_the_order_in_which_they_came() {
    let batch = BatchOptions {
        kv_memory_bytes: 130,
        ..BatchOptions::default()
    };
    let order = Arc::new(Mutex::new(Vec::new()));
    let lm = MockLm::new(BYTES_VOCAB, {
        let order = Arc::clone(&order);
        move |ids| {
            let mut order = order.lock().unwrap();
            // Behind question and bar.
            if !order.contains(&ids[2]) {
                order.push(ids[2]);
            }
            Ok(one_hot(70, BYTES_VOCAB))
        }
    });
    let (batcher, seen) = batcher(lm, batch);
    seen.close();
    let answers = ["A", "B", "C", "D"];
    let streams: Vec<_> = answers
        .into_iter()
        .zip([60, 120, 10, 10])
        .map(|(answer, max_new_tokens)| {
            let options = CorrectOptions {
                max_new_tokens,
                ..CorrectOptions::default()
            };
            batcher.stream(Input::new("Q", answer), &options)
        })
        .collect();
    seen.open();
    for stream in streams {
        stream.wait().unwrap();
    }
    let came = answers.map(|answer| byte_tokenizer().encode_target(answer).unwrap()[0]);
    assert_eq!(*order.lock().unwrap(), came);
}

#[test]
fn a_long_prompt_is_taken_in_by_parts_while_others_go_on() {
    let batch = BatchOptions {
        prefill_tokens: 50,
        ..BatchOptions::default()
    };
    let (batcher, seen) = batcher(MockLm::writing(&"z".repeat(300), &byte_tokenizer()), batch);
    let undrafted = CorrectOptions {
        draft: Draft::Off,
        ..CorrectOptions::default()
    };
    // Else a machine that is busy may have written the first before the other is asked.
    seen.close_after(3);
    let mut first = batcher.stream(Input::new("Q", "A"), &undrafted);
    first.next().unwrap().unwrap();
    let long = "x".repeat(600);
    let second = batcher.stream(Input::new("Q", &long), &undrafted);
    seen.open();
    second.wait().unwrap();
    first.wait().unwrap();
    // The first is in each pass with one row, however long the other's part is.
    let beside: Vec<_> = seen
        .passes()
        .into_iter()
        .filter(|pass| pass.len() == 2 && pass.contains(&50))
        .collect();
    assert!(beside.len() >= 11, "{beside:?}");
    assert!(beside.iter().all(|pass| pass.iter().sum::<usize>() == 51));
}

#[test]
fn what_templates_begin_with_is_computed_once() {
    let template = aligner_data::PromptTemplate::custom(
        "long",
        &format!(
            "Please correct what follows: {{question}}|{{answer}}{}",
            common::PROMPT_END
        ),
    )
    .unwrap();
    for (can_fork, expected) in [(true, "Please correct what follows: ".len()), (false, 0)] {
        let mut lm = BatchLm::new(MockLm::writing("ok", &byte_tokenizer()));
        lm.can_fork = can_fork;
        let seen = Arc::clone(&lm.seen);
        let log = lm.lm.log.clone();
        let corrector = Corrector::from_parts(lm, byte_tokenizer(), template.clone()).unwrap();
        let plain = corrector.correct("Q", "A", &CorrectOptions::default()).unwrap();
        let before = log.seen().len();
        let batcher = corrector.batcher(BatchOptions::default());
        let undrafted = CorrectOptions {
            draft: Draft::Off,
            ..CorrectOptions::default()
        };
        for _ in 0..10 {
            assert_same(
                &batcher.correct(Input::new("Q", "A"), &undrafted).unwrap(),
                &plain,
            );
        }
        // Each prompt, and the first two of the three tokens that are written.
        let alone = 10 * (plain.usage.prompt_tokens + 2);
        let computed = log.seen().len() - before;
        assert_eq!(computed, alone - 9 * expected, "fork: {can_fork}");
        drop((batcher, corrector));
        wait_until(|| seen.bytes.load(Ordering::SeqCst) == 0);
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "it does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_was_asked_before_the_last_handle_went_is_done() {
    let (batcher, seen) = batcher(
        MockLm::writing("fine", &byte_tokenizer()),
        BatchOptions::default(),
    );
    seen.close();
    let streams: Vec<_> = (0..50)
        .map(|_| batcher.stream(Input::new("Q", "A"), &CorrectOptions::default()))
        .collect();
    drop(batcher);
    seen.open();
    for stream in streams {
        assert_eq!(stream.wait().unwrap().text, "fine");
    }
    wait_until(|| seen.bytes.load(Ordering::SeqCst) == 0);
}

#[test]
fn errors_of_a_request_come_as_in_a_correction_alone() {
    let (batcher, seen) = batcher(
        MockLm::writing("x", &byte_tokenizer()).with_max_positions(10),
        BatchOptions::default(),
    );
    let long = batcher.correct(Input::new("a question", "an answer"), &CorrectOptions::default());
    assert!(matches!(
        long,
        Err(InferError::PromptTooLong {
            prompt_tokens: 21,
            ..
        })
    ));
    let wrong = CorrectOptions {
        sampling: SamplingParams {
            top_p: 2.0,
            ..SamplingParams::default()
        },
        ..CorrectOptions::default()
    };
    assert!(matches!(
        batcher.correct(Input::new("Q", "A"), &wrong),
        Err(InferError::Sampling { name: "top_p", .. })
    ));
    assert!(seen.passes().is_empty());
}

#[test]
fn corrections_of_many_come_in_the_order_of_the_inputs_and_survive_a_bad_row() {
    let corrector = corrector(babbling());
    let mut all: Vec<_> = (0..30).map(texts).collect();
    all[7].1 = "x".repeat(10_000);
    let inputs = || all.iter().map(|(question, answer)| Input::new(question, answer));
    let options = options(1);
    let batch = BatchOptions {
        max_running: 4,
        ..BatchOptions::default()
    };
    let many: Vec<_> = corrector.correct_many(inputs(), &options, batch).collect();
    assert_eq!(many.len(), 30);
    let mut own = options.clone();
    for (index, (many, input)) in many.into_iter().zip(inputs()).enumerate() {
        own.sampling.seed = part_seed(options.sampling.seed, index as u64);
        let one = corrector.correct(input.question, input.answer, &own);
        match (many, one) {
            (Ok(many), Ok(one)) => assert_same(&many, &one),
            (many, one) => {
                let refused = |result: &Result<_, _>| matches!(result, Err(InferError::PromptTooLong { .. }));
                assert!(
                    index == 7 && refused(&many) && refused(&one),
                    "{index}: {many:?} {one:?}"
                );
            }
        }
    }
}

#[test]
fn a_batcher_says_what_it_is_doing() {
    let batch = BatchOptions {
        max_running: 2,
        ..BatchOptions::default()
    };
    let (batcher, _) = batcher(MockLm::writing(&"z".repeat(3_000), &byte_tokenizer()), batch);
    let endless = CorrectOptions {
        max_new_tokens: 4_000,
        draft: Draft::Off,
        ..CorrectOptions::default()
    };
    let mut streams: Vec<_> = (0..5)
        .map(|_| batcher.stream(Input::new("Q", "A"), &endless))
        .collect();
    for stream in &mut streams[..2] {
        stream.next().unwrap().unwrap();
        stream.next().unwrap().unwrap();
    }
    wait_until(|| batcher.load().waiting == 3);
    let load = batcher.load();
    assert_eq!((load.running, load.kv_bytes), (2, 2 * 4_004));
    drop(streams);
    wait_until(|| batcher.load().running == 0 && batcher.load().waiting == 0);
}
