//! What is known before a call is made, and how fast calls are made.

use std::time::{Duration, Instant};

use aligner_eval::judge::{self, Price};

use crate::fake::{FakeJudge, longer};
use crate::{cache, config, outcomes};

#[test]
fn an_estimate_counts_what_is_asked_and_asks_nothing() {
    let judge = FakeJudge::start(longer);
    let (_directory, path) = cache();
    let mut config = config(&judge);
    config.max_tokens = 500;
    let plain = judge::estimate(&outcomes(9), &config, &path).unwrap();
    assert_eq!(
        (plain.pairs, plain.identical, plain.calls, plain.cached),
        (9, 3, 36, 0)
    );
    assert_eq!(
        (plain.most_completion_tokens, plain.most_cost, plain.least_secs),
        (Some(18_000), None, None)
    );
    assert_eq!(judge.count(), 0);
    assert!(!path.exists());

    config.price = Some(Price {
        prompt_per_million: 2.0,
        completion_per_million: 10.0,
    });
    config.requests_per_minute = Some(70);
    let priced = judge::estimate(&outcomes(9), &config, &path).unwrap();
    let prompt = plain.prompt_tokens as f64 * 2e-6;
    assert!((priced.prompt_cost.unwrap() - prompt).abs() < 1e-12);
    assert!((priced.most_cost.unwrap() - prompt - 0.18).abs() < 1e-12);
    assert!((priced.least_secs.unwrap() - 30.0).abs() < 1e-9);

    // What is sent is what was counted.
    config.requests_per_minute = None;
    judge::judge(&outcomes(6), &config, &path, |_| {}).unwrap();
    let chars = |seen: &crate::fake::Seen| -> u64 {
        let content = |at: usize| {
            seen.body["messages"][at]["content"]
                .as_str()
                .unwrap()
                .chars()
                .count() as u64
        };
        (content(0) + content(1)).div_ceil(judge::CHARS_PER_TOKEN)
    };
    let sent: u64 = judge.seen().iter().map(chars).sum();
    let rest = judge::estimate(&outcomes(9), &config, &path).unwrap();
    assert_eq!((rest.calls, rest.cached), (12, 24));
    assert_eq!(rest.prompt_tokens + sent, plain.prompt_tokens);
    let done = judge::estimate(&outcomes(6), &config, &path).unwrap();
    assert_eq!(
        (done.calls, done.prompt_tokens, done.most_cost),
        (0, 0, Some(0.0))
    );
}

#[test]
fn no_more_calls_begin_in_a_minute_than_allowed() {
    let judge = FakeJudge::start(longer);
    let (_directory, path) = cache();
    let mut config = config(&judge);
    config.requests_per_minute = Some(1200);
    config.parallel = 8;
    let begin = Instant::now();
    judge::judge(&outcomes(2), &config, &path, |_| {}).unwrap();
    assert_eq!(judge.count(), 6);
    // Six calls have five gaps of 50 ms between them.
    assert!(
        begin.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begin.elapsed()
    );
}
