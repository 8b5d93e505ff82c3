//! Requests that end before their time: dropped, cancelled, failed.

use super::*;

/// A batcher of one at a time, whose model writes on and on, and a request that lets it.
fn one_endless_at_a_time() -> (Batcher<BatchLm>, Arc<Seen>, CorrectOptions) {
    let batch = BatchOptions {
        max_running: 1,
        ..BatchOptions::default()
    };
    let (batcher, seen) = batcher(MockLm::writing(&"z".repeat(3_000), &byte_tokenizer()), batch);
    let endless = CorrectOptions {
        max_new_tokens: 4_000,
        draft: Draft::Off,
        ..CorrectOptions::default()
    };
    (batcher, seen, endless)
}

#[test]
fn a_dropped_stream_gives_its_place_back() {
    let (batcher, _, endless) = one_endless_at_a_time();
    for _ in 0..20 {
        let mut stream = batcher.stream(Input::new("Q", "A"), &endless);
        // Some are dropped while they wait, some while they are written.
        drop(batcher.stream(Input::new("Q", "A"), &endless));
        stream.next().unwrap().unwrap();
    }
    let last = CorrectOptions {
        max_new_tokens: 3,
        ..CorrectOptions::default()
    };
    assert_eq!(batcher.correct(Input::new("Q", "A"), &last).unwrap().text, "zzz");
}

#[test]
fn cancellation_reaches_those_that_wait_and_those_that_are_computed() {
    let (batcher, seen, endless) = one_endless_at_a_time();
    let mut running = batcher.stream(Input::new("Q", "A"), &endless);
    let waiting = batcher.stream(Input::new("Q", "A"), &endless);
    running.next().unwrap().unwrap();
    seen.close();
    endless.cancel.cancel();
    seen.open();
    let running = running.wait().unwrap();
    assert_eq!(running.finish_reason, FinishReason::Cancelled);
    assert!((1..3_000).contains(&running.ids.len()));
    let waiting = waiting.wait().unwrap();
    assert_eq!(
        (waiting.finish_reason, waiting.ids.len()),
        (FinishReason::Cancelled, 0)
    );
}

#[test]
fn a_model_that_fails_or_panics_fails_its_requests_and_serves_the_next() {
    for panics in [true, false] {
        let calls = AtomicUsize::new(0);
        let lm = MockLm::new(BYTES_VOCAB, move |_| {
            if calls.fetch_add(1, Ordering::SeqCst) == 6 {
                assert!(!panics, "the device is gone");
                return Err(InferError::BadLogits { position: 77 });
            }
            Ok(one_hot(70, BYTES_VOCAB))
        });
        let (batcher, seen) = batcher(lm, BatchOptions::default());
        let options = CorrectOptions {
            max_new_tokens: 20,
            draft: Draft::Off,
            ..CorrectOptions::default()
        };
        seen.close();
        let streams: Vec<_> = (0..4)
            .map(|_| batcher.stream(Input::new("Q", "A"), &options))
            .collect();
        seen.open();
        let ended: Vec<_> = streams.into_iter().map(|stream| stream.wait()).collect();
        let failed = ended.iter().filter(|end| end.is_err()).count();
        assert!(failed >= 1);
        for error in ended.into_iter().filter_map(Result::err) {
            let text = error.to_string();
            assert!(
                text.contains(if panics { "panicked" } else { "token 77" }),
                "{text}"
            );
        }
        let next = batcher.correct(Input::new("Q", "A"), &options).unwrap();
        assert_eq!(next.ids.len(), 20);
        drop(batcher);
        wait_until(|| seen.bytes.load(Ordering::SeqCst) == 0);
    }
}

#[test]
fn scores_that_are_no_numbers_fail_their_own_request_alone() {
    let bad = byte_tokenizer().encode_target("!").unwrap()[0];
    let lm = MockLm::new(BYTES_VOCAB, move |ids| {
        let is_bad = ids.contains(&bad) && ids.len() > 8;
        Ok(if is_bad {
            vec![f32::NAN; BYTES_VOCAB]
        } else {
            one_hot(70, BYTES_VOCAB)
        })
    });
    let (batcher, seen) = batcher(lm, BatchOptions::default());
    let options = CorrectOptions {
        max_new_tokens: 20,
        ..CorrectOptions::default()
    };
    seen.close();
    let streams = ["A", "!", "B"].map(|answer| batcher.stream(Input::new("Q", answer), &options));
    seen.open();
    let [a, bad, b] = streams.map(|stream| stream.wait());
    assert!(
        matches!(bad, Err(InferError::BadLogits { position: 9 })),
        "{bad:?}"
    );
    assert_eq!((a.unwrap().ids.len(), b.unwrap().ids.len()), (20, 20));
}
