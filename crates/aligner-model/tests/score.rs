//! Scores are those of transformers' classifiers and of Safe-RLHF's arithmetic; see `golden/make_score.py` for generator, seed
//! and tolerance.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use std::path::Path;
use std::process::Command;

use aligner_model::{
    CausalDecoder, ModelConfig, ModelError, RuntimeWeights, ScoreKind, ScoreModel, Sequences, WeightsCache,
    load_dir, load_score_dir, load_score_dir_quantized, save_dir,
};
use burn::tensor::{Device, Int, Tensor};
use common::{golden_dir, host};

const TOLERANCE: f64 = 1e-4;
const VARIANTS: [&str; 5] = ["llama", "qwen3", "gemma2", "safe-rlhf-reward", "safe-rlhf-cost"];

#[derive(serde::Deserialize)]
struct Golden {
    rows: Vec<Vec<u32>>,
    scores: Vec<Vec<f64>>,
}

impl Golden {
    fn rows(&self) -> Vec<&[u32]> {
        self.rows.iter().map(Vec::as_slice).collect()
    }
}

fn golden(variant: &str) -> (std::path::PathBuf, Golden) {
    let dir = golden_dir("score").join(variant);
    let golden = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    (dir, golden)
}

/// As it runs.
fn model(dir: &Path) -> ScoreModel {
    let (weights, cache) = (RuntimeWeights::F32, WeightsCache::Off);
    ScoreModel::new(load_score_dir_quantized(dir, weights, &cache, &Device::flex()).unwrap()).unwrap()
}

fn worst(got: &[Vec<f64>], want: &[Vec<f64>]) -> f64 {
    assert_eq!(got.len(), want.len());
    let pairs = got.iter().flatten().zip(want.iter().flatten());
    pairs.map(|(got, want)| (got - want).abs()).fold(0.0, f64::max)
}

#[test]
fn scores_equal_the_references() {
    for variant in VARIANTS {
        let (dir, golden) = golden(variant);
        let scores = model(&dir).scores(&golden.rows()).unwrap();
        let worst = worst(&scores, &golden.scores);
        println!("{variant:<18} {worst:.1e}");
        assert!(worst <= TOLERANCE, "{variant}: {worst}");
    }
}

#[test]
fn a_batch_gives_the_bits_of_its_sequences_alone() {
    let (dir, golden) = golden("llama");
    let model = model(&dir);
    let rows = golden.rows();
    let alone: Vec<Vec<f64>> = rows
        .iter()
        .flat_map(|row| model.scores(&[row]).unwrap())
        .collect();
    assert_eq!(model.scores(&rows).unwrap(), alone);
    assert!(model.scores(&[]).unwrap().is_empty());
}

#[test]
fn the_pass_of_training_gives_the_same_scores() {
    for variant in VARIANTS {
        let (dir, golden) = golden(variant);
        let loaded = load_score_dir(&dir, &Device::flex().autodiff()).unwrap();
        let head = loaded.config.score.as_ref().unwrap();
        let ids: Vec<i32> = golden.rows.iter().flatten().map(|&id| id as i32).collect();
        let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &Device::flex().autodiff());
        let sequences = Sequences::new(golden.rows.iter().map(Vec::len).collect::<Vec<_>>());
        let ends: Vec<u32> = sequences
            .spans()
            .zip(&golden.rows)
            .map(|((start, _), row)| (start + head.end_of(row)) as u32)
            .collect();
        let scores = host(loaded.decoder.scores_at(ids, &sequences, &ends).inner());
        let scores: Vec<Vec<f64>> = scores
            .chunks(head.outputs)
            .map(|row| head.normalized(row))
            .collect();
        let worst = worst(&scores, &golden.scores);
        assert!(worst <= TOLERANCE, "{variant}: {worst}");
    }
}

#[test]
fn saved_and_loaded_is_the_same_model() {
    for variant in VARIANTS {
        let (dir, golden) = golden(variant);
        let loaded = load_score_dir(&dir, &Device::flex()).unwrap();
        let again = tempfile::tempdir().unwrap();
        save_dir(&loaded.config, &loaded.decoder, again.path()).unwrap();
        let scores = |dir: &Path| model(dir).scores(&golden.rows()).unwrap();
        assert_eq!(scores(again.path()), scores(&dir), "{variant}");
    }
}

#[test]
fn transformers_loads_a_score_model_that_was_made_here() {
    let device = Device::flex();
    for variant in ["tied", "untied-bias-llama3", "gemma3", "phi3"] {
        let base = load_dir(&golden_dir(variant), &device).unwrap();
        let config = base.config.into_score(ScoreKind::Reward);
        let decoder = base.decoder.with_new_score(&config, 3, &device);
        let dir = tempfile::tempdir().unwrap();
        save_dir(&config, &decoder, dir.path()).unwrap();
        let (_, golden) = golden("llama");
        let scores = model(dir.path()).scores(&golden.rows()).unwrap();
        assert!(
            scores.iter().flatten().all(|score| score.abs() > 1e-6),
            "{variant}: {scores:?}"
        );
        if let Some(theirs) = saved_scores(dir.path(), &golden.rows) {
            let worst = worst(&scores, &theirs);
            println!("{variant:<18} {worst:.1e}");
            assert!(worst <= TOLERANCE, "{variant}: {worst}");
        }
    }
}

/// Scores by transformers. Runs when `ALIGNER_TEST_PYTHON` names a Python that has it.
fn saved_scores(dir: &Path, rows: &[Vec<u32>]) -> Option<Vec<Vec<f64>>> {
    let Some(python) = std::env::var_os("ALIGNER_TEST_PYTHON") else {
        println!("skipped: ALIGNER_TEST_PYTHON does not name a Python with transformers");
        return None;
    };
    let out = Command::new(python)
        .arg(golden_dir("check_scores.py"))
        .arg(dir)
        .arg(serde_json::to_string(rows).unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let scores = serde_json::from_str(text.lines().last().unwrap_or_default());
    Some(scores.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr))))
}

#[test]
fn a_new_head_is_the_same_for_the_same_seed() {
    let device = Device::flex();
    let head = |seed| {
        let base = load_dir(&golden_dir("tied"), &device).unwrap();
        let config = base.config.into_score(ScoreKind::Reward);
        let decoder: CausalDecoder = base.decoder.with_new_score(&config, seed, &device);
        host(decoder.score_of_rows(Tensor::ones([1, 32], &device)))
    };
    assert_eq!(head(3), head(3));
    assert_ne!(head(3), head(4));
}

#[test]
fn what_does_not_belong_together_is_refused_by_name() {
    let device = Device::flex();
    let (dir, _) = golden("llama");
    assert!(
        matches!(load_dir(&dir, &device), Err(ModelError::IsScoreModel { found }) if found.starts_with("Llama"))
    );
    assert!(ModelConfig::is_score_dir(&dir).unwrap());
    let writes = golden_dir("tied");
    assert!(matches!(
        load_score_dir(&writes, &device),
        Err(ModelError::NoScoreModel { .. })
    ));
    assert!(!ModelConfig::is_score_dir(&writes).unwrap());
    // A head of another size than the configuration says.
    let broken = tempfile::tempdir().unwrap();
    std::fs::copy(
        dir.join("model.safetensors"),
        broken.path().join("model.safetensors"),
    )
    .unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    config["id2label"] = serde_json::json!({"0": "a", "1": "b"});
    std::fs::write(broken.path().join("config.json"), config.to_string()).unwrap();
    let error = load_score_dir(broken.path(), &device).unwrap_err().to_string();
    assert!(error.contains("score.weight"), "{error}");
}
