//! Distributions of lengths.

use serde::Serialize;

/// The distribution of a length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Shortest.
    pub min: usize,
    /// Median.
    pub p50: usize,
    /// 90th percentile.
    pub p90: usize,
    /// 95th percentile.
    pub p95: usize,
    /// 99th percentile.
    pub p99: usize,
    /// Longest.
    pub max: usize,
    /// Mean.
    pub mean: f64,
}

impl Lengths {
    /// The distribution of these values; percentiles by nearest rank.
    pub fn of(values: &[u32]) -> Self {
        let mut values = values.to_vec();
        values.sort_unstable();
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Self::default();
        };
        let rank = |percent: usize| {
            values[(values.len() * percent).div_ceil(100).clamp(1, values.len()) - 1] as usize
        };
        Self {
            min: min as usize,
            p50: rank(50),
            p90: rank(90),
            p95: rank(95),
            p99: rank(99),
            max: max as usize,
            mean: values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64,
        }
    }
}

/// A length as it is kept of each row.
pub(super) fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<u32> = (1..=200).rev().collect();
        let lengths = Lengths::of(&values);
        let Lengths {
            min,
            p50,
            p90,
            p95,
            p99,
            max,
            mean,
        } = lengths;
        assert_eq!(
            (min, p50, p90, p95, p99, max, mean),
            (1, 100, 180, 190, 198, 200, 100.5)
        );
        assert_eq!(Lengths::of(&[]), Lengths::default());
    }
}
