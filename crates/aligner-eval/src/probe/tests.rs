//! Probes of features whose direction is known.

use super::{LayerProbe, PlaceProbe, ProbeRow, Reading, StepProbe, probe_layers};
use crate::stats::Interval;
use aligner_data::Random;

const PLACES: usize = 5;
const WIDTH: usize = 40;
/// The first place at which the label can be read.
const PLANTED: usize = 3;

/// About normal.
fn noise(random: &mut Random) -> f32 {
    let sum: f64 = (0..12).map(|_| random.unit()).sum();
    (sum - 6.0) as f32
}

/// Rows of two steps whose label is planted in one direction from a place on; a third of them has one step alone.
fn rows(count: usize, strength: f32) -> Vec<ProbeRow> {
    let mut random = Random(11);
    let direction: Vec<f32> = (0..WIDTH)
        .map(|_| noise(&mut random) / (WIDTH as f32).sqrt())
        .collect();
    let row = |index: usize| {
        let label = random.unit() < 0.4;
        let steps = if index.is_multiple_of(3) { 1 } else { 2 };
        let mut states = Vec::new();
        for place in 0..PLACES {
            for _ in 0..steps {
                let sign = if label { strength } else { -strength };
                let planted = if place >= PLANTED { sign } else { 0.0 };
                // Columns of scales that differ by far, and one that never changes.
                states.extend((0..WIDTH).map(|column| match column {
                    0 => 7.5,
                    _ => (noise(&mut random) + planted * direction[column]) * 10f32.powi(column as i32 % 4),
                }));
            }
        }
        ProbeRow {
            label,
            group: format!("question {}", index % 80),
            steps,
            states,
        }
    };
    (0..count).map(row).collect()
}

#[test]
fn a_planted_direction_is_found_where_it_was_planted() {
    let found = probe_layers(&rows(300, 3.0), PLACES, 7).expect("enough rows");
    assert_eq!((found.rows, found.groups, found.steps.len()), (300, 80, 2));
    assert_eq!((found.steps[0].rows, found.steps[1].rows), (300, 200));
    for step in &found.steps {
        for (place, probe) in step.places.iter().enumerate() {
            let (accuracy, auc) = (probe.probe.accuracy, probe.probe.auc);
            if place >= PLANTED {
                assert!(accuracy.value > 0.9 && auc.value > 0.95, "{place}: {probe:?}");
            } else {
                assert!(accuracy.low < step.majority, "{place}: {probe:?}");
                assert!(auc.low < 0.5 && 0.5 < auc.high + 0.05, "{place}: {probe:?}");
            }
            assert!(accuracy.low <= accuracy.value && accuracy.value <= accuracy.high);
            // Whatever the labels were, shuffled they cannot be read.
            let chance = probe.shuffled;
            assert!(chance.accuracy.value < step.majority + 0.06, "{place}: {probe:?}");
            assert!((chance.auc.value - 0.5).abs() < 0.17, "{place}: {probe:?}");
        }
        let [first, last] = step.above_majority().expect("it was planted");
        assert_eq!((first.layer, last.layer), (Some(PLANTED - 1), Some(PLACES - 2)));
        assert!(step.best().expect("places").layer >= Some(PLANTED - 1));
    }
}

#[test]
fn what_a_group_alone_tells_is_not_counted() {
    // A group's label is in its states and nowhere else: seen before it would be known, unseen it is not.
    let mut random = Random(5);
    let of_group: Vec<Vec<f32>> = (0..60)
        .map(|_| (0..WIDTH).map(|_| noise(&mut random)).collect())
        .collect();
    let rows: Vec<ProbeRow> = (0..300)
        .map(|index| ProbeRow {
            label: (index % 60) % 2 == 0,
            group: (index % 60).to_string(),
            steps: 1,
            states: of_group[index % 60]
                .iter()
                .map(|value| value + 0.01 * noise(&mut random))
                .collect(),
        })
        .collect();
    let found = probe_layers(&rows, 1, 1).expect("enough rows");
    let accuracy = found.steps[0].places[0].probe.accuracy.value;
    assert!(accuracy < 0.7, "{accuracy}");
    let apart: Vec<ProbeRow> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| ProbeRow {
            group: index.to_string(),
            ..row.clone()
        })
        .collect();
    let leaked = probe_layers(&apart, 1, 1).expect("enough rows").steps[0].places[0]
        .probe
        .accuracy
        .value;
    assert!(leaked > 0.9, "the test would not see a leak: {leaked}");
}

#[test]
fn the_same_rows_and_seed_give_the_same_numbers() {
    let rows = rows(150, 1.0);
    let text = |seed| serde_json::to_string(&probe_layers(&rows, PLACES, seed).expect("rows")).expect("json");
    assert_eq!(text(3), text(3));
    assert_ne!(text(3), text(4));
}

#[test]
fn rows_that_cannot_be_probed_are_refused() {
    let good = rows(150, 1.0);
    let error = |rows: &[ProbeRow]| probe_layers(rows, PLACES, 0).expect_err("refused").to_string();
    assert!(error(&[]).contains("no hidden states"));
    let mut one = good.clone();
    one.iter_mut().for_each(|row| row.label = false);
    assert!(
        error(&one).contains("only 0, from 0 questions, have the label"),
        "{}",
        error(&one)
    );
    let mut short = good.clone();
    short[4].states.pop();
    assert!(error(&short).contains("row 4 has"), "{}", error(&short));
    let mut broken = good;
    broken[2].states[1] = f32::NAN;
    assert!(
        error(&broken).contains("row 2 are not all numbers"),
        "{}",
        error(&broken)
    );
}

#[test]
fn a_picture_and_a_table_have_every_place() {
    let found = probe_layers(&rows(150, 2.0), PLACES, 7).expect("enough rows");
    let picture = found.picture("copies <of> \"this\" & that");
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    assert!(picture.contains("copies &lt;of&gt; &quot;this&quot; &amp; that"));
    assert!(!picture.contains("NaN") && !picture.contains("inf"));
    for name in ["emb.", ">3<", "token 1", "token 2", "majority", "shuffled"] {
        assert!(picture.contains(name), "{name}");
    }
    let table = found.table();
    assert_eq!(table.lines().count(), 1 + PLACES + 1);
    let width = |line: &str| line.chars().count();
    let widest = table.lines().map(width).max();
    assert!(table.lines().all(|line| Some(width(line)) == widest), "{table}");
}

/// A step whose accuracies have these lower ends.
fn step(number: usize, lows: &[f64]) -> StepProbe {
    let interval = |low: f64| Interval {
        value: low + 0.05,
        low,
        high: low + 0.1,
    };
    let places = lows.iter().enumerate().map(|(place, &low)| {
        let reading = |low| Reading {
            accuracy: interval(low),
            auc: interval(low),
        };
        PlaceProbe {
            layer: place.checked_sub(1),
            probe: reading(low),
            shuffled: reading(0.5),
            penalty: 1.0,
        }
    });
    StepProbe {
        step: number,
        rows: 100,
        majority: 0.6,
        places: places.collect(),
    }
}

#[test]
fn no_layer_is_said_to_be_above_the_majority_whose_interval_is_not() {
    let named = |lows: &[f64]| {
        let step = step(1, lows);
        step.above_majority().map(|places| places.map(PlaceProbe::name))
    };
    // The values lie above it everywhere.
    assert_eq!(named(&[0.56, 0.57, 0.6, 0.59]), None);
    assert_eq!(named(&[0.56, 0.7, 0.58, 0.59]), None, "one by chance");
    let run = named(&[0.56, 0.7, 0.58, 0.7, 0.71, 0.72, 0.58, 0.8, 0.8]);
    assert_eq!(run, Some(["2".into(), "4".into()]), "and not after");
    assert_eq!(named(&[0.61, 0.7]), Some(["embedding".into(), "0".into()]));
    assert_eq!(named(&[]), None);
}

#[test]
fn every_step_has_a_curve_of_its_own_and_a_legend_that_is_not_cut() {
    for steps in [1, 4, 6, 9, 24, 30] {
        let found = LayerProbe {
            rows: 100,
            labelled: 60,
            groups: 50,
            folds: 5,
            seed: 0,
            steps: (1..=steps).map(|number| step(number, &[0.5, 0.7, 0.8])).collect(),
        };
        let picture = found.picture("x");
        let curves: Vec<&str> = picture
            .lines()
            .filter(|line| line.starts_with("<path") && !line.contains("#999999") && line.contains("stroke="))
            .filter_map(|line| line.split_once("fill=\"none\" "))
            .map(|(_, stroke)| stroke)
            .collect();
        let apart: std::collections::HashSet<_> = curves.iter().collect();
        assert_eq!((curves.len(), apart.len()), (steps.min(24), steps.min(24)));
        let height: f64 = picture
            .split('"')
            .nth(3)
            .and_then(|size| size.rsplit(' ').next())
            .expect("a box")
            .parse()
            .expect("a number");
        for line in picture.lines().filter(|line| line.starts_with("<text")) {
            let part = |name: &str| {
                line.split_once(name)
                    .and_then(|(_, rest)| rest.split('"').next()?.parse::<f64>().ok())
            };
            let (x, y) = (part(" x=\"").expect("x"), part(" y=\"").expect("y"));
            assert!(y <= height - 8.0, "{line}");
            let words = line
                .split('>')
                .nth(1)
                .and_then(|rest| rest.split('<').next())
                .expect("words");
            assert!(
                !line.contains("start") || x + 7.0 * words.chars().count() as f64 <= 760.0,
                "{line}"
            );
        }
        assert_eq!(picture.contains("tokens 25 to 30 are not drawn"), steps == 30);
    }
}
