//! `aligner steer fit` and `correct --strength`, with a tiny model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use aligner_model::SteeringVector;
use lab::{Lab, TRAIN, lines};
use serde_json::Value;

/// The corrections that a command writes.
fn corrected(lab: &Lab, command: &str) -> Vec<Value> {
    let rows = lines(&lab.ok(command));
    rows.iter().map(|row| row["corrected"].clone()).collect()
}

#[test]
fn a_fitted_vector_is_used_by_its_own_model_alone() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out run"));
    let correct = "correct --model run --max-new-tokens 12 --input few.jsonl";
    let error = lab.fails(2, &format!("{correct} --strength 0.5"));
    assert!(error.contains("aligner steer fit"), "{error}");
    let fit = "steer fit --model run --data train.jsonl --rows 60 --valid few.jsonl --layer 1 --shift 40";
    let effects = lines(&lab.ok(fit));
    let strengths: Vec<f64> = effects
        .iter()
        .map(|row| row["strength"].as_f64().unwrap())
        .collect();
    assert_eq!(strengths, [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]);
    assert_eq!(
        corrected(&lab, &format!("{correct} --strength 1")),
        corrected(&lab, correct)
    );
    assert_ne!(
        corrected(&lab, &format!("{correct} --strength 0")),
        corrected(&lab, correct)
    );
    // A second fit asks before it writes, and gives the same.
    let error = lab.fails(2, fit);
    assert!(error.contains("--overwrite"), "{error}");
    assert_eq!(lines(&lab.ok(&format!("{fit} --overwrite"))), effects);
    // Trained for longer it is another model.
    lab.ok(&format!(
        "{} --out next",
        TRAIN.replace("--steps 16", "--steps 3")
    ));
    let file = "final/steering.safetensors";
    std::fs::copy(lab.path("run").join(file), lab.path("next").join(file)).unwrap();
    let error = lab.fails(1, &format!("{} --strength 0", correct.replace("run", "next")));
    assert!(error.contains("fitted to another model"), "{error}");
}

#[test]
fn an_adapter_has_a_vector_of_its_own() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --lora-rank 2 --lora-dropout 0.5 --out adapter"));
    let fit = "steer fit --model adapter --data train.jsonl --rows 30 --valid-rows 0 --layer 1 --shift 40";
    lab.ok(fit);
    let read = || {
        SteeringVector::read(&lab.path("adapter").join("final"))
            .unwrap()
            .unwrap()
    };
    let vector = read();
    // What training drops is not dropped here.
    lab.ok(&format!("{fit} --overwrite"));
    assert_eq!(read(), vector);
    let correct = "correct --model adapter --max-new-tokens 12 --input few.jsonl --weights q8";
    assert_ne!(
        corrected(&lab, &format!("{correct} --strength 0")),
        corrected(&lab, correct)
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let lab = Lab::new();
    let error = lab.fails(
        2,
        "correct --model base --template edit --strength 2 --question q --answer a",
    );
    assert!(error.contains("from 0 to 1.5"), "{error}");
    let fit = "steer fit --model base --template edit --data few.jsonl --valid-rows 0";
    let error = lab.fails(2, &format!("{fit} --layer 9"));
    assert!(error.contains("no layer 9"), "{error}");
    let error = lab.fails(2, &format!("{fit} --shift 0"));
    assert!(error.contains("above 0"), "{error}");
    let error = lab.fails(2, &format!("{fit} --weights q8"));
    assert!(error.contains("leave --weights out"), "{error}");
    // Copies alone show nothing.
    let copy = r#"{"question": "Q", "answer": "A", "correction": "A"}"#;
    std::fs::write(lab.path("copies.jsonl"), copy).unwrap();
    let error = lab.fails(
        2,
        "steer fit --model base --template edit --data copies.jsonl --valid-rows 0",
    );
    assert!(error.contains("differs from the answer"), "{error}");
}
