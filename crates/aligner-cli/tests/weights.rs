//! `--weights`: the command with quantised weights and the file that it keeps them in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use lab::{Lab, TRAIN, lines};

#[test]
fn correct_and_score_take_every_format_and_keep_the_weights_beside_the_model() {
    let lab = Lab::new();
    lab.ok(&format!("{TRAIN} --out run"));
    let of = |flags: &str| {
        let correct = format!("correct --model run --input few.jsonl --max-new-tokens 12 {flags}");
        let score = format!("score --model run --input few.jsonl {flags}");
        let tokens: f64 = lines(&lab.ok(&score))
            .iter()
            .map(|row| row["logprob"].as_f64().unwrap())
            .sum();
        let texts: Vec<String> = lines(&lab.ok(&correct))
            .iter()
            .map(|row| row["corrected"].as_str().unwrap().to_string())
            .collect();
        (texts, tokens)
    };
    let model = lab.path("run/final");
    let (texts, score) = of("");
    assert_eq!(texts.len(), 6);
    for format in ["bf16", "q8", "q4"] {
        let file = model.join(format!("model.{format}.aligner"));
        let first = of(&format!("--weights {format} --no-weights-cache"));
        assert!(!file.exists(), "{format}");
        let second = of(&format!("--weights {format}"));
        assert!(file.is_file(), "{format}");
        let third = of(&format!("--weights {format}"));
        assert_eq!((&first, &first), (&second, &third), "{format}");
        // Another model, but not by much.
        assert_ne!(first.1, score, "{format}");
        assert!(
            (first.1 / score - 1.0).abs() < 0.1,
            "{format}: {} {score}",
            first.1
        );
    }
    assert_eq!(of("--weights f32").1, score);
    // Keys and values in f16 beside rounded weights, unless told otherwise; each moves the score a little.
    let halves = of("--weights q8");
    assert_eq!(of("--weights q8 --kv-format f16"), halves);
    assert_ne!(of("--weights q8 --kv-format f32").1, halves.1);
    let whole = of("--kv-format f16").1;
    assert!(
        whole != score && (whole / score - 1.0).abs() < 0.01,
        "{whole} {score}"
    );
    // The files are none of the model's: it is still what it was for everybody else.
    lab.ok("export run --format hf --out copy");
    assert!(!lab.path("copy/model.q8.aligner").exists());
}

#[test]
fn what_is_no_format_is_refused_with_those_that_are() {
    let lab = Lab::new();
    let question = "--question a --answer b --model base --template edit";
    let error = lab.fails(2, &format!("correct {question} --weights q5"));
    assert!(error.contains("f32, bf16, q8, q4"), "{error}");
    let error = lab.fails(1, &format!("correct {question} --weights q8 --device cuda"));
    assert!(
        error.contains("weights in q8 are for the CPU, not for cuda"),
        "{error}"
    );
    let error = lab.fails(2, &format!("correct {question} --kv-format q8"));
    assert!(error.contains("known are f32, f16"), "{error}");
    let error = lab.fails(1, &format!("correct {question} --kv-format f16 --device cuda"));
    assert!(
        error.contains("keys and values in f16 are for the CPU, not for cuda"),
        "{error}"
    );
}
