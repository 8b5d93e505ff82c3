//! Runs over several files by weight: what is drawn, what is recorded, and that a resumed run is the undisturbed one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use aligner_data::synthetic::CorrectionTask;
use aligner_data::{
    AlignerManifest, Cursor, Dataset, Encoder, LoadOptions, Order, PromptTemplate, StageSource, TokenCache,
    Tokenizer,
};
use aligner_train::{
    Event, PlanLoader, Portions, RunDir, RunOptions, Split, StepLoader, TrainConfig, WarmupChoice, fine_tune,
    resume,
};
use burn::data::dataloader::DataLoader;
use lab::{Lab, essence, records, run, stopped_after, weights};

fn other_rows(lab: &Lab) -> PathBuf {
    let path = lab.path("other.jsonl");
    let mut file = std::fs::File::create(&path).unwrap();
    for row in CorrectionTask::new(77).train(30) {
        writeln!(file, "{}", serde_json::to_string(&row.raw).unwrap()).unwrap();
    }
    path
}

fn weighted(path: &std::path::Path, weight: f64) -> PathBuf {
    format!("{}:{weight}", path.display()).into()
}

fn mixed(lab: &Lab, out: &str) -> TrainConfig {
    let other = other_rows(lab);
    TrainConfig {
        data: vec![weighted(&lab.path("train.jsonl"), 1.0), weighted(&other, 3.0)],
        ..lab.config(out)
    }
}

#[test]
fn a_mixed_run_resumes_and_records_its_sources() {
    let lab = Lab::new();
    let (sender, heard) = std::sync::mpsc::channel();
    let options = RunOptions {
        observer: Some(Box::new(move |event: &Event<'_>| {
            if let Event::Source { path, rows, share } = event {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                sender.send((name, *rows, *share)).unwrap();
            }
        })),
        ..RunOptions::default()
    };
    let whole = fine_tune(&mixed(&lab, "whole"), options).unwrap();
    let heard: Vec<_> = heard.iter().collect();
    assert_eq!(
        heard,
        [
            ("train.jsonl".to_string(), 100, 0.25),
            ("other.jsonl".to_string(), 30, 0.75)
        ]
    );
    let config = mixed(&lab, "parts");
    fine_tune(&config, stopped_after(5)).unwrap();
    let rest = resume(&config.out, RunOptions::default()).unwrap();
    assert_eq!(essence(&rest.run), essence(&whole.run));
    assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir));
    let plain = TrainConfig {
        data: vec![lab.path("train.jsonl"), lab.path("other.jsonl")],
        ..lab.config("plain")
    };
    let plain = run(&plain);
    assert_ne!(
        essence(&plain.run),
        essence(&whole.run),
        "weights change what is drawn"
    );
    let stage = |model| AlignerManifest::read(model).unwrap().unwrap().stages.remove(0);
    let source = |file: &str, rows, weight| StageSource {
        file: file.into(),
        rows,
        weight,
    };
    let (mixed, plain) = (stage(&whole.model_dir), stage(&plain.model_dir));
    assert_eq!(
        mixed.sources,
        [
            source("train.jsonl", 100, Some(1.0)),
            source("other.jsonl", 30, Some(3.0))
        ]
    );
    assert_eq!(
        plain.sources,
        [source("train.jsonl", 100, None), source("other.jsonl", 30, None)]
    );
    assert_ne!(mixed.data_fingerprint, plain.data_fingerprint);
    let (valid, train): (Vec<_>, Vec<_>) = records(&rest.run)
        .into_iter()
        .partition(|record| record.split == Split::Valid);
    assert!(train.iter().all(|record| record.data_wait_seconds.is_some()));
    assert!(valid.iter().all(|record| record.data_wait_seconds.is_none()));
}

/// Three steps of copying, then fifteen over both files and, at a fifth of the draws, rows to copy.
fn everything(lab: &Lab, out: &str) -> TrainConfig {
    TrainConfig {
        warmup: WarmupChoice {
            share: Some(0.2),
            ..WarmupChoice::default()
        },
        identity_share: 0.2,
        steps: Some(15),
        ..mixed(lab, out)
    }
}

#[test]
fn a_mixed_run_of_two_stages_with_rows_to_copy_resumes_across_the_boundary() {
    let lab = Lab::new();
    let (sender, heard) = std::sync::mpsc::channel();
    let options = RunOptions {
        observer: Some(Box::new(move |event: &Event<'_>| {
            if let Event::Source { share, .. } = event {
                sender.send(*share).unwrap();
            }
        })),
        ..RunOptions::default()
    };
    let whole = fine_tune(&everything(&lab, "whole"), options).unwrap();
    let heard: Vec<f64> = heard.iter().collect();
    assert!(
        (heard[0] - 0.2).abs() < 1e-9 && (heard[1] - 0.6).abs() < 1e-9,
        "{heard:?}"
    );
    for stops in [vec![2, 3], vec![3, 4], vec![9]] {
        let config = everything(&lab, &format!("stopped-{stops:?}"));
        fine_tune(&config, stopped_after(stops[0])).unwrap();
        for &stop in &stops[1..] {
            resume(&config.out, stopped_after(stop)).unwrap();
        }
        let rest = resume(&config.out, RunOptions::default()).unwrap();
        assert_eq!(essence(&rest.run), essence(&whole.run), "{stops:?}");
        assert_eq!(weights(&rest.model_dir), weights(&whole.model_dir), "{stops:?}");
    }
    let stages = AlignerManifest::read(&whole.model_dir).unwrap().unwrap().stages;
    let of: Vec<_> = stages
        .iter()
        .map(|stage| {
            let weights: Vec<_> = stage.sources.iter().map(|source| source.weight).collect();
            (stage.kind.as_str(), stage.rows, stage.identity_rows, weights)
        })
        .collect();
    // 130 rows: a fifth of them to copy first; 130 / 0.8 - 130 added to the corrections.
    assert_eq!(
        of,
        [
            ("warmup", 26, 26, vec![None, None]),
            ("correction", 163, 33, vec![Some(1.0), Some(3.0)])
        ]
    );
    // Without weights the same rows come in another order.
    let plain = TrainConfig {
        data: vec![lab.path("train.jsonl"), lab.path("other.jsonl")],
        ..everything(&lab, "plain")
    };
    let plain = run(&plain);
    let (ours, theirs) = (essence(&whole.run), essence(&plain.run));
    let first_steps = |essence: &[String]| essence[..3].to_vec();
    assert_eq!(
        first_steps(&ours),
        first_steps(&theirs),
        "the warm-up knows no weights"
    );
    assert_ne!(ours, theirs);
}

#[test]
fn a_share_of_copies_that_is_not_that_of_the_run_is_refused() {
    let lab = Lab::new();
    let config = everything(&lab, "run");
    fine_tune(&config, stopped_after(2)).unwrap();
    let path = RunDir::new(&config.out).config();
    let text = std::fs::read_to_string(&path).unwrap();
    // As many rows to copy, but more draws of them.
    std::fs::write(
        &path,
        text.replace("identity_share = 0.2\n", "identity_share = 0.2005\n"),
    )
    .unwrap();
    let error = resume(&config.out, RunOptions::default()).unwrap_err();
    assert!(error.to_string().contains("training rows changed"), "{error}");
}

#[test]
fn weights_that_are_not_those_of_the_run_are_refused() {
    let lab = Lab::new();
    let config = mixed(&lab, "run");
    fine_tune(&config, stopped_after(2)).unwrap();
    let path = RunDir::new(&config.out).config();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("other.jsonl:3", "other.jsonl:2")).unwrap();
    let error = resume(&config.out, RunOptions::default()).unwrap_err();
    assert!(error.to_string().contains("training rows changed"), "{error}");
    std::fs::write(&path, text).unwrap();
    resume(&config.out, RunOptions::default()).unwrap();
}

#[test]
fn what_cannot_be_mixed_leaves_no_run_behind() {
    let lab = Lab::new();
    let mut config = mixed(&lab, "run");
    config.data[1] = lab.path("other.jsonl");
    let error = fine_tune(&config, RunOptions::default()).unwrap_err().to_string();
    assert!(error.contains("other.jsonl has no weight"), "{error}");
    let mut config = mixed(&lab, "run");
    config.valid = vec![weighted(&lab.path("valid.jsonl"), 1.0)];
    let error = fine_tune(&config, RunOptions::default()).unwrap_err().to_string();
    assert!(error.contains("valid") && error.contains("no weights"), "{error}");
    let mut config = everything(&lab, "run");
    config.warmup.data = vec![weighted(&lab.path("train.jsonl"), 1.0)];
    config.warmup.share = None;
    let error = fine_tune(&config, RunOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("warmup.data") && error.contains("no weights"),
        "{error}"
    );
    assert!(!RunDir::new(&config.out).config().exists());
}

#[test]
fn a_damaged_row_is_an_error_of_the_loader_and_not_its_end() {
    let lab = Lab::new();
    let tokenizer = Tokenizer::from_dir(&lab.path("base")).unwrap();
    let encoder = Encoder::new(tokenizer, PromptTemplate::default(), 256);
    let cache = lab.path("cache");
    let options = LoadOptions {
        cache: TokenCache {
            dir: Some(cache.clone()),
            in_memory_bytes: 0,
            ..TokenCache::default()
        },
        ..LoadOptions::default()
    };
    let load = || Dataset::load(&[lab.path("train.jsonl")], &encoder, &options).unwrap();
    let portions = Portions {
        order: Order::new(0, 100, false),
        start: Cursor::default(),
        done: 0,
        total_steps: 25,
        micro_batch: 2,
        rows_per_step: 4,
        total_rows: 100,
    };
    let sound =
        Arc::new(Dataset::load(&[lab.path("train.jsonl")], &encoder, &LoadOptions::default()).unwrap());
    let rows = load();
    let place: usize = (0..41).map(|row| rows.example(row).unwrap().ids.len()).sum();
    drop(rows);
    let entry = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let tokens = entry.join("tokens");
    let mut bytes = std::fs::read(&tokens).unwrap();
    bytes[4 * place] ^= 1;
    std::fs::write(&tokens, bytes).unwrap();
    let damaged = StepLoader::new(Arc::new(load()), portions.clone());
    // Nor does the stage behind it begin.
    let two_stages = PlanLoader::new(vec![damaged.clone(), StepLoader::new(sound, portions)]);
    for loader in [&damaged as &dyn DataLoader<_>, &two_stages] {
        let mut steps = loader.iter();
        for step in 0..10 {
            assert_eq!(steps.next().unwrap().unwrap().start.position, 4 * step);
        }
        let error = steps.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("row 41"), "{error}");
        assert!(steps.next().is_none());
    }
}
