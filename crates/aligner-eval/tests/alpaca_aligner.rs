//! Figures of what a real Aligner did to real answers. Skipped unless `ALIGNER_TEST_ALPACA_ALIGNER` names a file of rows
//! `question`, `answer`, `correction`, `upstream`, `index`; prints them with `--nocapture`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

use std::path::Path;
use std::time::Instant;

use aligner_eval::Outcome;
use aligner_eval::input::{InputOptions, read};
use aligner_eval::metrics::{MetricOptions, text_metrics};

#[test]
fn what_a_real_aligner_did() {
    let Ok(file) = std::env::var("ALIGNER_TEST_ALPACA_ALIGNER") else {
        println!("skipped: ALIGNER_TEST_ALPACA_ALIGNER names no file");
        return;
    };
    let start = Instant::now();
    let items = read(Path::new(&file), &InputOptions::default()).unwrap();
    let read_secs = start.elapsed().as_secs_f64();
    // The correction was read as the right answer.
    let outcomes: Vec<Outcome> = items
        .into_iter()
        .map(|mut item| Outcome {
            output: std::mem::take(&mut item.references).correct.remove(0),
            generator: format!("{}+aligner-2b", item.upstream),
            aligner: "aligner-2b".into(),
            item,
            ..Outcome::default()
        })
        .collect();
    let start = Instant::now();
    let metrics = text_metrics(&outcomes, &MetricOptions::default()).unwrap();
    println!(
        "{} rows read in {read_secs:.3} s, measured in {:.3} s",
        outcomes.len(),
        start.elapsed().as_secs_f64()
    );
    for metrics in &metrics {
        println!("{}", serde_json::to_string_pretty(metrics).unwrap());
        let copies = outcomes.iter().filter(|outcome| {
            outcome.item.upstream == metrics.upstream && outcome.item.answer.trim() == outcome.output.trim()
        });
        let expected = copies.count() as f64 / metrics.rows as f64;
        assert!(
            (metrics.copy_rate.value - expected).abs() < 1e-12,
            "{}",
            metrics.upstream
        );
        assert_eq!(metrics.edit_ratio_histogram.iter().sum::<u64>(), metrics.rows);
    }
}
