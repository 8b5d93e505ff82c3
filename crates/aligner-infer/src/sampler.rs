//! From the scores of a vocabulary to one token.

use aligner_data::Random;
use serde::{Deserialize, Serialize};

use crate::error::{InferError, Result};

/// How tokens are chosen. The default takes the most probable one.
///
/// The filters are transformers' and work in its order: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingParams {
    /// Divides the scores; 0 takes the most probable token.
    pub temperature: f32,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens whose probabilities together reach this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative scores of tokens that occurred, prompt included; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Seed of the choices.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value out of its range.
    pub fn validate(&self) -> Result<()> {
        let check = |name, value: f32, ok: bool, rule| {
            if ok {
                Ok(())
            } else {
                Err(InferError::Sampling {
                    name,
                    value: f64::from(value),
                    rule,
                })
            }
        };
        check(
            "temperature",
            self.temperature,
            self.temperature.is_finite() && self.temperature >= 0.0,
            "0 or more",
        )?;
        check(
            "top_p",
            self.top_p,
            self.top_p > 0.0 && self.top_p <= 1.0,
            "above 0 and at most 1",
        )?;
        check("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "in 0..=1")?;
        check(
            "repetition_penalty",
            self.repetition_penalty,
            self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
            "above 0",
        )
    }
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    random: Random,
}

impl Sampler {
    /// A sampler with valid parameters.
    ///
    /// # Errors
    /// When a parameter is out of its range.
    pub fn new(params: SamplingParams) -> Result<Self> {
        params.validate()?;
        Ok(Self {
            params,
            random: Random(params.seed),
        })
    }

    /// Chooses a token; `seen` are the tokens of prompt and output so far. The scores are used as scratch space.
    ///
    /// # Errors
    /// When no score is a number.
    pub fn sample(&mut self, logits: &mut [f32], seen: &[u32]) -> Result<u32> {
        let params = self.params;
        if params.repetition_penalty != 1.0 {
            penalise(logits, seen, params.repetition_penalty);
        }
        let best = argmax(logits).ok_or(InferError::BadLogits { position: seen.len() })?;
        if params.temperature == 0.0 {
            return Ok(best as u32);
        }
        let mut candidates = filtered(logits, params);
        let mut left = self.random.unit() * candidates.total;
        let mut chosen = best as u32;
        for index in 0..candidates.tokens.len() {
            let (token, weight) = candidates.nth(index);
            chosen = token;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        Ok(chosen)
    }
}

/// The seed of one of several texts that were given one seed, by its place among them: each draws numbers of its own,
/// which do not depend on the others. A part may have parts in turn.
pub fn part_seed(seed: u64, index: u64) -> u64 {
    // The place is spread over all bits first: part 1 of seed 0 is not part 0 of seed 1.
    Random(seed ^ Random(index).next()).next()
}

/// The first of the highest scores, as `torch.argmax`; `None` when a score is NaN or none is finite.
fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (index, &logit) in logits.iter().enumerate() {
        if logit > highest {
            (best, highest) = (Some(index), logit);
        } else if logit.is_nan() {
            return None;
        }
    }
    best.filter(|_| highest.is_finite())
}

fn penalise(logits: &mut [f32], seen: &[u32], penalty: f32) {
    let mut tokens = seen.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    for token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
        }
    }
}

/// The tokens that survive the filters, with weights that need not sum to 1.
struct Candidates {
    /// The first `sorted` are the most probable ones in order.
    tokens: Vec<(u32, f64)>,
    sorted: usize,
    /// The sum of all weights.
    total: f64,
}

impl Candidates {
    /// The candidate of this rank. A draw looks at few of tens of thousands, so only those are sorted.
    fn nth(&mut self, rank: usize) -> (u32, f64) {
        while rank >= self.sorted {
            let rest = &mut self.tokens[self.sorted..];
            let next = self.sorted.max(32).min(rest.len());
            let by_weight = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
            if next < rest.len() {
                rest.select_nth_unstable_by(next - 1, by_weight);
            }
            rest[..next].sort_unstable_by(by_weight);
            self.sorted += next;
        }
        self.tokens[rank]
    }

    /// Keeps the most probable ones that together reach this share of the weight.
    fn keep_share(&mut self, share: f64) {
        let mut mass = 0.0;
        for rank in 0..self.tokens.len() {
            mass += self.nth(rank).1 / self.total;
            if mass >= share {
                // The token that reaches it stays.
                self.tokens.truncate(rank + 1);
                self.sorted = self.sorted.min(rank + 1);
                break;
            }
        }
    }

    /// Keeps those with this weight at least.
    fn keep_weight(&mut self, least: f64) {
        let kept = |token: &(u32, f64)| token.1 >= least;
        self.sorted = self.tokens[..self.sorted]
            .iter()
            .filter(|token| kept(token))
            .count();
        self.tokens.retain(kept);
    }

    fn sum(&mut self) {
        self.total = self.tokens.iter().map(|(_, weight)| weight).sum();
    }
}

/// Applies top-k, top-p and min-p in this order. The most probable token has weight 1.
fn filtered(logits: &[f32], params: SamplingParams) -> Candidates {
    let mut lowest = f32::NEG_INFINITY;
    if params.top_k > 0 && params.top_k < logits.len() {
        let mut scores = logits.to_vec();
        let (_, kth, _) = scores.select_nth_unstable_by(params.top_k - 1, |a, b| b.total_cmp(a));
        // Tokens that tie with the k-th stay, as under transformers.
        lowest = *kth;
    }
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let weight = |score: f32| ((f64::from(score) - highest) / f64::from(params.temperature)).exp();
    let kept = (0..).zip(logits).filter(|(_, score)| **score >= lowest);
    let mut candidates = Candidates {
        tokens: kept.map(|(token, &score)| (token, weight(score))).collect(),
        sorted: 0,
        total: 0.0,
    };
    if params.top_p < 1.0 {
        candidates.sum();
        candidates.keep_share(f64::from(params.top_p));
    }
    candidates.keep_weight(f64::from(params.min_p));
    candidates.sum();
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(logits: &[f32], params: SamplingParams) -> Vec<u32> {
        let mut candidates = filtered(logits, params);
        (0..candidates.tokens.len())
            .map(|rank| candidates.nth(rank).0)
            .collect()
    }

    fn sampling() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            ..SamplingParams::default()
        }
    }

    /// ln of 0.4, 0.3, 0.2, 0.1, shuffled.
    fn logits() -> [f32; 4] {
        [0.2f32.ln(), 0.4f32.ln(), 0.1f32.ln(), 0.3f32.ln()]
    }

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        let mut sampler = Sampler::new(SamplingParams::default()).unwrap();
        assert_eq!(sampler.sample(&mut [1.0, 3.0, 3.0, -1.0], &[]).unwrap(), 1);
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        assert_eq!(kept(&logits(), sampling()), [1, 3, 0, 2]);
        assert_eq!(
            kept(
                &logits(),
                SamplingParams {
                    top_k: 2,
                    ..sampling()
                }
            ),
            [1, 3]
        );
        assert_eq!(
            kept(
                &logits(),
                SamplingParams {
                    top_p: 0.5,
                    ..sampling()
                }
            ),
            [1, 3]
        );
        assert_eq!(
            kept(
                &logits(),
                SamplingParams {
                    top_p: 0.05,
                    ..sampling()
                }
            ),
            [1]
        );
        assert_eq!(
            kept(
                &logits(),
                SamplingParams {
                    min_p: 0.6,
                    ..sampling()
                }
            ),
            [1, 3]
        );
        assert_eq!(
            kept(
                &logits(),
                SamplingParams {
                    min_p: 1.0,
                    ..sampling()
                }
            ),
            [1]
        );
        let cold = SamplingParams {
            temperature: 0.25,
            top_p: 0.75,
            ..sampling()
        };
        assert_eq!(
            kept(&logits(), cold),
            [1, 3],
            "at temperature 1/4 the first two hold 95 % of the mass, the first 72 %"
        );
    }

    #[test]
    fn many_candidates_come_in_order_though_few_are_sorted() {
        let logits: Vec<f32> = (0..1_000).map(|token| (token * 37 % 100) as f32 / 10.0).collect();
        let mut expected: Vec<u32> = (0..1_000).collect();
        expected.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        assert_eq!(kept(&logits, sampling()), expected);
        let half = SamplingParams {
            top_p: 0.5,
            ..sampling()
        };
        let half = kept(&logits, half);
        assert_eq!(half, expected[..half.len()]);
        let mass = |tokens: &[u32]| {
            tokens
                .iter()
                .map(|&token| f64::from(logits[token as usize]).exp())
                .sum::<f64>()
        };
        let reached = mass(&half) / mass(&expected);
        assert!(
            reached >= 0.5 && mass(&half[1..]) / mass(&expected) < 0.5,
            "{reached}"
        );
    }

    #[test]
    fn the_repetition_penalty_lowers_both_signs_and_counts_a_token_once() {
        let mut logits = [2.0, -2.0, 1.0];
        penalise(&mut logits, &[0, 1, 0, 99], 2.0);
        assert_eq!(logits, [1.0, -4.0, 1.0]);
    }

    #[test]
    fn frequencies_follow_probabilities() {
        let mut sampler = Sampler::new(SamplingParams {
            seed: 11,
            ..sampling()
        })
        .unwrap();
        let mut counts = [0f64; 4];
        const DRAWS: usize = 20_000;
        for _ in 0..DRAWS {
            counts[sampler.sample(&mut logits(), &[]).unwrap() as usize] += 1.0;
        }
        let chi_squared: f64 = counts
            .iter()
            .zip([0.2, 0.4, 0.1, 0.3])
            .map(|(count, p)| (count - p * DRAWS as f64).powi(2) / (p * DRAWS as f64))
            .sum();
        // 99.9 % of draws stay below this with three degrees of freedom.
        assert!(chi_squared < 16.27, "{chi_squared} {counts:?}");
    }

    #[test]
    fn seeds_reproduce_and_differ() {
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplingParams { seed, ..sampling() }).unwrap();
            (0..50)
                .map(|_| sampler.sample(&mut logits(), &[]).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn parts_have_seeds_of_their_own_and_so_have_their_parts() {
        let mut seeds: Vec<u64> = (0..20)
            .flat_map(|seed| (0..20).map(move |row| part_seed(seed, row)))
            .flat_map(|row| std::iter::once(row).chain((0..20).map(move |window| part_seed(row, window))))
            .collect();
        let all = seeds.len();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), all);
    }

    #[test]
    fn scores_that_are_no_numbers_are_an_error() {
        let mut sampler = Sampler::new(sampling()).unwrap();
        assert!(sampler.sample(&mut [1.0, f32::NAN], &[]).is_err());
        assert!(sampler.sample(&mut [f32::NEG_INFINITY; 3], &[]).is_err());
        assert!(sampler.sample(&mut [], &[]).is_err());
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (name, params) in [
            (
                "temperature",
                SamplingParams {
                    temperature: -1.0,
                    ..sampling()
                },
            ),
            (
                "top_p",
                SamplingParams {
                    top_p: 0.0,
                    ..sampling()
                },
            ),
            (
                "min_p",
                SamplingParams {
                    min_p: 1.5,
                    ..sampling()
                },
            ),
            (
                "repetition_penalty",
                SamplingParams {
                    repetition_penalty: 0.0,
                    ..sampling()
                },
            ),
        ] {
            assert!(params.validate().unwrap_err().to_string().starts_with(name));
        }
    }
}
