//! An evaluation.

use aligner_eval::report::{Difference, EditRatios, Figure, Group, Report, Row, Table, Unit, Verdicts};
use aligner_eval::stats::{Interval, Tally, bootstrap_mean};
use aligner_eval::{Dimension, Item, Outcome, ScoreKind};

pub fn group(upstream: &str) -> Group {
    Group {
        upstream: upstream.into(),
        dataset: "questions".into(),
        aligner: "small".into(),
    }
}

pub fn outcome(number: usize, upstream: &str, answer: &str, output: &str) -> Outcome {
    Outcome {
        item: Item {
            id: format!("{number:05}"),
            dataset: "questions".into(),
            question: "What is it?".into(),
            answer: answer.into(),
            upstream: upstream.into(),
            ..Item::default()
        },
        output: output.into(),
        generator: format!("{upstream}+small"),
        aligner: "small".into(),
        ..Outcome::default()
    }
}

fn verdicts(upstream: &str, dimension: Dimension, tally: Tally) -> Verdicts {
    Verdicts {
        group: group(upstream),
        dimension,
        tally,
        win_rate: bootstrap_mean(&tally.values(), 3),
        p: Some(tally.sign_test()),
        contradictions: Some(12),
        judge: "a judge".into(),
    }
}

/// An evaluation with everything in it: two upstreams, so many outcomes each.
pub fn full(rows: usize) -> Report {
    let upstreams = ["one", "two"];
    let outcomes = (0..rows).flat_map(|n| {
        upstreams.map(|upstream| {
            let answer = "it is so ".repeat(1 + n % 50);
            let output = if n % 10 == 0 {
                answer.clone()
            } else {
                format!("{answer} and more {n}")
            };
            outcome(n, upstream, &answer, &output)
        })
    });
    let interval = |value: f64| Interval {
        value,
        low: value - 0.05,
        high: value + 0.05,
    };
    let row = |upstream| Row {
        group: group(upstream),
        figures: vec![
            Figure::new("rows", rows as f64, Unit::Count),
            Figure::new("copy rate", interval(0.1), Unit::Share),
            Figure::new("perplexity", f64::NAN, Unit::Plain),
        ],
    };
    let difference = |kind| {
        upstreams.map(|upstream| Difference {
            group: group(upstream),
            kind,
            difference: interval(-1.25),
            count: 700,
            scorer: "a scorer".into(),
        })
    };
    let tally = Tally {
        wins: 224,
        ties: 320,
        losses: 146,
        unread: 10,
    };
    let dimensions = [Dimension::Harmless, Dimension::Helpful];
    Report {
        title: "First".into(),
        facts: serde_json::json!({"aligner": {"path": "models/small", "sha256": "0".repeat(64)}, "seed": 42})
            .as_object()
            .cloned()
            .unwrap(),
        notes: vec!["2 rows could not be read.".into()],
        outcomes: outcomes.collect(),
        verdicts: dimensions
            .into_iter()
            .flat_map(|dimension| upstreams.map(|upstream| verdicts(upstream, dimension, tally)))
            .collect(),
        differences: [difference(ScoreKind::Cost), difference(ScoreKind::Reward)].concat(),
        tables: vec![Table {
            title: "What was changed".into(),
            about: "Copies are left as they were.".into(),
            rows: upstreams.map(row).into(),
        }],
        edit_ratios: upstreams
            .map(|upstream| EditRatios {
                group: group(upstream),
                counts: vec![rows as u64, 0, 3],
            })
            .into(),
    }
}
