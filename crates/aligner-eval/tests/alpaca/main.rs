//! AlpacaEval's win rates against scikit-learn's on rows of our own; see `../golden/make_alpaca.py`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod files;
mod published;

use aligner_eval::alpaca::{Annotation, Gamed, GamedRow, Instruction, Instructions, WinRates, win_rates};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    models: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    instructions: Vec<Instruction>,
    gamed: Vec<GamedRow>,
    annotations: Vec<Annotation>,
    expected: WinRates,
}

impl Model {
    fn rates(&self) -> WinRates {
        let instructions = Instructions::from_rows(self.instructions.clone()).unwrap();
        let gamed = Gamed::from_rows(self.gamed.clone(), &instructions).unwrap();
        win_rates(&self.annotations, Some((&instructions, &gamed))).unwrap()
    }
}

fn models() -> Vec<Model> {
    let golden: Golden = serde_json::from_str(include_str!("../golden/alpaca.json")).unwrap();
    golden.models
}

fn row(index: u64, preference: f64, len_1: u64, len_2: u64) -> Annotation {
    Annotation {
        index,
        len_1,
        len_2,
        preference: Some(preference),
        generator_1: "base".into(),
        generator_2: "model".into(),
    }
}

/// Compares every number of two values; `tolerance` is absolute.
fn assert_close(found: &Value, expected: &Value, tolerance: f64, what: &str) {
    match expected {
        Value::Object(fields) => {
            for (key, expected) in fields {
                assert_close(&found[key], expected, tolerance, &format!("{what}.{key}"));
            }
        }
        Value::Number(expected) => {
            let (found, expected) = (found.as_f64().expect(what), expected.as_f64().unwrap());
            assert!(
                (found - expected).abs() <= tolerance * expected.abs().max(1.0),
                "{what}: {found} and {expected}"
            );
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}

#[test]
fn win_rates_are_those_of_scikit_learn() {
    for model in models() {
        let found = serde_json::to_value(model.rates()).unwrap();
        let expected = serde_json::to_value(&model.expected).unwrap();
        assert_close(&found, &expected, 1e-6, "rates");
        for exact in ["win_rate", "standard_error", "discrete_win_rate"] {
            assert_close(&found[exact], &expected[exact], 1e-12, exact);
        }
    }
}

#[test]
fn without_instructions_there_is_no_length_control() {
    let model = &models()[0];
    let plain = win_rates(&model.annotations, None).unwrap();
    let value = serde_json::to_value(&plain).unwrap();
    assert!(value["lc_win_rate"].is_null() && value["lc_standard_error"].is_null());
    assert_eq!(plain.win_rate, model.rates().win_rate);
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys[..10],
        [
            "win_rate",
            "standard_error",
            "lc_win_rate",
            "lc_standard_error",
            "n_wins",
            "n_wins_base",
            "n_draws",
            "n_total",
            "n_dropped",
            "discrete_win_rate"
        ]
    );
}

#[test]
fn a_model_equal_to_the_baseline_scores_50() {
    for mut model in models() {
        let mut by_name = model.annotations.clone();
        for row in &mut by_name {
            row.generator_2 = row.generator_1.clone();
        }
        for row in &mut model.annotations {
            (row.preference, row.len_2) = (Some(1.5), row.len_1);
        }
        let equal = model.rates();
        assert_eq!((equal.win_rate, equal.lc_win_rate), (50.0, Some(50.0)));
        assert_eq!(
            (equal.standard_error, equal.lc_standard_error),
            (Some(0.0), Some(0.0))
        );
        model.annotations = by_name;
        assert_eq!(model.rates().lc_win_rate, Some(50.0));
    }
}

#[test]
fn equal_differences_of_lengths_say_nothing_about_lengths() {
    let mut model = models().remove(0);
    for row in &mut model.annotations {
        row.len_2 = row.len_1 + 10;
    }
    let rates = model.rates();
    assert!(rates.lc_win_rate.unwrap().is_finite() && rates.lc_standard_error.unwrap().is_finite());
    let glm = rates.glm.unwrap();
    // The gamed rows alone say what length is worth.
    assert!(glm.delta_len < 0.0 && glm.not_gamed < 0.0, "{glm:?}");
}

#[test]
fn one_row_has_no_standard_error() {
    let rates = win_rates(&[row(0, 2.0, 3, 4)], None).unwrap();
    assert_eq!((rates.win_rate, rates.standard_error), (100.0, None));
}

#[test]
fn rows_in_memory_are_checked_too() {
    for (rows, reason) in [
        (vec![row(0, f64::NAN, 1, 1)], "annotation 1: the preference NaN"),
        (
            vec![row(0, 1.0, 1, 1), row(0, 1.0, 1, 1)],
            "annotation 2: index 0",
        ),
        (vec![], "no annotation has a preference"),
    ] {
        let error = win_rates(&rows, None).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn swapped_sides_mirror_the_win_rate(
        preferences in prop::collection::vec(prop_oneof![Just(0.0), Just(1.5), 1.0..=2.0f64], 2..50)
    ) {
        let one: Vec<_> = (0..).zip(&preferences).map(|(at, p)| row(at, *p, 5, 9)).collect();
        let two: Vec<_> = (0..)
            .zip(&preferences)
            .map(|(at, p)| row(at, if *p == 0.0 { 0.0 } else { 3.0 - p }, 9, 5))
            .collect();
        let (one, two) = (win_rates(&one, None).unwrap(), win_rates(&two, None).unwrap());
        prop_assert!((one.win_rate + two.win_rate - 100.0).abs() < 1e-9);
        prop_assert!((one.standard_error.unwrap() - two.standard_error.unwrap()).abs() < 1e-9);
        prop_assert_eq!((one.n_wins, one.n_wins_base, one.n_draws), (two.n_wins_base, two.n_wins, two.n_draws));
        prop_assert!((one.discrete_win_rate + two.discrete_win_rate - 100.0).abs() < 1e-9);
    }
}
