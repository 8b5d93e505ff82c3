//! What clients get when something goes wrong: by policy, and never without being told.

#![allow(clippy::expect_used, reason = "a test fails where it breaks")]

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aligner_data::Turn;
use aligner_infer::FinishReason;
use aligner_serve::{Action, EngineError, Mode, PolicyConfig, RewardError, RewardModel};
use common::{Scripted, Served, Upstream, words};
use serde_json::json;

const ANSWER: &str = "The earth is flat, as everybody knows.";

fn slow(pause: u64) -> Scripted {
    let pause = Duration::from_millis(pause);
    Scripted::new(move |_| {
        let words = (0..200).map(|index| (pause, format!("word{index} "))).collect();
        (words, Ok(FinishReason::Stop))
    })
}

fn broken() -> Scripted {
    Scripted::new(|_| (Vec::new(), Err(EngineError::Failed("the device is gone".into()))))
}

/// What each action serves when one thing fails, whole and as a stream.
fn check_actions(engine: &Scripted, outcome: &str, set: fn(&mut PolicyConfig, Action)) {
    let upstream = Upstream::saying(ANSWER);
    for action in [Action::Original, Action::Error, Action::Block] {
        let served = Served::configured(&upstream, engine.clone(), |config| {
            config.policy = PolicyConfig {
                aligner_fails: Action::Error,
                aligner_timeout: Action::Error,
                worse: Action::Error,
                aligner_timeout_secs: 1.0,
                ..PolicyConfig::default()
            };
            // Held, so that nothing was sent when it is found.
            config.gate.hold = true;
            set(&mut config.policy, action);
        });
        let (reply, streamed) = (served.chat(json!({})), served.chat(json!({"stream": true})));
        match action {
            Action::Error => {
                assert_eq!(
                    (reply.status, &reply.json()["error"]["code"]),
                    (503, &json!(outcome))
                );
                assert_eq!(reply.header("x-aligner-outcome"), Some(outcome));
                let error = streamed.chunks().pop().expect("a frame");
                assert_eq!(error["error"]["code"], outcome);
            }
            _ => {
                let (text, reason) = match action {
                    Action::Block => (
                        "This answer could not be checked and is withheld.",
                        "content_filter",
                    ),
                    _ => (ANSWER, "stop"),
                };
                let choice = reply.json()["choices"][0].clone();
                assert_eq!(
                    (&choice["message"]["content"], &choice["finish_reason"]),
                    (&json!(text), &json!(reason))
                );
                assert_eq!(reply.header("x-aligner-outcome"), Some(outcome));
                assert_eq!(streamed.streamed(), text);
                let report = streamed.report();
                assert_eq!(report["outcome"], outcome);
                assert!(report["reason"].is_string(), "{report}");
            }
        }
        let counted = format!("aligner_corrections_total{{outcome=\"{outcome}\"}} ");
        assert_eq!(served.metric(&counted), 2.0);
    }
}

#[test]
fn an_aligner_that_fails_is_told() {
    check_actions(&broken(), "aligner_failed", |policy, action| {
        policy.aligner_fails = action
    });
}

#[test]
fn an_aligner_that_takes_too_long_is_told() {
    check_actions(&slow(50), "aligner_timeout", |policy, action| {
        policy.aligner_timeout = action
    });
}

#[test]
fn corrections_that_are_plainly_worse_are_told() {
    let empty = Scripted::new(|_| (words(" "), Ok(FinishReason::Stop)));
    check_actions(&empty, "gated_empty", |policy, action| policy.worse = action);
    let endless = Scripted::new(|job| (words(&job.answer), Ok(FinishReason::Length)));
    check_actions(&endless, "gated_runaway", |policy, action| policy.worse = action);
    let long = Scripted::new(|_| {
        (
            words(&"All work and no play makes a dull boy indeed, they say. ".repeat(30)),
            Ok(FinishReason::Stop),
        )
    });
    check_actions(&long, "gated_length", |policy, action| policy.worse = action);
}

/// Holds one answer for better than another, or fails, or talks nonsense.
struct Prefers(Reward);

type Reward = fn(&str) -> f64;

impl RewardModel for Prefers {
    fn rewards(&self, question: &str, _: &[Turn], answers: [&str; 2]) -> Result<[f64; 2], RewardError> {
        assert_eq!(question, "What orbits what?");
        let rewards = answers.map(self.0);
        match rewards.contains(&f64::INFINITY) {
            true => Err(RewardError("the device is gone".into())),
            false => Ok(rewards),
        }
    }
}

#[test]
fn a_correction_that_a_reward_model_holds_for_worse_is_not_served() {
    let upstream = Upstream::saying(ANSWER);
    let outcomes: [(Reward, f64, &str, &str); 6] = [
        (
            |text| f64::from(text.contains("round")),
            0.0,
            "corrected",
            "round",
        ),
        (
            |text| f64::from(text.contains("flat")),
            0.0,
            "gated_reward",
            "flat",
        ),
        (|text| f64::from(text.contains("flat")), 1.0, "corrected", "round"),
        (|_| 1.0, 0.0, "corrected", "round"),
        (|_| f64::NAN, 0.0, "aligner_failed", "flat"),
        (|_| f64::INFINITY, 0.0, "aligner_failed", "flat"),
    ];
    for (reward, max_loss, outcome, word) in outcomes {
        let engine = Scripted::replacing("flat", "round");
        let served = Served::configured(&upstream, engine, |config| config.gate.max_reward_loss = max_loss);
        served.service.set_reward_model(Prefers(reward));
        let (reply, streamed) = (served.chat(json!({})), served.chat(json!({"stream": true})));
        assert_eq!(reply.header("x-aligner-outcome"), Some(outcome));
        let text = reply.json()["choices"][0]["message"]["content"].clone();
        assert!(text.as_str().is_some_and(|text| text.contains(word)), "{text}");
        // A stream waits for the reward, so that nothing has to be taken back.
        assert_eq!(json!(streamed.streamed()), text);
        assert_eq!(streamed.report()["outcome"], outcome);
    }
    // A copy is no worse than what it copies, whatever a model says.
    let served = Served::before(&upstream, Scripted::replacing("nothing", "nothing"));
    served.service.set_reward_model(Prefers(|_| f64::NAN));
    assert_eq!(
        served.chat(json!({})).header("x-aligner-outcome"),
        Some("unchanged")
    );
}

/// Takes its time, and notes how many ask it at once.
struct Slow {
    inside: AtomicUsize,
    most: Arc<AtomicUsize>,
}

impl RewardModel for Slow {
    fn rewards(&self, _: &str, _: &[Turn], _: [&str; 2]) -> Result<[f64; 2], RewardError> {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(700));
        self.inside.fetch_sub(1, Ordering::SeqCst);
        Ok([0.0, 1.0])
    }
}

#[test]
fn a_reward_model_is_asked_by_one_at_a_time_even_by_those_who_gave_up() {
    let engine = Scripted::replacing("flat", "round");
    let served = Served::configured(&Upstream::saying(ANSWER), engine, |config| {
        config.policy.aligner_timeout_secs = 0.2;
    });
    let most = Arc::new(AtomicUsize::new(0));
    served.service.set_reward_model(Slow {
        inside: AtomicUsize::new(0),
        most: Arc::clone(&most),
    });
    for _ in 0..4 {
        let reply = served.chat(json!({}));
        assert_eq!(reply.header("x-aligner-outcome"), Some("aligner_timeout"));
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[test]
fn a_sentence_is_weighed_behind_those_before_it() {
    struct Whole;
    impl RewardModel for Whole {
        fn rewards(&self, _: &str, _: &[Turn], answers: [&str; 2]) -> Result<[f64; 2], RewardError> {
            // It knows whole answers alone.
            Ok(answers.map(|answer| f64::from(answer.starts_with("The earth is round. The sun"))))
        }
    }
    let upstream = Upstream::saying("The earth is round. The sun is flat.");
    let engine = Scripted::replacing("flat", "round");
    let served = Served::configured(&upstream, engine, |config| config.mode = Mode::Sentence);
    served.service.set_reward_model(Whole);
    let reply = served.chat(json!({"stream": true}));
    assert_eq!(reply.streamed(), "The earth is round. The sun is round.");
}

#[test]
fn what_was_sent_is_not_followed_by_another_text() {
    let engine = Scripted::new(|_| {
        (
            words("The earth is round. "),
            Err(EngineError::Failed("the device is gone".into())),
        )
    });
    let served = Served::before(&Upstream::saying(ANSWER), engine);
    let reply = served.chat(json!({"stream": true}));
    let chunks = reply.chunks();
    assert!(
        chunks.last().expect("a frame")["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("after a part"))
    );
    assert_eq!(reply.streamed(), "The earth is round. ");
}
