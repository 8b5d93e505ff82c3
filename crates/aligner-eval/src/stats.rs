//! Win rates and intervals.

use aligner_data::Random;
use serde::{Deserialize, Serialize};

use crate::row::Verdict;

/// Resamples of a bootstrap.
pub const RESAMPLES: usize = 2000;

/// An estimate and the interval that holds it in 95 of 100 cases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How often each verdict was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The correction is better.
    pub wins: u64,
    /// Neither is.
    pub ties: u64,
    /// The original is better.
    pub losses: u64,
    /// The judge could not be read; these count nowhere.
    pub unread: u64,
}

impl Tally {
    /// Counts verdicts.
    pub fn of(verdicts: impl IntoIterator<Item = Verdict>) -> Self {
        let mut tally = Self::default();
        for verdict in verdicts {
            match verdict {
                Verdict::Win => tally.wins += 1,
                Verdict::Tie => tally.ties += 1,
                Verdict::Loss => tally.losses += 1,
                Verdict::Unread => tally.unread += 1,
            }
        }
        tally
    }

    /// Verdicts that count.
    pub fn count(&self) -> u64 {
        self.wins + self.ties + self.losses
    }

    /// `(wins − losses) / (wins + ties + losses)`, the paper's ω (section 4.1), from −1 to 1; `None` where nothing counts.
    ///
    /// ```
    /// use aligner_eval::stats::Tally;
    /// let tally = Tally { wins: 224, ties: 320, losses: 146, unread: 0 };
    /// assert!((tally.win_rate().unwrap() - 0.113).abs() < 5e-4);
    /// ```
    pub fn win_rate(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| (self.wins as f64 - self.losses as f64) / count as f64)
    }

    /// Each verdict as a number: 1, 0, −1.
    pub fn values(&self) -> Vec<f64> {
        let of = |count: u64, value: f64| std::iter::repeat_n(value, count as usize);
        of(self.wins, 1.0)
            .chain(of(self.ties, 0.0))
            .chain(of(self.losses, -1.0))
            .collect()
    }

    /// The two-sided sign test: how likely wins and losses lie this far apart, or farther, when both are equally likely.
    pub fn sign_test(&self) -> f64 {
        sign_test(self.wins, self.losses)
    }
}

/// The mean, with a percentile bootstrap of [`RESAMPLES`] drawn from `seed`; `None` without values.
///
/// Efron & Tibshirani, *An Introduction to the Bootstrap*, chapter 13.
pub fn bootstrap_mean(values: &[f64], seed: u64) -> Option<Interval> {
    bootstrap(values.len(), seed, |rows| {
        rows.iter().map(|&row| values[row]).sum::<f64>() / rows.len() as f64
    })
}

/// A figure of drawn rows, with a percentile bootstrap; `of` gets the rows of one resample. `None` without rows.
pub fn bootstrap(count: usize, seed: u64, of: impl Fn(&[usize]) -> f64) -> Option<Interval> {
    if count == 0 {
        return None;
    }
    let mut rows: Vec<usize> = (0..count).collect();
    let value = of(&rows);
    let mut random = Random(seed);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            rows.iter_mut().for_each(|row| *row = random.index(count));
            of(&rows)
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((means.len() - 1) as f64 * share).round() as usize];
    Some(Interval {
        value,
        low: at(0.025),
        high: at(0.975),
    })
}

/// The two-sided exact sign test of `wins` against `losses`; ties do not count. 1 where there are neither.
pub fn sign_test(wins: u64, losses: u64) -> f64 {
    let count = wins + losses;
    let few = wins.min(losses);
    if count == 0 {
        return 1.0;
    }
    // In logarithms: 0.5ⁿ is no number for a thousand rows.
    let mut log_choose = 0.0;
    let mut tail = 0.0;
    for k in 0..=few {
        if k > 0 {
            log_choose += ((count - k + 1) as f64).ln() - (k as f64).ln();
        }
        tail += (log_choose - count as f64 * std::f64::consts::LN_2).exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_test_is_the_binomial_tail() {
        // scipy.stats.binomtest(k, n).pvalue
        for (wins, losses, expected) in [
            (8, 2, 0.109375),
            (5, 5, 1.0),
            (0, 0, 1.0),
            (224, 146, 5.8993e-5),
            (3, 0, 0.25),
        ] {
            let found = sign_test(wins, losses);
            assert!(
                (found - expected).abs() < 1e-3 * expected,
                "{wins}:{losses} {found}"
            );
        }
        assert!(sign_test(2000, 1000) < 1e-70);
    }

    #[test]
    fn a_bootstrap_covers_what_the_normal_one_does() {
        let mut random = Random(1);
        let values: Vec<f64> = (0..1000).map(|_| random.unit()).collect();
        let found = bootstrap_mean(&values, 7).expect("values");
        let half = 1.96 * (1.0f64 / 12.0 / 1000.0).sqrt();
        assert!((found.high - found.value - half).abs() < 0.15 * half, "{found:?}");
        assert!((found.value - found.low - half).abs() < 0.15 * half, "{found:?}");
        assert_eq!(bootstrap_mean(&values, 7), Some(found));
        assert_eq!(bootstrap_mean(&[], 7), None);
    }
}
