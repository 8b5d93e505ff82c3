//! Answers that are longer than the context, corrected in windows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aligner_data::Turn;
use aligner_infer::{
    BatchLoad, BatchOptions, Batcher, CancelToken, CorrectOptions, Corrector, FinishReason, InferError,
    Input, LongAnswers, Piece, SamplingParams, part_seed,
};
use common::batch::{BatchLm, Seen};
use common::{BYTES_VOCAB, MockLm, PROMPT_END, byte_tokenizer, corrector, one_hot, template};
use proptest::prelude::*;

/// Answers that a model was shown.
type Shown = Arc<Mutex<Vec<String>>>;

/// A corrector with a small context that writes `change(answer)` and notes every answer that it was shown.
fn changing(
    max_positions: usize,
    change: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (Corrector<MockLm>, Shown) {
    let (model, seen) = changing_lm(change);
    (corrector(model.with_max_positions(max_positions)), seen)
}

fn changing_lm(change: impl Fn(&str) -> String + Send + Sync + 'static) -> (MockLm, Shown) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let tokenizer = byte_tokenizer();
    let (end, eos) = (
        tokenizer.encode_target(&PROMPT_END.to_string()).unwrap()[0],
        tokenizer.eos_id(),
    );
    let model = MockLm::new(BYTES_VOCAB, move |ids| {
        let start = ids.iter().rposition(|&id| id == end).unwrap();
        let prompt = tokenizer.decode(&ids[..start]).unwrap();
        let answer = prompt.split_once('|').unwrap().1;
        if ids.len() == start + 1 {
            noted.lock().unwrap().push(answer.to_string());
        }
        let script = tokenizer.encode_target(&change(answer)).unwrap();
        let next = script.get(ids.len() - start - 1).copied().unwrap_or(eos);
        Ok(one_hot(next, BYTES_VOCAB))
    });
    (model, seen)
}

/// A batch of a model with a small context, whose passes can be held up.
fn batch_of(lm: MockLm, max_running: usize) -> (Batcher<BatchLm>, Arc<Seen>) {
    let mut lm = BatchLm::new(lm.with_max_positions(256));
    // Caches of shared beginnings would be counted with those of windows.
    lm.can_fork = false;
    let seen = Arc::clone(&lm.seen);
    let corrector = Corrector::from_parts(lm, byte_tokenizer(), template()).unwrap();
    let options = BatchOptions {
        max_running,
        ..BatchOptions::default()
    };
    (corrector.batcher(options), seen)
}

fn windows() -> CorrectOptions {
    CorrectOptions {
        long_answers: LongAnswers::Windows,
        ..CorrectOptions::default()
    }
}

fn sentences(count: usize) -> String {
    (0..count)
        .map(|number| format!("This is sentence number {number}. "))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn copying_every_window_gives_the_answer_byte_for_byte(
        pieces in proptest::collection::vec("[ \\n]{0,3}[a-zé世🦀]{1,9}[.!?。]{0,2}|\\n\\n```\\n|[a-z]{150}", 0..60)
    ) {
        // The mock finds the answer behind the first bar.
        let answer = pieces.concat();
        let (corrector, _) = changing(160, str::to_string);
        let correction = corrector.correct("Q", &answer, &windows()).unwrap();
        prop_assert_eq!(&correction.text, &answer);
        prop_assert_eq!(correction.finish_reason, FinishReason::Stop);
    }
}

#[test]
fn windows_end_with_sentences_and_each_is_asked_with_the_question() {
    let answer = sentences(40);
    let (corrector, seen) = changing(256, |window| window.replace("number", "no"));
    let history = [Turn {
        question: "Hi".into(),
        answer: "Hello".into(),
    }];
    let input = Input {
        question: "Is it so?",
        answer: &answer,
        chat_history: &history,
    };
    let log = corrector.model().log.clone();
    let correction = corrector
        .correct_with(input, &windows(), |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(correction.text, answer.replace("number", "no"));
    let seen = seen.lock().unwrap();
    assert!(
        seen.len() > 10
            && seen
                .iter()
                .all(|window| window.starts_with("This") && window.ends_with('.'))
    );
    let asked = byte_tokenizer().decode(&log.seen()).unwrap();
    assert_eq!(
        asked
            .matches("USER: Hi ASSISTANT: Hello USER: Is it so?|")
            .count(),
        seen.len()
    );
    // Of the context, which the mock's caches may not exceed, a good part is used.
    let longest = log.caches().into_iter().max().unwrap();
    assert!((200..=256).contains(&longest), "{longest}");
}

#[test]
fn counts_and_times_are_those_of_all_windows_together() {
    let answer = sentences(20);
    let (corrector, seen) = changing(256, str::to_string);
    let correction = corrector.correct("Q", &answer, &windows()).unwrap();
    let seen = seen.lock().unwrap();
    let text: usize = seen.iter().map(String::len).sum();
    let frame = "Q|".len() + 1;
    assert_eq!(correction.usage.prompt_tokens, text + frame * seen.len());
    assert_eq!(correction.usage.completion_tokens, text + seen.len());
    assert_eq!(correction.ids.len(), text + seen.len());
    assert!(correction.timings.prefill_seconds > 0.0 && correction.timings.decode_seconds > 0.0);
}

#[test]
fn an_answer_that_fits_is_corrected_as_ever() {
    for answer in ["", "  ", " Two sentences. With a space behind. ", "\n"] {
        let (corrector, seen) = changing(256, |answer| format!("{answer}!"));
        let one = corrector
            .correct("Q", answer, &CorrectOptions::default())
            .unwrap();
        let other = corrector.correct("Q", answer, &windows()).unwrap();
        assert_eq!(
            (one.text, one.ids, one.usage),
            (other.text, other.ids, other.usage)
        );
        assert_eq!(*seen.lock().unwrap(), [answer, answer]);
    }
}

#[test]
fn the_stream_is_the_correction_with_the_white_space_between_windows() {
    let answer = sentences(20).replace(". ", ".\n\n");
    let (corrector, _) = changing(256, str::to_string);
    let mut text = String::new();
    for piece in corrector.stream("Q", &answer, &windows()) {
        match piece.unwrap() {
            Piece::Text(piece) => text.push_str(&piece),
            Piece::Done(correction) => assert_eq!(correction.text, text),
        }
    }
    assert_eq!(text, answer);
}

#[test]
fn one_window_that_was_cut_makes_the_correction_cut() {
    let answer = sentences(20);
    let (corrector, _) = changing(256, |window| {
        let endless = window.contains("number 7.");
        if endless {
            "x".repeat(1000)
        } else {
            window.to_string()
        }
    });
    let correction = corrector.correct("Q", &answer, &windows()).unwrap();
    assert_eq!(correction.finish_reason, FinishReason::Length);
    assert!(correction.text.contains("xxxx") && correction.text.ends_with("number 19. "));
}

#[test]
fn a_cancelled_correction_keeps_what_is_done() {
    let answer = sentences(20);
    let (corrector, seen) = changing(256, str::to_string);
    let cancel = CancelToken::default();
    let options = CorrectOptions {
        cancel: cancel.clone(),
        ..windows()
    };
    let written = AtomicUsize::new(0);
    let correction = corrector
        .correct_with(Input::new("Q", &answer), &options, |text| {
            if written.fetch_add(text.len(), Ordering::Relaxed) > 150 {
                cancel.cancel();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(correction.finish_reason, FinishReason::Cancelled);
    assert!(correction.text.len() > 150 && answer.starts_with(&correction.text));
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[test]
fn windows_are_not_drawn_with_the_same_numbers() {
    let tokenizer = byte_tokenizer();
    let (end, eos) = (
        tokenizer.encode_target(&PROMPT_END.to_string()).unwrap()[0],
        tokenizer.eos_id() as usize,
    );
    // Eight letters of ten, each as probable as the others.
    let model = MockLm::new(BYTES_VOCAB, move |ids| {
        let mut scores = vec![-20.0; BYTES_VOCAB];
        match ids.iter().rev().take_while(|&&id| id != end).count() {
            0..8 => scores[70..80].fill(5.0),
            _ => scores[eos] = 5.0,
        }
        Ok(scores)
    });
    let corrector = corrector(model.with_max_positions(128));
    let options = CorrectOptions {
        sampling: SamplingParams {
            temperature: 1.0,
            ..SamplingParams::default()
        },
        ..windows()
    };
    let draw = || {
        corrector
            .correct("Q", &"Word. ".repeat(40), &options)
            .unwrap()
            .text
    };
    let parts: Vec<String> = draw().split_whitespace().map(str::to_string).collect();
    assert!(parts.len() > 3 && parts[0] != parts[1], "{parts:?}");
    assert_eq!(
        draw().split_whitespace().collect::<Vec<_>>(),
        parts,
        "the seed decides"
    );
}

#[test]
fn windows_in_a_batch_are_those_of_one_by_one() {
    let sampled = CorrectOptions {
        sampling: SamplingParams {
            temperature: 0.8,
            seed: 3,
            ..SamplingParams::default()
        },
        ..windows()
    };
    let answers: Vec<String> = (0..12)
        .map(|count| format!("\n {}\n", sentences(count * 7).replace("5. ", "5.\n\n")))
        .collect();
    for options in [windows(), sampled] {
        let (corrector, _) = changing(256, |window| window.replace("number", "no"));
        let inputs = || answers.iter().map(|answer| Input::new("Q", answer));
        let batch = BatchOptions {
            max_running: 5,
            ..BatchOptions::default()
        };
        let many: Vec<_> = corrector.correct_many(inputs(), &options, batch).collect();
        assert_eq!(many.len(), answers.len());
        let mut own = options.clone();
        for (index, (many, input)) in many.into_iter().zip(inputs()).enumerate() {
            let (many, mut streamed) = (many.unwrap(), String::new());
            own.sampling.seed = part_seed(options.sampling.seed, index as u64);
            let one = corrector.correct("Q", input.answer, &own).unwrap();
            assert_eq!((&many.text, &many.ids), (&one.text, &one.ids));
            assert_eq!(many.finish_reason, one.finish_reason);
            assert_eq!(many.usage.prompt_tokens, one.usage.prompt_tokens);
            let batcher = corrector.batcher(batch);
            for piece in batcher.stream(input, &own) {
                if let Piece::Text(text) = piece.unwrap() {
                    streamed.push_str(&text);
                }
            }
            assert_eq!(
                streamed, one.text,
                "in order, with the white space between windows"
            );
        }
    }
}

#[test]
fn a_batch_gives_up_all_windows_of_an_answer_with_one() {
    let answer = sentences(60);
    let (corrector, _) = changing(256, str::to_string);
    let few = BatchOptions {
        max_running: 2,
        ..BatchOptions::default()
    };
    // Whoever leaves leaves nothing behind.
    let batcher = corrector.batcher(few);
    let mut stream = batcher.stream(Input::new("Q", &answer), &windows());
    assert!(matches!(stream.next(), Some(Ok(Piece::Text(_)))));
    drop(stream);
    let until_idle = || {
        let started = std::time::Instant::now();
        while batcher.load() != BatchLoad::default() {
            assert!(started.elapsed().as_secs() < 60, "{:?}", batcher.load());
            std::thread::yield_now();
        }
    };
    until_idle();
    // A caller who cancels gets what was written until then.
    let cancel = CancelToken::default();
    let options = CorrectOptions {
        cancel: cancel.clone(),
        ..windows()
    };
    let mut stream = batcher.stream(Input::new("Q", &answer), &options);
    assert!(matches!(stream.next(), Some(Ok(Piece::Text(_)))));
    cancel.cancel();
    let done = stream.wait().unwrap();
    assert_eq!(done.finish_reason, FinishReason::Cancelled);
    assert!(answer.starts_with(&done.text) && done.text.len() < answer.len());
    until_idle();
    // What leaves no room for a window is refused as a whole.
    let question = "Q".repeat(240);
    let error = batcher.correct(Input::new(&question, &answer), &windows());
    assert!(matches!(error, Err(InferError::NoRoomForWindows { .. })));
}

#[test]
fn the_end_of_a_long_answer_is_told_when_none_of_its_windows_is_in_the_batch() {
    // One window fails by itself; or the listener leaves; or nothing happens.
    for (fails, leaves) in [(true, false), (false, true), (false, false)] {
        let (lm, _) = changing_lm(str::to_string);
        let tokenizer = byte_tokenizer();
        let lm = MockLm::new(BYTES_VOCAB, move |ids| match fails {
            true if tokenizer.decode(ids).unwrap().contains("number 9. ") => Ok(vec![f32::NAN; BYTES_VOCAB]),
            _ => lm.scores(ids),
        });
        let (batcher, seen) = batch_of(lm, 6);
        let (sender, ended) = std::sync::mpsc::channel();
        let held = Arc::clone(&seen);
        let on_piece = move |piece: aligner_infer::Result<Piece>| match piece {
            Ok(Piece::Text(_)) => !leaves,
            done => {
                let bytes = held.bytes.load(Ordering::SeqCst);
                sender.send((bytes, done.is_err())).unwrap();
                true
            }
        };
        batcher.start(Input::new("Q", &sentences(60)), &windows(), on_piece);
        assert_eq!(ended.recv().unwrap(), (0, fails));
        assert!(ended.recv().is_err(), "the end is told once");
        // Who leaves with the first text may do so before a second window is begun.
        let several = seen.most_bytes.load(Ordering::SeqCst) > 2 * 256;
        assert!(several || leaves, "several at once");
    }
}

#[test]
fn long_answers_do_not_keep_a_short_one_waiting_until_their_end() {
    let (lm, shown) = changing_lm(str::to_string);
    let (batcher, seen) = batch_of(lm, 4);
    seen.close();
    let (long, other) = (sentences(60), sentences(50));
    let streams = [&long, &other, "Short."].map(|answer| batcher.stream(Input::new("Q", answer), &windows()));
    seen.open();
    let texts = streams.map(|stream| stream.wait().unwrap().text);
    assert_eq!(texts, [&long, &other, "Short."]);
    // Before it come as many windows as are computed together, and one of the answer that found no more places.
    let shown = shown.lock().unwrap();
    let before = shown.iter().position(|answer| answer == "Short.").unwrap();
    assert!(before <= 5 && shown.len() > 20, "{before} of {}", shown.len());
}

#[test]
fn what_does_not_fit_is_refused_unless_windows_are_asked_for() {
    let (corrector, seen) = changing(256, str::to_string);
    let error = corrector
        .correct("Q", &sentences(40), &CorrectOptions::default())
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("256") && error.contains("--long windows"),
        "{error}"
    );
    let error = corrector
        .correct(&"Q".repeat(240), &sentences(40), &windows())
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("question alone") && error.contains("242 tokens"),
        "{error}"
    );
    let short = CorrectOptions {
        max_new_tokens: 20,
        ..windows()
    };
    let error = corrector
        .correct("Q", &sentences(40), &short)
        .unwrap_err()
        .to_string();
    assert!(error.contains("--max-new-tokens"), "{error}");
    assert!(seen.lock().unwrap().is_empty());
    // As much as there is of white space alone cannot be cut.
    let error = corrector
        .correct("Q", &" ".repeat(400), &windows())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("402 tokens") || error.contains("403 tokens"),
        "{error}"
    );
}

#[test]
fn a_megabyte_takes_a_moment_to_cut() {
    // The model writes nothing, so that cutting is what takes time.
    for unit in ["a", "word ", "\n", "<eos>"] {
        let answer = unit.repeat((1 << 20) / unit.len());
        let eos = byte_tokenizer().eos_id();
        let model = MockLm::new(BYTES_VOCAB, move |_| Ok(one_hot(eos, BYTES_VOCAB)));
        let corrector =
            Corrector::from_parts(model.with_max_positions(8192), byte_tokenizer(), template()).unwrap();
        let started = std::time::Instant::now();
        let done = corrector.correct("Q", &answer, &windows());
        // Blank through and through, and too long: refused.
        assert_eq!(done.is_err(), unit == "\n");
        // Quadratic time would be hours.
        assert!(
            started.elapsed().as_secs() < 120,
            "{unit:?}: {:?}",
            started.elapsed()
        );
    }
}
