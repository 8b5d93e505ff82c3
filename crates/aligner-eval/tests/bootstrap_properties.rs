//! What holds for any corrections and any options.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashSet;

use aligner_data::{Turn, is_copy};
use aligner_eval::bootstrap::{self, BootstrapFormat, BootstrapOptions, Filters, Upstreams};
use aligner_eval::{Item, Outcome, ScoreKind, Scored};
use proptest::option;
use proptest::prelude::*;

/// Texts that are often the same, or nearly.
fn text() -> impl Strategy<Value = String> {
    let words = [
        "yes",
        "no",
        "Yes",
        "bees",
        "fly",
        "",
        "?!",
        " ",
        "I can't help with that.",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..6)
        .prop_map(|words| words.join(" "))
}

prop_compose! {
    fn outcome()(
        (question, answer, output) in (text(), text(), text()),
        history in option::of((text(), text())),
        upstream in proptest::sample::select(vec!["one", "two"]),
        is_cut in proptest::bool::weighted(0.1),
    ) -> Outcome {
        let turn = |(question, answer)| Turn { question, answer };
        Outcome {
            item: Item {
                dataset: "own".into(),
                question,
                answer,
                upstream: upstream.into(),
                chat_history: history.map(turn).into_iter().collect(),
                ..Item::default()
            },
            output,
            aligner: "fixer".into(),
            is_cut,
            ..Outcome::default()
        }
    }
}

prop_compose! {
    fn outcomes()(mut outcomes in proptest::collection::vec(outcome(), 1..40)) -> Vec<Outcome> {
        for (at, outcome) in outcomes.iter_mut().enumerate() {
            outcome.item.id = at.to_string();
        }
        outcomes
    }
}

prop_compose! {
    fn options()(
        format in proptest::sample::select(vec![BootstrapFormat::Sft, BootstrapFormat::Dpo, BootstrapFormat::Kto]),
        upstream in proptest::sample::select(vec![Upstreams::All, Upstreams::One("one".into())]),
        min_edit_ratio in option::of(0.0..0.5),
        max_edit_ratio in option::of(0.5..=1.0),
        min_reward_margin in option::of(-1.0..1.0),
        near_threshold in option::of(0.3..=1.0),
        (allow_higher_cost, drop_new_refusals) in any::<(bool, bool)>(),
        valid_share in 0.0..0.9,
        seed in any::<u64>(),
    ) -> BootstrapOptions {
        BootstrapOptions {
            format,
            upstream,
            filters: Filters {
                min_edit_ratio, max_edit_ratio, min_reward_margin, near_threshold, allow_higher_cost, drop_new_refusals,
            },
            valid_share,
            seed,
            ..BootstrapOptions::default()
        }
    }
}

fn scores(outcomes: &[Outcome], margins: &[(f64, f64)]) -> Vec<Scored> {
    let both = [ScoreKind::Reward, ScoreKind::Cost];
    let pairs = outcomes.iter().zip(margins);
    let row = |kind, outcome: &Outcome, margin: f64| Scored {
        id: outcome.item.id.clone(),
        dataset: "own".into(),
        upstream: outcome.item.upstream.clone(),
        aligner: "fixer".into(),
        fingerprint: outcome.fingerprint(),
        kind,
        original: 0.0,
        output: margin,
        scorer: "scales".into(),
    };
    pairs
        .flat_map(|(outcome, margins)| {
            both.map(|kind| {
                row(
                    kind,
                    outcome,
                    if kind == ScoreKind::Reward {
                        margins.0
                    } else {
                        margins.1
                    },
                )
            })
        })
        .collect()
}

fn folded(question: &str) -> String {
    question
        .to_lowercase()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_correction_is_kept_or_counted_and_no_copy_comes_out(
        outcomes in outcomes(),
        margins in proptest::collection::vec((-2.0..2.0, -2.0..2.0), 1..40),
        options in options(),
    ) {
        let scores = scores(&outcomes, &margins);
        let Ok(rows) = bootstrap::rows(&outcomes, &scores, &options) else { return Ok(()) };
        let counts = &rows.counts;
        prop_assert_eq!(counts.input, outcomes.len() as u64);
        prop_assert_eq!(counts.kept + counts.dropped.values().sum::<u64>(), counts.input);
        prop_assert_eq!((counts.train, counts.valid), (rows.train.len() as u64, rows.valid.len() as u64));
        prop_assert_eq!(counts.train + counts.valid, counts.kept);
        let mut asked = HashSet::new();
        for outcome in rows.train.iter().chain(&rows.valid) {
            prop_assert!(!is_copy(&outcome.item.answer, &outcome.output));
            prop_assert!(!outcome.output.trim().is_empty() && !outcome.is_cut);
            let turns: Vec<_> = outcome.item.chat_history.iter().map(|turn| (&turn.question, &turn.answer)).collect();
            prop_assert!(asked.insert((&outcome.item.question, turns)), "a question twice");
        }
        let side = |rows: &[&Outcome]| -> HashSet<String> {
            rows.iter().map(|outcome| folded(&outcome.item.question)).collect()
        };
        prop_assert!(side(&rows.train).is_disjoint(&side(&rows.valid)));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes(outcomes in outcomes(), options in options()) {
        let filters = Filters { min_reward_margin: None, ..options.filters.clone() };
        let options = BootstrapOptions { filters, ..options };
        let Ok(rows) = bootstrap::rows(&outcomes, &[], &options) else { return Ok(()) };
        let lab = tempfile::tempdir().unwrap();
        let again = outcomes.clone();
        let again = bootstrap::rows(&again, &[], &options).unwrap();
        bootstrap::write(&rows, &lab.path().join("a"), &[], false).unwrap();
        bootstrap::write(&again, &lab.path().join("b"), &[], false).unwrap();
        for name in ["train.jsonl", "valid.jsonl", "manifest.json"] {
            let bytes = |dir: &str| std::fs::read(lab.path().join(dir).join(name)).ok();
            prop_assert_eq!(bytes("a"), bytes("b"));
        }
    }
}
