//! A curve of any length in constant memory.

/// Points kept of a curve: more than a screen has columns for it.
const MOST: usize = 600;

/// Some neighbouring values of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// How many.
    pub count: u64,
    x_sum: f64,
    y_sum: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Bucket {
    fn of(x: f64, y: f64) -> Self {
        Self {
            count: 1,
            x_sum: x,
            y_sum: y,
            low: y,
            high: y,
        }
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.x_sum += other.x_sum;
        self.y_sum += other.y_sum;
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
    }

    /// Where they are.
    pub fn x(&self) -> f64 {
        self.x_sum / self.count as f64
    }

    /// Their mean.
    pub fn mean(&self) -> f64 {
        self.y_sum / self.count as f64
    }
}

/// A curve: its values as they came, or, when there are too many, neighbours together.
#[derive(Debug, Clone, Default)]
pub struct Series {
    buckets: Vec<Bucket>,
    /// Values in a full bucket, as a power of two.
    shift: u32,
    last: Option<(f64, f64)>,
}

impl Series {
    /// Adds a value. What lies behind the last one, or is no number, is left out.
    pub fn push(&mut self, x: f64, y: f64) {
        if !x.is_finite() || !y.is_finite() || self.last.is_some_and(|(last, _)| x < last) {
            return;
        }
        self.last = Some((x, y));
        let value = Bucket::of(x, y);
        match self.buckets.last_mut() {
            Some(last) if last.count < 1 << self.shift => last.add(&value),
            _ => {
                if self.buckets.len() == MOST {
                    self.halve();
                }
                self.buckets.push(value);
            }
        }
    }

    fn halve(&mut self) {
        let pairs = self.buckets.chunks(2).map(|pair| {
            let mut sum = pair[0];
            pair[1..].iter().for_each(|other| sum.add(other));
            sum
        });
        self.buckets = pairs.collect();
        self.shift += 1;
    }

    /// The values, neighbours together.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The value that came last.
    pub fn last(&self) -> Option<f64> {
        self.last.map(|(_, y)| y)
    }

    /// Means as points.
    pub fn points(&self) -> Vec<(f64, f64)> {
        self.buckets.iter().map(|b| (b.x(), b.mean())).collect()
    }

    /// The curve without its noise: a mean of what is around each point, near ones with more weight (a Gaussian over a
    /// fiftieth of the curve). Unlike an exponential mean it does not lag behind. Nothing for a curve of few points.
    pub fn smoothed(&self) -> Vec<(f64, f64)> {
        let width = self.buckets.len() as f64 / 50.0;
        if width < 0.5 {
            return Vec::new();
        }
        let reach = (3.0 * width).ceil() as usize;
        let around = |index: usize| {
            let range = index.saturating_sub(reach)..(index + reach + 1).min(self.buckets.len());
            let (mut sum, mut weights) = (0.0, 0.0);
            for other in range {
                let distance = (other as f64 - index as f64) / width;
                let weight = (-0.5 * distance * distance).exp() * self.buckets[other].count as f64;
                sum += weight * self.buckets[other].mean();
                weights += weight;
            }
            (self.buckets[index].x(), sum / weights)
        };
        (0..self.buckets.len()).map(around).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_curve_is_kept_as_it_is() {
        let mut series = Series::default();
        for step in 0..MOST {
            series.push(step as f64, (step * step) as f64);
        }
        assert_eq!(series.points()[7], (7.0, 49.0));
        assert_eq!(series.points().len(), MOST);
    }

    #[test]
    fn a_million_values_stay_few_and_keep_mean_and_extremes() {
        let mut series = Series::default();
        for step in 0..1_000_000u32 {
            let spike = if step == 777_777 { 1000.0 } else { 0.0 };
            series.push(f64::from(step), f64::from(step % 2) + spike);
        }
        let buckets = series.buckets();
        assert!(
            buckets.len() <= MOST && buckets.len() > MOST / 2,
            "{}",
            buckets.len()
        );
        assert_eq!(buckets.iter().map(|b| b.count).sum::<u64>(), 1_000_000);
        assert_eq!(buckets.iter().filter(|b| b.high == 1001.0).count(), 1);
        assert!((buckets[3].mean() - 0.5).abs() < 1e-9);
        assert!(series.points().is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn smoothing_keeps_a_level_and_takes_noise() {
        let mut series = Series::default();
        for step in 0..500 {
            series.push(f64::from(step), 2.0 + if step % 2 == 0 { 1.0 } else { -1.0 });
        }
        let smoothed = series.smoothed();
        assert!(smoothed[100..400].iter().all(|(_, y)| (y - 2.0).abs() < 0.01));
    }

    #[test]
    fn what_is_no_number_or_goes_back_is_left_out() {
        let mut series = Series::default();
        for (x, y) in [
            (1.0, 1.0),
            (2.0, f64::NAN),
            (f64::INFINITY, 1.0),
            (0.0, 5.0),
            (1.0, 2.0),
        ] {
            series.push(x, y);
        }
        assert_eq!(series.points(), [(1.0, 1.0), (1.0, 2.0)]);
    }
}
