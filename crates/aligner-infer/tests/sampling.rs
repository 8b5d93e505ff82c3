//! The sampler leaves the distributions that transformers leaves; see `golden/make_sampling.py` for generator and seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use aligner_infer::{Sampler, SamplingParams};
use serde::Deserialize;

const SEEDS: u64 = 25;
const DRAWS: u64 = 20_000;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    choices: Vec<Choices>,
}

#[derive(Deserialize)]
struct Case {
    scores: Vec<f32>,
    seen: Vec<u32>,
    params: SamplingParams,
    probabilities: Vec<f64>,
}

#[derive(Deserialize)]
struct Choices {
    seed: u64,
    tokens: Vec<u32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/sampling.json")).unwrap()
}

/// How often each token comes, over many seeds: one stream of random numbers would be one sample for all cases.
fn counts(case: &Case) -> Vec<f64> {
    let mut counts = vec![0.0; case.scores.len()];
    for seed in 0..SEEDS {
        let mut sampler = Sampler::new(SamplingParams { seed, ..case.params }).unwrap();
        for _ in 0..DRAWS {
            counts[sampler.sample(&mut case.scores.clone(), &case.seen).unwrap() as usize] += 1.0;
        }
    }
    counts
}

/// What chi squared exceeds once in a million times (Wilson and Hilferty's approximation, good from four degrees on).
fn bound(freedom: f64) -> f64 {
    let width = 2.0 / (9.0 * freedom);
    freedom * (1.0 - width + 4.753 * width.sqrt()).powi(3)
}

#[test]
fn draws_follow_the_distribution_of_transformers() {
    for case in golden().cases {
        let (mut chi_squared, mut kept) = (0.0, 0);
        for (token, (&count, &p)) in counts(&case).iter().zip(&case.probabilities).enumerate() {
            if p == 0.0 {
                assert_eq!(count, 0.0, "{:?} leaves token {token} out", case.params);
                continue;
            }
            let expected = p * (SEEDS * DRAWS) as f64;
            chi_squared += (count - expected).powi(2) / expected;
            kept += 1;
        }
        if kept > 1 {
            let bound = bound(f64::from(kept - 1));
            assert!(
                chi_squared < bound,
                "{:?}: {chi_squared} over {bound}",
                case.params
            );
        }
    }
}

#[test]
fn every_token_that_transformers_leaves_in_can_be_drawn() {
    for case in golden().cases {
        let counts = counts(&case);
        for (token, (&count, &p)) in counts.iter().zip(&case.probabilities).enumerate() {
            assert!(
                count > 0.0 || p < 1e-3,
                "{:?} leaves token {token} in with {p}",
                case.params
            );
        }
    }
}

#[test]
fn choices_of_a_seed_never_change() {
    for Choices { seed, tokens } in golden().choices {
        let params = SamplingParams {
            temperature: 1.0,
            seed,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params).unwrap();
        let drawn: Vec<u32> = tokens
            .iter()
            .map(|_| sampler.sample(&mut [0.0; 1000], &[]).unwrap())
            .collect();
        assert_eq!(drawn, tokens, "seed {seed}");
    }
}

#[test]
fn greedy_ignores_filters_and_seed() {
    for case in golden().cases {
        let mut scores = case.scores.clone();
        let params = SamplingParams {
            temperature: 0.0,
            repetition_penalty: 1.0,
            seed: 5,
            ..case.params
        };
        let token = Sampler::new(params)
            .unwrap()
            .sample(&mut scores, &case.seen)
            .unwrap();
        assert!(
            case.scores
                .iter()
                .all(|&score| score <= case.scores[token as usize]),
            "{params:?}"
        );
    }
}

#[test]
fn impossible_tokens_are_never_drawn() {
    let params = SamplingParams {
        temperature: 3.0,
        seed: 1,
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(params).unwrap();
    for _ in 0..2000 {
        let token = sampler
            .sample(&mut [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.5], &[])
            .unwrap();
        assert!(token == 1 || token == 3);
    }
}

#[test]
fn extreme_temperatures_are_no_special_case() {
    for temperature in [f32::MIN_POSITIVE, 1e-30, 1e30, f32::MAX] {
        let params = SamplingParams {
            temperature,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params).unwrap();
        for _ in 0..100 {
            let token = sampler.sample(&mut [1.0, 2.0, -50.0], &[]).unwrap();
            assert!(
                temperature > 1.0 || token == 1,
                "at {temperature} the highest score takes all"
            );
        }
    }
}

#[test]
fn values_that_are_no_numbers_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let default = SamplingParams::default();
        for params in [
            SamplingParams {
                temperature: bad,
                ..default
            },
            SamplingParams {
                top_p: bad,
                ..default
            },
            SamplingParams {
                min_p: bad,
                ..default
            },
            SamplingParams {
                repetition_penalty: bad,
                ..default
            },
        ] {
            assert!(Sampler::new(params).is_err(), "{params:?}");
        }
    }
}
