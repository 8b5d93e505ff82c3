//! Servers that fail.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use aligner_eval::judge::{self, ApiKey, JudgeConfig, Progress};
use aligner_eval::{Dimension, Judgement, Result, Verdict};

use crate::fake::{Answer, FakeJudge, longer};
use crate::{cache, config, outcome};

fn one(config: &JudgeConfig) -> (Result<Vec<Judgement>>, Progress) {
    let (_directory, path) = cache();
    let mut last = Progress::default();
    let judgements = judge::judge(
        &[outcome(7, "an answer", "a longer answer")],
        config,
        &path,
        |progress| last = progress,
    );
    (judgements, last)
}

fn one_dimension(judge: &FakeJudge) -> JudgeConfig {
    let mut config = config(judge);
    config.dimensions = vec![Dimension::Honest];
    config.parallel = 1;
    config
}

#[test]
fn a_judge_that_asks_to_wait_is_asked_again_later() {
    let judge = FakeJudge::start(|number, seen| match number {
        0 => Answer {
            headers: vec![("Retry-After", "1".into())],
            ..Answer::fails(429, "slow down")
        },
        1 => Answer::fails(503, "busy"),
        2 => Answer {
            status: 0,
            ..Answer::says("")
        },
        3 => Answer {
            body: "<html>".into(),
            ..Answer::says("")
        },
        _ => longer(number, seen),
    });
    let (judgements, progress) = one(&one_dimension(&judge));
    assert!(
        judgements
            .unwrap()
            .iter()
            .all(|judgement| judgement.verdict == Verdict::Win)
    );
    let seen = judge.seen();
    assert_eq!(seen.len(), 6);
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(1));
    assert_eq!((progress.done, progress.calls, progress.retries), (2, 2, 4));
    assert_eq!((progress.prompt_tokens, progress.completion_tokens), (200, 20));
}

#[test]
fn a_wait_that_is_too_long_ends_the_run() {
    let judge = FakeJudge::start(|_, _| Answer {
        headers: vec![("Retry-After", "86400".into())],
        ..Answer::fails(429, "quota of the day")
    });
    let error = one(&one_dimension(&judge)).0.unwrap_err().to_string();
    assert!(
        error.contains("86400 s") && error.contains("quota of the day"),
        "{error}"
    );
    assert_eq!(judge.count(), 1);
}

#[test]
fn a_server_that_always_fails_ends_with_its_url_and_the_row() {
    let judge = FakeJudge::start(|_, _| Answer::fails(500, "out of order"));
    let mut config = config(&judge);
    config.retries = 3;
    let error = one(&config).0.unwrap_err().to_string();
    let url = format!("{}/chat/completions", judge.url);
    for part in [
        &url,
        "row 1",
        "\"riddles\"",
        "\"parrot\"",
        "\"owl\"",
        "\"q7\"",
        "out of order",
        "4 times",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn what_would_fail_again_is_not_tried_again() {
    for (status, message) in [
        (400, "no such model"),
        (401, "who are you"),
        (404, "nothing here"),
        (302, "elsewhere"),
    ] {
        let judge = FakeJudge::start(move |_, _| Answer::fails(status, message));
        let error = one(&one_dimension(&judge)).0.unwrap_err().to_string();
        assert!(
            error.contains(message) && error.contains(&status.to_string()),
            "{error}"
        );
        assert_eq!(judge.count(), 1, "{status}");
    }
    let judge = FakeJudge::start(|_, _| Answer {
        body: r#"{"error": {"message": "pay first", "code": "insufficient_quota"}}"#.into(),
        ..Answer::fails(429, "")
    });
    assert!(
        one(&one_dimension(&judge))
            .0
            .unwrap_err()
            .to_string()
            .contains("pay first")
    );
    assert_eq!(judge.count(), 1);
}

#[test]
fn a_failure_ends_the_waits_of_other_threads() {
    // Two calls are on their way; one is told to wait for a minute, the other is refused.
    let both = Barrier::new(2);
    let judge = FakeJudge::start(move |number, _| {
        if number < 2 {
            both.wait();
        }
        if number == 0 {
            return Answer {
                headers: vec![("Retry-After", "60".into())],
                ..Answer::fails(429, "slow down")
            };
        }
        std::thread::sleep(Duration::from_millis(300));
        Answer::fails(400, "no such model")
    });
    let mut config = config(&judge);
    config.parallel = 2;
    let begin = Instant::now();
    assert!(one(&config).0.unwrap_err().to_string().contains("no such model"));
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_silent_server_is_given_up() {
    let judge = FakeJudge::start(|_, _| {
        std::thread::sleep(Duration::from_secs(30));
        Answer::says("[[A]]")
    });
    let mut config = one_dimension(&judge);
    config.timeout = Duration::from_millis(200);
    config.retries = 1;
    let error = one(&config).0.unwrap_err().to_string();
    assert!(error.contains("timeout") && error.contains("2 times"), "{error}");
}

#[test]
fn nobody_there_is_an_error_with_the_url() {
    let mut config = JudgeConfig::new("http://127.0.0.1:1/v1", "fake");
    config.retries = 0;
    let error = one(&config).0.unwrap_err().to_string();
    assert!(
        error.contains("http://127.0.0.1:1/v1/chat/completions"),
        "{error}"
    );
}

#[test]
fn the_key_is_sent_and_shown_nowhere() {
    // Any variable that cargo sets for tests will do as a key.
    let variable = "CARGO_MANIFEST_DIR";
    let key = std::env::var(variable).unwrap();
    let echo = |status| {
        FakeJudge::start(move |_, seen| Answer::fails(status, seen.authorization.as_deref().unwrap()))
    };
    for status in [401, 500] {
        let judge = echo(status);
        let mut config = one_dimension(&judge);
        config.api_key = Some(ApiKey::from_env(variable).unwrap());
        config.retries = 1;
        let error = one(&config).0.unwrap_err();
        assert_eq!(judge.seen()[0].authorization, Some(format!("Bearer {key}")));
        for shown in [error.to_string(), format!("{error:?}"), format!("{config:?}")] {
            assert!(!shown.contains(&key), "{shown}");
        }
        assert!(error.to_string().contains("Bearer [key]"), "{error}");
    }
    let error = ApiKey::from_env("ALIGNER_EVAL_NO_SUCH_KEY")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("ALIGNER_EVAL_NO_SUCH_KEY") && error.contains("not set"),
        "{error}"
    );
}

#[test]
fn settings_that_make_no_sense_are_refused_before_anything_is_asked() {
    let judge = FakeJudge::start(longer);
    type Spoil = fn(&mut JudgeConfig);
    let spoils: [(Spoil, &str); 9] = [
        (|config| config.url = "localhost:8000".into(), "URL"),
        (
            |config| config.url = "https://user:secret@host/v1".into(),
            "password",
        ),
        (|config| config.model.clear(), "no name"),
        (|config| config.dimensions.clear(), "nothing"),
        (|config| config.dimensions.push(Dimension::Honest), "twice"),
        (|config| config.parallel = 0, "one call"),
        (|config| config.requests_per_minute = Some(0), "0 requests"),
        (|config| config.temperature = f64::NAN, "temperature"),
        (
            |config| drop(config.extra.insert("messages".into(), 1.into())),
            "\"messages\"",
        ),
    ];
    for (spoil, expected) in spoils {
        let mut config = config(&judge);
        spoil(&mut config);
        let error = one(&config).0.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("secret"), "{error}");
    }
    assert_eq!(judge.count(), 0);
}
