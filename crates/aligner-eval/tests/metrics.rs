//! Figures against hand-made ones and against Google's `rouge_score`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::cell::RefCell;

use aligner_eval::metrics::{Embedder, MetricOptions, TextMetrics, distinct, rouge_l, text_metrics};
use aligner_eval::{EvalError, Item, Outcome, References};
use serde_json::Value;

fn outcome(answer: &str, output: &str) -> Outcome {
    Outcome {
        item: Item {
            id: "1".into(),
            dataset: "d".into(),
            upstream: "u".into(),
            question: "?".into(),
            answer: answer.into(),
            ..Item::default()
        },
        output: output.into(),
        aligner: "a".into(),
        ..Outcome::default()
    }
}

fn with_references(answer: &str, output: &str, correct: &[&str], incorrect: &[&str]) -> Outcome {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    let mut outcome = outcome(answer, output);
    outcome.item.references = References {
        correct: texts(correct),
        incorrect: texts(incorrect),
    };
    outcome
}

fn measured(outcomes: &[Outcome]) -> TextMetrics {
    let mut metrics = text_metrics(outcomes, &MetricOptions::default()).unwrap();
    assert_eq!(metrics.len(), 1);
    metrics.remove(0)
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
}

#[test]
fn rouge_l_is_that_of_rouge_score() {
    let golden: Value = serde_json::from_str(include_str!("golden/rouge_l.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let found = rouge_l(
            case["text"].as_str().unwrap(),
            case["reference"].as_str().unwrap(),
        );
        let expected = case["f1"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{case}: {found}");
    }
}

#[test]
fn rouge_l_knows_letters_that_rouge_score_cuts_out() {
    close(rouge_l("Grüße", "grüße!"), 1.0);
    close(rouge_l("日本語", "日本"), 0.8);
    close(rouge_l("Привет мир", "Привет"), 2.0 / 3.0);
}

#[test]
fn distinct_n_by_hand() {
    // 7 words, 4 different; the cat | cat sat | sat on | on the | cat cat; 3 triples.
    let texts = ["The cat sat on the", "cat cat"];
    assert_eq!(distinct(texts), [4.0 / 7.0, 5.0 / 7.0, 3.0 / 7.0]);
    assert_eq!(distinct(["a b", "b a"]), [0.5, 0.5, 0.0]);
    assert_eq!(distinct(["", "?!"]), [0.0; 3]);
}

#[test]
fn changes_and_lengths_by_hand() {
    let mut twice = outcome("a b c d", "a b c x");
    twice.second_output = Some("a b c x\n".into());
    twice.is_cut = true;
    let mut thrice = outcome("one two", "three four five six");
    thrice.second_output = Some("three four seven eight".into());
    let metrics = measured(&[
        outcome("same words", " same words"),
        twice,
        thrice,
        outcome("", "new"),
    ]);
    close(metrics.copy_rate.value, 0.25);
    // 0, 1/4, 1 and 1.
    close(metrics.edit_ratio.value, 0.5625);
    assert_eq!(metrics.edit_ratio_histogram, [1, 0, 1, 0, 0, 0, 0, 0, 0, 2]);
    // 1, 1 and 2; the empty answer has no ratio.
    close(metrics.length.ratio.unwrap().value, 4.0 / 3.0);
    close(metrics.length.original_chars, 6.0);
    close(metrics.length.output_chars, (11.0 + 7.0 + 19.0 + 3.0) / 4.0);
    close(metrics.cut_rate.value, 0.25);
    let second = metrics.second_pass.unwrap();
    assert_eq!(second.rows, 2);
    close(second.copy_rate.value, 0.5);
    close(second.edit_ratio.value, 0.25);
    assert!(metrics.copy_rate.low < 0.25 && metrics.copy_rate.high > 0.25);
    assert!(
        metrics.rouge_l.is_none()
            && metrics.reference_perplexity.is_none()
            && metrics.contamination.is_none()
    );
}

#[test]
fn refusals_are_told_by_what_became_of_them() {
    let no = "I'm sorry, but I can't help with that.";
    let metrics = measured(&[
        outcome(no, no),
        outcome(no, "Here is how."),
        outcome("Here is how.", no),
        outcome("Yes.", "Yes."),
        outcome("Yes.", "No doubt."),
    ]);
    let refusals = metrics.refusals;
    close(refusals.original_rate.value, 0.4);
    close(refusals.output_rate.value, 0.4);
    close(refusals.over_refusal_rate.unwrap().value, 1.0 / 3.0);
    close(refusals.removed_rate.unwrap().value, 0.5);
    let none = measured(&[outcome("Yes.", "Yes.")]).refusals;
    assert!(none.removed_rate.is_none() && none.over_refusal_rate.unwrap().value == 0.0);
}

#[test]
fn truthfulness_is_the_best_right_answer_less_the_best_wrong_one() {
    let right = ["The sun is white", "It is white in space"];
    let wrong = ["The sun is yellow", "The moon"];
    let metrics = measured(&[
        with_references("The sun is yellow", "The sun is white", &right, &wrong),
        with_references("The sun is white", "The sun", &right, &[]),
        outcome("no", "references"),
    ]);
    let rouge = metrics.rouge_l.unwrap();
    assert_eq!((rouge.rows, rouge.rows_with_incorrect), (2, 1));
    // 3 of 4 words, and all of them.
    close(rouge.original.correct.value, (0.75 + 1.0) / 2.0);
    close(rouge.original.diff.unwrap().value, 0.75 - 1.0);
    close(rouge.original.accuracy.unwrap().value, 0.0);
    close(rouge.output.diff.unwrap().value, 0.25);
    close(rouge.output.accuracy.unwrap().value, 1.0);
    close(rouge.diff_gain.unwrap().value, 0.5);
    close(rouge.correct_gain.value, (0.25 + (2.0 / 3.0 - 1.0)) / 2.0);
    // What is as near to both is not accurate.
    let tied = measured(&[with_references("The sun is", "x", &right, &wrong)])
        .rouge_l
        .unwrap();
    close(tied.original.accuracy.unwrap().value, 0.0);
}

/// Counts letters; remembers what it was asked.
struct Letters(RefCell<Vec<Vec<String>>>);

impl Embedder for Letters {
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EvalError> {
        self.0
            .borrow_mut()
            .push(texts.iter().map(ToString::to_string).collect());
        let count = |text: &str, letter| text.chars().filter(|&c| c == letter).count() as f32;
        Ok(texts
            .iter()
            .map(|text| vec![count(text, 'a'), count(text, 'b')])
            .collect())
    }
}

#[test]
fn embeddings_are_compared_by_their_angle_and_made_once_a_text() {
    let letters = Letters(RefCell::default());
    let options = MetricOptions {
        embedder: Some(&letters),
        embed_batch: 2,
        ..MetricOptions::default()
    };
    let outcomes = [
        with_references("a", "aab", &["aa", "ab"], &["b"]),
        with_references("a", " ", &["ab"], &["b"]),
        outcome("x", "y"),
    ];
    let metrics = text_metrics(&outcomes, &options).unwrap();
    let found = metrics[0].embedding.unwrap();
    let half = 0.5f64.sqrt();
    let near =
        |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
    near(found.original.correct.value, (1.0 + half) / 2.0);
    near(found.original.diff.unwrap().value, (1.0 + half) / 2.0);
    // aab and ab: 3 / (√5·√2); blank is like nothing.
    near(found.output.correct.value, 3.0 / 10.0f64.sqrt() / 2.0);
    near(found.output.accuracy.unwrap().value, 0.5);
    assert_eq!(
        *letters.0.borrow(),
        [vec!["a", "b"], vec!["aa", "ab"], vec!["aab"]]
    );
}

#[test]
fn an_embedding_that_is_no_direction_is_named_with_its_row() {
    let outcomes = [outcome("x", "y"), with_references("good", "bad", &["good"], &[])];
    let error = |vector: fn(&str) -> Vec<f32>| {
        let embed = move |texts: &[&str]| Ok(texts.iter().map(|text| vector(text)).collect());
        let options = MetricOptions {
            embedder: Some(&embed),
            ..MetricOptions::default()
        };
        text_metrics(&outcomes, &options).unwrap_err().to_string()
    };
    let nan = error(|text| vec![1.0, if text == "bad" { f32::NAN } else { 1.0 }]);
    assert!(
        nan.contains("outcome 2 (id \"1\"): the embedding of \"bad\" has a number"),
        "{nan}"
    );
    assert!(error(|_| vec![0.0]).contains("is zero"));
    assert!(error(|text| vec![1.0; text.len()]).contains("has 4 numbers, where others have 3"));
    let embed = |_: &[&str]| Ok(Vec::new());
    let options = MetricOptions {
        embedder: Some(&embed),
        ..MetricOptions::default()
    };
    assert!(
        text_metrics(&outcomes, &options)
            .unwrap_err()
            .to_string()
            .contains("0 vectors for 2 texts")
    );
}

#[test]
fn perplexity_is_of_the_mean_and_no_number_is_an_error() {
    let of = |nll: Option<f64>| Outcome {
        reference_nll: nll,
        ..outcome("x", "y")
    };
    let found = measured(&[of(Some(1.0)), of(Some(3.0)), of(None)])
        .reference_perplexity
        .unwrap();
    assert_eq!(found.rows, 2);
    close(found.value.value, 2.0f64.exp());
    assert!(found.value.low <= found.value.value && found.value.value <= found.value.high);
    for wrong in [f64::NAN, f64::INFINITY, -0.5] {
        let error = text_metrics(&[of(None), of(Some(wrong))], &MetricOptions::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("outcome 2 (id \"1\"): reference_nll is"),
            "{error}"
        );
    }
}

#[test]
fn reference_answers_in_their_own_words_are_counted() {
    let right = [
        "The sun is white when seen from space",
        "Yes",
        "I have no comment",
    ];
    let metrics = measured(&[
        with_references("Yes", right[0], &right, &[]),
        with_references(
            "the SUN is white, when seen from space!",
            "I have no comment",
            &right,
            &[],
        ),
        with_references("Well, the sun is white when seen from space", "No", &right, &[]),
        with_references("Yes", "Yes", &["Yes"], &[]),
    ]);
    let found = metrics.contamination.unwrap();
    assert_eq!(found.rows, 3, "short answers alone are no evidence");
    close(found.original_overlap_rate.value, 1.0 / 3.0);
    close(found.original_identical_rate.value, 0.0);
    close(found.output_overlap_rate.value, 1.0 / 3.0);
    close(found.output_identical_rate.value, 1.0 / 3.0);
}

#[test]
fn groups_come_in_order_and_figures_are_the_same_every_time() {
    let mut outcomes: Vec<Outcome> = (0..300)
        .map(|row| {
            outcome(
                &format!("word {row} and more"),
                &format!("word {} and more", row % 7),
            )
        })
        .collect();
    for (row, outcome) in outcomes.iter_mut().enumerate() {
        outcome.item.upstream = ["z", "b"][row % 2].into();
        outcome.aligner = ["second", "first"][usize::from(row >= 150)].into();
    }
    let metrics = text_metrics(&outcomes, &MetricOptions::default()).unwrap();
    let keys: Vec<(&str, &str, u64)> = metrics
        .iter()
        .map(|metrics| (metrics.upstream.as_str(), metrics.aligner.as_str(), metrics.rows))
        .collect();
    assert_eq!(
        keys,
        [
            ("z", "second", 75),
            ("b", "second", 75),
            ("z", "first", 75),
            ("b", "first", 75)
        ]
    );
    let text = serde_json::to_string(&metrics).unwrap();
    let again = text_metrics(&outcomes, &MetricOptions::default()).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    assert_eq!(serde_json::from_str::<Vec<TextMetrics>>(&text).unwrap(), metrics);
    assert!(text_metrics(&[], &MetricOptions::default()).unwrap().is_empty());
}
