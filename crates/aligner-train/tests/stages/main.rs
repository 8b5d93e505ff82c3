//! Runs of two stages: what each is made of, and that they resume to the last bit across the boundary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../lab/mod.rs"]
mod lab;

mod identity;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use aligner_data::{
    AlignerManifest, Dataset, Encoder, LoadOptions, PromptTemplate, Stage, Target, Tokenizer,
};
use aligner_train::{
    BestBy, CopyFrom, Ending, Rows, RunDir, RunOptions, SampleRecord, Split, StageKind, TrainConfig,
    TrainError, WarmupChoice, fine_tune, resume,
};
use lab::writer::Writer;
use lab::{Lab, essence, records, run, stopped_after, weights};

/// Three steps over a fifth of the hundred rows, then fifteen.
fn config(lab: &Lab, out: &str) -> TrainConfig {
    TrainConfig {
        warmup: WarmupChoice {
            share: Some(0.2),
            lr: Some(2e-3),
            ..WarmupChoice::default()
        },
        steps: Some(15),
        warmup_ratio: 0.25,
        eval_sample: 4,
        ..lab.config(out)
    }
}

fn stages(model: &Path) -> Vec<Stage> {
    AlignerManifest::read(model).unwrap().unwrap().stages
}

fn samples(run: &Path) -> Vec<SampleRecord> {
    let text = std::fs::read_to_string(RunDir::new(run).samples()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_run_copies_first_and_then_corrects_in_one_count_of_steps() {
    let lab = Lab::new();
    let outcome = run(&config(&lab, "run"));
    assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 18));
    let records = records(&outcome.run);
    let (valid, train): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.split == Split::Valid);
    let stage_of = |step| {
        if step <= 3 {
            StageKind::Warmup
        } else {
            StageKind::Correction
        }
    };
    let steps: Vec<_> = train.iter().map(|r| (r.step, r.stage)).collect();
    assert_eq!(
        steps,
        (1..=18).map(|step| (step, stage_of(step))).collect::<Vec<_>>()
    );
    // Before, at the end of each stage, and every sixth step.
    let validated: Vec<_> = valid.iter().map(|r| (r.step, r.stage)).collect();
    assert_eq!(validated, [0, 3, 6, 12, 18].map(|step| (step, stage_of(step))));
    // The warm-up is one pass, its last step takes what is left; each stage has its own rate and begins at 0 again.
    assert_eq!((train[2].epoch, train[17].epoch), (1.0, 1.2));
    let rates: Vec<f64> = train.iter().map(|r| r.lr.unwrap()).collect();
    assert_eq!(rates[..2], [2e-3, 1.5e-3]);
    assert_eq!((rates[3], rates[6]), (0.0, 5e-3));
    let written = stages(&outcome.model_dir);
    let of = |stage: &Stage| {
        (
            stage.kind.clone(),
            stage.steps,
            stage.rows,
            stage.identity_rows,
            stage.lr,
        )
    };
    assert_eq!(
        written.iter().map(of).collect::<Vec<_>>(),
        [
            ("warmup".into(), 3, 20, 20, Some(2e-3)),
            ("correction".into(), 15, 100, 0, Some(5e-3))
        ]
    );
    assert_ne!(written[0].data_fingerprint, written[1].data_fingerprint);
    // The best model says how far it had come.
    let best = outcome.best.unwrap();
    assert!(best.step > 3, "{best:?}");
    let best_stages = stages(&RunDir::new(&outcome.run).best());
    assert_eq!((best_stages[0].steps, best_stages[1].steps), (3, best.step - 3));
}

#[test]
fn a_run_resumes_to_the_last_bit_before_on_and_behind_the_boundary() {
    let lab = Lab::new();
    let whole = config(&lab, "whole");
    let writer = Writer::default();
    let whole = fine_tune(&whole, writer.options()).unwrap();
    let samples_of = |run: &Path| std::fs::read(RunDir::new(run).samples()).unwrap();
    for stops in [vec![1, 2], vec![2, 3], vec![3, 4], vec![3], vec![4, 14]] {
        let name = format!("stopped-{stops:?}");
        let parts = config(&lab, &name);
        let (first, later) = stops.split_first().unwrap();
        fine_tune(&parts, writer.watching(stopped_after(*first))).unwrap();
        for &stop in later {
            let part = resume(&parts.out, writer.watching(stopped_after(stop))).unwrap();
            assert_eq!((part.ending, part.steps), (Ending::Interrupted, stop));
        }
        let rest = resume(&parts.out, writer.options()).unwrap();
        assert_eq!(rest.best, whole.best, "{name}");
        assert_eq!(essence(&rest.run), essence(&whole.run), "{name}");
        assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir), "{name}");
        assert_eq!(samples_of(&rest.run), samples_of(&whole.run), "{name}");
        assert_eq!(stages(&rest.model_dir), stages(&whole.model_dir), "{name}");
    }
}

#[test]
fn a_killed_run_goes_back_across_the_boundary_and_comes_to_the_same_end() {
    let lab = Lab::new();
    let writer = Writer::default();
    let whole = fine_tune(&config(&lab, "whole"), writer.options()).unwrap();
    let killed = TrainConfig {
        keep: 10,
        save_every: 2,
        ..config(&lab, "killed")
    };
    fine_tune(&killed, writer.watching(stopped_after(7))).unwrap();
    // As if the process had died before it could save what it has written lines about since step 2.
    for step in [4, 6, 7] {
        let name = format!("step-{step:08}");
        std::fs::remove_dir_all(RunDir::new(&killed.out).checkpoints().join(name)).unwrap();
    }
    let rest = resume(&killed.out, writer.options()).unwrap();
    assert_eq!(essence(&rest.run), essence(&whole.run));
    assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir));
    let steps: Vec<u64> = samples(&rest.run).iter().map(|sample| sample.step).collect();
    assert_eq!(steps, [0, 3, 6, 12, 18].map(|step| [step; 4]).concat());
}

#[test]
fn samples_that_a_crash_damaged_are_repaired() {
    let lab = Lab::new();
    let writer = Writer::default();
    let config = config(&lab, "run");
    fine_tune(&config, writer.watching(stopped_after(7))).unwrap();
    let file = RunDir::new(&config.out).samples();
    let mut bytes = std::fs::read(&file).unwrap();
    let second = 1 + bytes.iter().position(|&byte| byte == b'\n').unwrap();
    bytes.splice(second..second, b"\0\0 garbage\n".iter().copied());
    std::fs::write(&file, &bytes).unwrap();
    let rest = resume(&config.out, writer.options()).unwrap();
    let steps: Vec<u64> = samples(&rest.run).iter().map(|sample| sample.step).collect();
    assert_eq!(steps, [0, 3, 6, 12, 18].map(|step| [step; 4]).concat());
    let aside = file.with_file_name("samples.damaged.jsonl");
    assert_eq!(std::fs::read(aside).unwrap(), bytes);
}

#[test]
fn a_run_of_two_stages_is_two_runs_one_after_the_other() {
    let lab = Lab::new();
    let train = std::fs::read_to_string(lab.path("train.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = train
        .lines()
        .take(30)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let copies: Vec<String> = rows
        .iter()
        .map(|row| {
            let mut row = row.clone();
            row["correction"] = row["answer"].clone();
            row.to_string()
        })
        .collect();
    let rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(lab.path("some.jsonl"), rows.join("\n")).unwrap();
    std::fs::write(lab.path("copies.jsonl"), copies.join("\n")).unwrap();
    let single = |model, data, out: &str| TrainConfig {
        model: lab.path(model),
        data: vec![lab.path(data)],
        warmup: WarmupChoice::off(),
        ..config(&lab, out)
    };
    let first = run(&TrainConfig {
        steps: None,
        epochs: 2,
        lr: 2e-3,
        ..single("base", "copies.jsonl", "first")
    });
    let second = run(&single("first/final", "train.jsonl", "second"));
    // The corrections in the file are not read, as the help says.
    let both = run(&TrainConfig {
        warmup: WarmupChoice {
            data: vec![lab.path("some.jsonl")],
            epochs: 2,
            lr: Some(2e-3),
            ..WarmupChoice::default()
        },
        ..config(&lab, "both")
    });
    assert_eq!((first.steps, second.steps, both.steps), (8, 15, 23));
    assert_eq!(weights(&both.model_dir), weights(&second.model_dir));
    let fingerprints = |model: &Path| -> Vec<String> {
        stages(model)
            .into_iter()
            .map(|stage| stage.data_fingerprint)
            .collect()
    };
    assert_eq!(fingerprints(&both.model_dir), fingerprints(&second.model_dir));
}

#[test]
fn an_aligner_that_is_trained_further_has_learned_to_copy_and_keeps_its_stages() {
    let lab = Lab::new();
    let by_default = |model, out: &str| TrainConfig {
        model,
        warmup: WarmupChoice::default(),
        steps: Some(3),
        ..config(&lab, out)
    };
    let first = by_default(lab.path("base"), "first");
    let outcome = run(&first);
    let recorded = TrainConfig::read(&RunDir::new(&first.out).config()).unwrap();
    assert_eq!(recorded.warmup.share, Some(0.2));
    let second = by_default(outcome.model_dir, "second");
    let outcome = run(&second);
    let recorded = TrainConfig::read(&RunDir::new(&second.out).config()).unwrap();
    assert_eq!(recorded.warmup.share, Some(0.0));
    let manifest = AlignerManifest::read(&outcome.model_dir).unwrap().unwrap();
    assert_eq!(manifest.base_model, "base");
    // A run of three steps spends one of them more on copying, though a fifth of the rows would be three.
    let kinds: Vec<_> = manifest
        .stages
        .iter()
        .map(|s| (s.kind.as_str(), s.steps))
        .collect();
    assert_eq!(kinds, [("warmup", 1), ("correction", 3), ("correction", 3)]);
}

#[test]
fn patience_and_best_belong_to_the_correction() {
    let lab = Lab::new();
    let mut config = TrainConfig {
        lr: 1e-12,
        eval_every: 1,
        patience: 3,
        steps: Some(100),
        ..config(&lab, "run")
    };
    config.warmup.steps = Some(10);
    config.warmup.lr = Some(1e-12);
    let outcome = run(&config);
    assert_eq!(outcome.ending, Ending::StoppedEarly);
    assert!(outcome.steps > 10 && outcome.steps < 110, "{}", outcome.steps);
    assert!(outcome.best.unwrap().step >= 10, "{:?}", outcome.best);
}

#[test]
fn the_hook_gets_the_same_rows_of_the_validation_file_each_time() {
    let lab = Lab::new();
    let writer = Writer::default();
    let outcome = fine_tune(&config(&lab, "run"), writer.options()).unwrap();
    let calls = writer.calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 5);
    assert!(calls.iter().all(|rows| *rows == calls[0] && rows.len() == 4));
    let file = std::fs::read_to_string(lab.path("valid.jsonl")).unwrap();
    let file: Vec<serde_json::Value> = file
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let places: Vec<usize> = calls[0]
        .iter()
        .map(|row| {
            let is_it = |line: &serde_json::Value| {
                line["question"] == row.question.as_str()
                    && line["answer"] == row.answer.as_str()
                    && line["correction"] == row.reference.as_str()
            };
            file.iter().position(is_it).unwrap()
        })
        .collect();
    assert!(
        places.is_sorted() && places.windows(2).all(|pair| pair[0] != pair[1]),
        "{places:?}"
    );
    // What it said stands in both files.
    let records = records(&outcome.run);
    let texts: Vec<_> = records
        .iter()
        .filter_map(|r| r.text.map(|text| (r.step, text)))
        .collect();
    let samples = samples(&outcome.run);
    assert_eq!((texts.len(), samples.len()), (5, 20));
    for ((step, text), lines) in texts.iter().zip(samples.chunks(4)) {
        assert!(lines.iter().all(|line| line.step == *step));
        let mean = lines.iter().map(|line| line.edit_ratio).sum::<f64>() / 4.0;
        assert_eq!(text.edit_ratio, mean);
        let copies = lines.iter().filter(|line| line.is_copy).count() as f64 / 4.0;
        assert_eq!(
            (text.copy_rate, text.exact_match, text.copy_retention),
            (copies, copies, 1.0)
        );
    }
    assert_ne!(
        samples[0].correction, samples[16].correction,
        "the model it saw is the one in training"
    );
    // And looking changed nothing.
    let unwatched = run(&config(&lab, "unwatched"));
    assert_eq!(weights(&unwatched.model_dir), weights(&outcome.model_dir));
    assert!(!RunDir::new(&unwatched.run).samples().exists());
    let other = Writer::default();
    let seeded = TrainConfig {
        seed: 43,
        ..config(&lab, "seeded")
    };
    fine_tune(&seeded, other.watching(stopped_after(1))).unwrap();
    assert_ne!(other.calls.lock().unwrap()[0], calls[0]);
}

#[test]
fn the_best_is_the_one_with_most_exact_corrections_when_asked() {
    let lab = Lab::new();
    let writer = Writer::default();
    // At steps 0, 3, 6, 12, 18: the best of the warm-up does not count, and 12 is the only gain after 3.
    *writer.exact.lock().unwrap() = vec![true, false, false, true, false];
    let config = TrainConfig {
        best_by: BestBy::ExactMatch,
        ..config(&lab, "run")
    };
    let outcome = fine_tune(&config, writer.options()).unwrap();
    let best = outcome.best.unwrap();
    assert_eq!((best.step, best.exact_match), (12, Some(1.0)));
    assert_eq!(stages(&RunDir::new(&config.out).best())[1].steps, 9);
    let nobody = TrainConfig {
        out: lab.path("nobody"),
        ..config
    };
    let error = fine_tune(&nobody, RunOptions::default()).unwrap_err();
    assert!(
        matches!(&error, TrainError::Config { origin, .. } if origin == "best_by"),
        "{error}"
    );
}

#[test]
fn a_run_of_before_there_were_stages_goes_on_without_a_warmup() {
    let lab = Lab::new();
    let whole = run(&lab.config("whole"));
    let config = lab.config("old");
    fine_tune(&config, stopped_after(5)).unwrap();
    let run_dir = RunDir::new(&config.out);
    let toml = std::fs::read_to_string(run_dir.config()).unwrap();
    let (before, _) = toml.split_once("[warmup]").unwrap();
    let before = before.replace("tensorboard = true\n", "");
    std::fs::write(run_dir.config(), before).unwrap();
    for checkpoint in std::fs::read_dir(run_dir.checkpoints()).unwrap() {
        let path = checkpoint.unwrap().path().join("checkpoint.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let state = json["state"].as_object_mut().unwrap();
        for field in ["stage", "stage_steps", "samples_bytes"] {
            state.remove(field).unwrap();
        }
        std::fs::write(&path, json.to_string()).unwrap();
    }
    let rest = resume(&config.out, RunOptions::default()).unwrap();
    assert_eq!(essence(&rest.run), essence(&whole.run));
    assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir));
}

#[test]
fn a_run_whose_stages_changed_is_not_resumed() {
    let lab = Lab::new();
    let config = config(&lab, "run");
    fine_tune(&config, stopped_after(2)).unwrap();
    let path = RunDir::new(&config.out).config();
    let toml = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, toml.replace("share = 0.2", "share = 0.1")).unwrap();
    let error = resume(&config.out, RunOptions::default()).unwrap_err();
    assert!(matches!(error, TrainError::Changed { .. }), "{error}");
}
