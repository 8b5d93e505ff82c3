//! Corrections that come piece by piece, from a thread of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aligner_infer::{CorrectOptions, Correction, FinishReason, InferError, Piece, SamplingParams};
use common::{MockLm, byte_tokenizer, corrector, corrector_writing, one_hot};

/// The pieces of text and the correction behind them, which must be the last item.
fn drain(stream: impl Iterator<Item = aligner_infer::Result<Piece>>) -> (Vec<String>, Correction) {
    let (mut pieces, mut done) = (Vec::new(), None);
    for piece in stream {
        assert!(done.is_none(), "something comes after the end");
        match piece.unwrap() {
            Piece::Text(text) => pieces.push(text),
            Piece::Done(correction) => done = Some(correction),
        }
    }
    (pieces, done.unwrap())
}

#[test]
fn the_pieces_joined_are_the_correction() {
    let corrector = corrector(MockLm::hashed(common::BYTES_VOCAB));
    for seed in 0..20 {
        // Random bytes: most characters are broken.
        let sampling = SamplingParams {
            temperature: 1.0,
            seed,
            ..SamplingParams::default()
        };
        let options = || CorrectOptions {
            sampling,
            max_new_tokens: 200,
            ..CorrectOptions::default()
        };
        let expected = corrector.correct("Q", "A", &options()).unwrap();
        let (pieces, done) = drain(corrector.stream("Q", "A", &options()));
        assert_eq!(pieces.concat(), expected.text);
        assert_eq!((done.text, done.ids), (expected.text, expected.ids));
        assert_eq!(
            (done.finish_reason, done.usage.completion_tokens),
            (expected.finish_reason, expected.usage.completion_tokens)
        );
    }
}

#[test]
fn text_comes_while_it_is_made() {
    let (pieces, done) = drain(corrector_writing("né 🦀").stream("Q", "A", &CorrectOptions::default()));
    assert_eq!(pieces, ["n", "é", " ", "🦀"]);
    assert_eq!(done.finish_reason, FinishReason::Stop);
}

#[test]
fn an_error_is_the_only_item() {
    let corrector = corrector(MockLm::writing("x", &byte_tokenizer()).with_max_positions(10));
    let items: Vec<_> = corrector
        .stream("a question", "an answer", &CorrectOptions::default())
        .collect();
    assert!(
        matches!(
            items.as_slice(),
            [Err(InferError::PromptTooLong {
                prompt_tokens: 21,
                ..
            })]
        ),
        "{items:?}"
    );
}

#[test]
fn an_error_in_the_middle_comes_after_the_text_before_it() {
    let model = MockLm::new(common::BYTES_VOCAB, |ids| {
        Ok(if ids.len() < 7 {
            one_hot(byte_tokenizer().encode_target("x").unwrap()[0], 258)
        } else {
            vec![f32::NAN; 258]
        })
    });
    let items: Vec<_> = corrector(model)
        .stream("Q", "A", &CorrectOptions::default())
        .collect();
    let (last, text) = items.split_last().unwrap();
    assert_eq!(text.len(), 3);
    assert!(
        text.iter()
            .all(|item| matches!(item, Ok(Piece::Text(text)) if text == "x"))
    );
    assert!(matches!(last, Err(InferError::BadLogits { position: 7 })));
}

#[test]
fn a_cancelled_stream_ends_with_what_there_is() {
    let corrector = corrector_writing(&"z".repeat(100_000)).clone();
    let options = CorrectOptions {
        max_new_tokens: 3000,
        ..CorrectOptions::default()
    };
    let mut stream = corrector.stream("Q", "A", &options);
    assert!(matches!(stream.next(), Some(Ok(Piece::Text(_)))));
    options.cancel.cancel();
    let (pieces, done) = drain(stream);
    assert_eq!(done.finish_reason, FinishReason::Cancelled);
    assert_eq!(pieces.concat().len() + 1, done.text.len());
    assert!(done.ids.len() < 3000, "{}", done.ids.len());
}

struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_dropped_stream_lets_the_model_go() {
    let gone = Arc::new(AtomicBool::new(false));
    let guard = Dropped(Arc::clone(&gone));
    let mut model = MockLm::new(common::BYTES_VOCAB, move |_| {
        let _kept = &guard;
        thread::sleep(Duration::from_millis(1));
        Ok(one_hot(70, 258))
    });
    model.max_positions = 10_000_000;
    let corrector = corrector(model);
    let options = CorrectOptions {
        max_new_tokens: 1_000_000,
        ..CorrectOptions::default()
    };
    let mut stream = corrector.stream("Q", "A", &options);
    assert!(stream.next().is_some());
    drop((stream, corrector));
    let started = Instant::now();
    while !gone.load(Ordering::SeqCst) {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the thread goes on without a listener"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_slow_reader_holds_the_model_back() {
    let mut model = MockLm::new(common::BYTES_VOCAB, |_| Ok(one_hot(70, 258)));
    model.max_positions = 1_000_000;
    let log = model.log.clone();
    let options = CorrectOptions {
        max_new_tokens: 100_000,
        ..CorrectOptions::default()
    };
    let stream = corrector(model).stream("Q", "A", &options);
    let mut before = 0;
    loop {
        thread::sleep(Duration::from_millis(100));
        let calls = log.calls().len();
        if calls == before && calls > 0 {
            break;
        }
        before = calls;
    }
    assert!(before < 100, "{before} tokens were made that nobody has read");
    drop(stream);
}
