//! Length bias: whether corrections are longer than answers as a rule.
//!
//! A judge prefers longer texts (Dubois et al. 2024, *Length-Controlled AlpacaEval*), and a model that saw only longer
//! corrections learns to write more, right or not. The ratio is the correction's length over the answer's; rows with an empty
//! answer and identity rows are left out of it, the latter because nothing was corrected.

use serde::Serialize;

/// How long corrections are beside their answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LengthBias {
    /// Rows with a ratio: the answer is not empty and the correction another text.
    pub rows: u64,
    /// First quartile of correction over answer.
    pub ratio_p25: f64,
    /// Median of correction over answer.
    pub ratio_p50: f64,
    /// Third quartile of correction over answer.
    pub ratio_p75: f64,
    /// Share of the corrections that are longer than the answer, from 0 to 1.
    pub longer: f64,
    /// Share of the corrections that are shorter.
    pub shorter: f64,
    /// Pearson's correlation of the two lengths; absent where one of them does not vary.
    pub correlation: Option<f64>,
}

/// Rows below which shares say little.
const LEAST_ROWS: u64 = 20;
/// The median ratio above which corrections are longer as a rule.
const LONG_RATIO: f64 = 1.5;
/// The share above which they are.
const MOST: f64 = 0.75;

impl LengthBias {
    /// Of the lengths of answers and corrections of rows that are corrected.
    pub fn of(pairs: &[(u32, u32)]) -> Self {
        let pairs: Vec<(f64, f64)> = pairs
            .iter()
            .filter(|(answer, _)| *answer > 0)
            .map(|&(answer, correction)| (f64::from(answer), f64::from(correction)))
            .collect();
        let mut ratios: Vec<f64> = pairs
            .iter()
            .map(|(answer, correction)| correction / answer)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let rank = (ratios.len() * percent).div_ceil(100).max(1);
            ratios.get(rank - 1).copied().unwrap_or(0.0)
        };
        let share = |count: usize| count as f64 / ratios.len().max(1) as f64;
        Self {
            rows: ratios.len() as u64,
            ratio_p25: rank(25),
            ratio_p50: rank(50),
            ratio_p75: rank(75),
            longer: share(ratios.iter().filter(|ratio| **ratio > 1.0).count()),
            shorter: share(ratios.iter().filter(|ratio| **ratio < 1.0).count()),
            correlation: correlation(&pairs),
        }
    }

    /// Whether corrections are longer as a rule: a median ratio above 1.5, or more than three quarters are longer.
    pub fn is_longer_as_a_rule(&self) -> bool {
        self.rows >= LEAST_ROWS && (self.ratio_p50 > LONG_RATIO || self.longer > MOST)
    }

    /// Whether they are shorter as a rule: a median ratio below 1/1.5, or more than three quarters are shorter.
    pub fn is_shorter_as_a_rule(&self) -> bool {
        self.rows >= LEAST_ROWS && (self.ratio_p50 < 1.0 / LONG_RATIO || self.shorter > MOST)
    }
}

fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let count = pairs.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| pairs.iter().map(value).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        let (x, y) = (x - mean_x, y - mean_y);
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    (xx > 0.0 && yy > 0.0).then(|| xy / (xx.sqrt() * yy.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_told_by_quartiles_and_empty_answers_left_out() {
        let bias = LengthBias::of(&[(0, 50), (10, 5), (10, 10), (10, 20), (10, 40)]);
        assert_eq!(
            (bias.rows, bias.ratio_p25, bias.ratio_p50, bias.ratio_p75),
            (4, 0.5, 1.0, 2.0)
        );
        assert_eq!((bias.longer, bias.shorter, bias.correlation), (0.5, 0.25, None));
        assert_eq!(
            LengthBias::of(&[]),
            LengthBias {
                correlation: None,
                ..LengthBias::default()
            }
        );
    }

    #[test]
    fn correlation_is_pearsons() {
        let line: Vec<(u32, u32)> = (1..30).map(|x| (x, 3 * x + 2)).collect();
        assert!((LengthBias::of(&line).correlation.unwrap() - 1.0).abs() < 1e-12);
        // numpy.corrcoef([1, 2, 3, 4], [2, 1, 4, 3]) is 0.6.
        let found = LengthBias::of(&[(1, 2), (2, 1), (3, 4), (4, 3)])
            .correlation
            .unwrap();
        assert!((found - 0.6).abs() < 1e-12);
    }

    #[test]
    fn the_rule_is_a_median_or_three_quarters_of_many_rows() {
        let rows = |longer: usize, ratio: u32| -> Vec<(u32, u32)> {
            (0..100)
                .map(|at| if at < longer { (10, ratio) } else { (10, 10) })
                .collect()
        };
        assert!(LengthBias::of(&rows(76, 11)).is_longer_as_a_rule());
        assert!(!LengthBias::of(&rows(75, 11)).is_longer_as_a_rule());
        assert!(LengthBias::of(&rows(51, 16)).is_longer_as_a_rule());
        assert!(!LengthBias::of(&rows(51, 15)).is_longer_as_a_rule());
        assert!(!LengthBias::of(&rows(76, 11)[..19]).is_longer_as_a_rule());
        assert!(LengthBias::of(&rows(76, 9)).is_shorter_as_a_rule());
        assert!(LengthBias::of(&rows(51, 6)).is_shorter_as_a_rule());
        assert!(!LengthBias::of(&rows(51, 7)).is_shorter_as_a_rule());
    }
}
