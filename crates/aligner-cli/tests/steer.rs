//! `aligner steer fit` and `correct --strength`, with a tiny model that has learned to copy and to correct.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use aligner_data::synthetic::CorrectionTask;
use lab::{Lab, lines, text};
use serde_json::Value;

const TRAIN: &str = "train --model base --data rows.jsonl --out run --steps 220 --micro-batch 16 --accumulate 1 --lr 5e-3 \
                     --max-length 256 --warmup-share 0 --eval-every 220 --save-every 220 --eval-sample 0 --no-report";

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap()
}

#[test]
fn edits_rise_with_strength_and_the_vector_is_the_models_own() {
    let lab = Lab::new();
    let task = CorrectionTask::new(5);
    aligner_lab::write_rows(&task.train(2000), &lab.path("rows.jsonl"));
    let held_out: Vec<_> = task.held_out(200);
    let wrong: Vec<_> = held_out
        .into_iter()
        .filter(|row| row.correction.as_ref() != Some(&row.answer))
        .take(60)
        .collect();
    aligner_lab::write_rows(&wrong, &lab.path("held-out.jsonl"));
    lab.ok(TRAIN);
    let error = lab.fails(2, "correct --model run --strength 0.5 --question q --answer a");
    assert!(error.contains("aligner steer fit"), "{error}");
    let fit = "steer fit --model run --data rows.jsonl --rows 200 --valid held-out.jsonl --valid-rows 60";
    let effects = lines(&lab.ok(fit));
    let strengths: Vec<f64> = effects.iter().map(|row| number(row, "strength")).collect();
    assert_eq!(strengths, [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]);
    let ratios: Vec<f64> = effects.iter().map(|row| number(row, "edit_ratio")).collect();
    assert!(
        ratios.windows(2).all(|pair| pair[0] <= pair[1] + 0.01),
        "{ratios:?}"
    );
    assert!(ratios[0] < 0.7 * ratios[4], "{ratios:?}");
    assert!(number(&effects[0], "copy_rate") > number(&effects[6], "copy_rate"));
    // The vector that was written is the one that was measured.
    let corrected = |flags: &str| {
        let rows = lines(&lab.ok(&format!("correct --model run --input held-out.jsonl {flags}")));
        rows.iter()
            .map(|row| row["corrected"].as_str().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    let copies = |texts: &[String]| {
        texts
            .iter()
            .zip(&wrong)
            .filter(|(text, row)| text.trim() == row.answer.trim())
            .count() as f64
            / 60.0
    };
    assert_eq!(
        copies(&corrected("--strength 0")),
        number(&effects[0], "copy_rate")
    );
    assert_eq!(corrected("--strength 1"), corrected(""));
    // A second fit asks before it writes, and gives the same.
    let error = lab.fails(2, fit);
    assert!(error.contains("--overwrite"), "{error}");
    assert_eq!(lines(&lab.ok(&format!("{fit} --overwrite"))), effects);
    // Trained on, it is another model.
    lab.ok(&format!(
        "{} --steps 2",
        TRAIN.replace("--steps 220 ", "").replace(
            "--model base --data rows.jsonl --out run",
            "--model run --data rows.jsonl --out next"
        )
    ));
    let file = "final/steering.safetensors";
    std::fs::copy(lab.path("run").join(file), lab.path("next").join(file)).unwrap();
    let output = lab.run("correct --model next --strength 0 --question q --answer a");
    assert!(
        text(&output.stderr).contains("fitted to another model"),
        "{}",
        text(&output.stderr)
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
    let error = lab.fails(1, &format!("{fit} --layer 9"));
    assert!(error.contains("no layer 9"), "{error}");
    // Copies alone show nothing.
    let copy = r#"{"question": "Q", "answer": "A", "correction": "A"}"#;
    std::fs::write(lab.path("copies.jsonl"), copy).unwrap();
    let error = lab.fails(
        1,
        "steer fit --model base --template edit --data copies.jsonl --valid-rows 0",
    );
    assert!(error.contains("differs from the answer"), "{error}");
}
