//! SmolLM2-135M-Instruct scores and corrects as under transformers; see `golden/make_smollm2.py`.
//!
//! Runs when `ALIGNER_TEST_MODEL` names the model's directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

use std::path::PathBuf;

use aligner_data::{Encoder, PromptTemplate, Tokenizer};
use aligner_infer::{CorrectOptions, Corrector, Input, Piece};
use serde::Deserialize;

#[derive(Deserialize)]
struct Row {
    question: String,
    answer: String,
    correction: String,
    prompt: Vec<u32>,
    target: Vec<u32>,
    token_logprobs: Vec<f64>,
    greedy: Vec<u32>,
    greedy_text: String,
    margin: f64,
}

fn rows() -> Vec<Row> {
    serde_json::from_str(include_str!("golden/smollm2.json")).unwrap()
}

fn model_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("ALIGNER_TEST_MODEL").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: ALIGNER_TEST_MODEL does not name a model directory");
    }
    dir
}

fn open(dir: PathBuf) -> Corrector {
    Corrector::builder(dir)
        .template(PromptTemplate::default())
        .build()
        .unwrap()
}

#[test]
fn tokens_are_those_of_transformers() {
    let Some(dir) = model_dir() else { return };
    let tokenizer = Tokenizer::from_dir(&dir).unwrap();
    let encoder = Encoder::new(tokenizer.clone(), PromptTemplate::default(), 2048);
    for row in rows() {
        assert_eq!(
            encoder.encode_prompt(&row.question, &row.answer, &[]).unwrap(),
            row.prompt
        );
        let target = [
            tokenizer.encode_target(&row.correction).unwrap(),
            vec![tokenizer.eos_id()],
        ]
        .concat();
        assert_eq!(target, row.target, "{}", row.correction);
    }
}

#[test]
fn scores_are_those_of_transformers() {
    let Some(dir) = model_dir() else { return };
    let corrector = open(dir);
    for row in rows() {
        let score = corrector
            .score(Input::new(&row.question, &row.answer), &row.correction)
            .unwrap();
        assert_eq!(
            (score.prompt_tokens, score.tokens),
            (row.prompt.len(), row.target.len())
        );
        assert_eq!(score.token_logprobs.len(), row.token_logprobs.len());
        for (got, want) in score.token_logprobs.iter().zip(&row.token_logprobs) {
            assert!((got - want).abs() < 1e-4, "{}: {got} {want}", row.correction);
        }
    }
}

#[test]
fn greedy_corrections_are_those_of_transformers() {
    let Some(dir) = model_dir() else { return };
    let corrector = open(dir);
    let options = || CorrectOptions {
        max_new_tokens: 24,
        ..CorrectOptions::default()
    };
    for row in rows() {
        assert!(row.margin > 1e-3, "a tie decides nothing: choose another row");
        let correction = corrector.correct(&row.question, &row.answer, &options()).unwrap();
        assert_eq!(correction.ids, row.greedy, "{}", row.question);
        assert_eq!(correction.text, row.greedy_text);
        assert_eq!(correction.usage.completion_tokens, row.greedy.len());
        let streamed = corrector.stream(&row.question, &row.answer, &options());
        let streamed = streamed.filter_map(|piece| match piece.unwrap() {
            Piece::Text(text) => Some(text),
            Piece::Done(_) => None,
        });
        assert_eq!(streamed.collect::<String>(), correction.text);
    }
}
