//! What a pass through the model costs, by what passes did cost.

use std::collections::VecDeque;

/// Samples kept for each number of rows; the median of them is what counts, so that a pause of the machine does not.
const KEPT: usize = 7;

/// Passes after which a measurement is forgotten, so that what was measured in a bad moment is tried again.
const FORGOTTEN_AFTER: u64 = 1024;

/// Scores of a token cost a part of its way through the layers; prefill does not compute them.
const WITH_SCORES: f64 = 1.3;

/// Upper ends of the ranges of rows that are told apart.
const RANGES: [usize; 20] = [
    1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 512,
];

/// Times of passes by their number of rows (tokens), for one model on one device.
///
/// What was not measured lies between what was, and beyond the largest number of rows a row costs what it costs in prefill.
#[derive(Debug, Clone, Default)]
pub struct PassTimes {
    ranges: [Samples; RANGES.len()],
    prefill: VecDeque<f64>,
    passes: u64,
    last_single: u64,
}

#[derive(Debug, Clone, Default)]
struct Samples {
    seconds: VecDeque<f64>,
    rows: VecDeque<usize>,
    at: u64,
}

impl PassTimes {
    /// Notes a pass that gave scores for all of its rows.
    pub fn record(&mut self, rows: usize, seconds: f64) {
        if rows == 0 || !seconds.is_finite() {
            return;
        }
        self.passes += 1;
        if rows == 1 {
            self.last_single = self.passes;
        }
        let Some(index) = RANGES.iter().position(|&end| rows <= end) else {
            return;
        };
        let samples = &mut self.ranges[index];
        if self.passes - samples.at > FORGOTTEN_AFTER {
            *samples = Samples::default();
        }
        samples.at = self.passes;
        keep(&mut samples.seconds, seconds);
        keep(&mut samples.rows, rows);
    }

    /// Notes a pass over a part of a prompt.
    pub fn record_prefill(&mut self, rows: usize, seconds: f64) {
        // Few rows cost what the weights cost.
        if rows >= 32 && seconds.is_finite() {
            keep(&mut self.prefill, seconds / rows as f64);
        }
    }

    /// Seconds that a part of a prompt takes; 0 as long as nothing is known.
    pub fn prefill(&self, rows: usize) -> f64 {
        median(&self.prefill) * rows as f64
    }

    /// Passes since one of a single row was measured; `None` when none was.
    pub fn since_single(&self) -> Option<u64> {
        (self.last_single > 0).then(|| self.passes - self.last_single)
    }

    /// The largest pass that was measured, in rows; larger ones are guessed.
    pub fn measured(&self) -> usize {
        self.points().last().map_or(0, |point| point.0 as usize)
    }

    /// Seconds that passes of 1 to `most` rows take, at index rows − 1; empty as long as nothing is known.
    ///
    /// They do not fall with the number of rows: where they were measured to, the larger pass could be done instead.
    pub fn table(&self, most: usize) -> Vec<f64> {
        let points = self.points();
        let (Some(&(first_rows, first)), Some(&(last_rows, last))) = (points.first(), points.last()) else {
            return Vec::new();
        };
        let per_row = self.per_row(first / first_rows);
        let mut right = 0;
        (1..=most)
            .map(|rows| {
                let rows = rows as f64;
                while right < points.len() && points[right].0 < rows {
                    right += 1;
                }
                match (right.checked_sub(1).map(|left| points[left]), points.get(right)) {
                    (None, _) => first,
                    (Some(_), None) => last + (rows - last_rows) * per_row,
                    (Some((left, low)), Some(&(right, high))) => {
                        let between = low + (high - low) * (rows - left) / (right - left);
                        between.min(low + (rows - left) * per_row)
                    }
                }
            })
            .collect()
    }

    /// Measured rows and seconds, both rising.
    fn points(&self) -> Vec<(f64, f64)> {
        let known = self
            .ranges
            .iter()
            .filter(|samples| !samples.seconds.is_empty() && self.passes - samples.at <= FORGOTTEN_AFTER);
        let mut points: Vec<(f64, f64)> = known
            .map(|samples| {
                let rows = samples.rows.iter().sum::<usize>() as f64 / samples.rows.len() as f64;
                (rows, median(&samples.seconds))
            })
            .collect();
        for index in (1..points.len()).rev() {
            points[index - 1].1 = points[index - 1].1.min(points[index].1);
        }
        points
    }

    /// What another row costs at most: a row of a single pass, or one of prefill.
    fn per_row(&self, single: f64) -> f64 {
        if self.prefill.is_empty() {
            return single;
        }
        single.min(WITH_SCORES * median(&self.prefill))
    }
}

fn keep<T>(samples: &mut VecDeque<T>, sample: T) {
    if samples.len() == KEPT {
        samples.pop_front();
    }
    samples.push_back(sample);
}

fn median(samples: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<f64> = samples.iter().copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_at_first() {
        assert!(PassTimes::default().table(10).is_empty());
        assert_eq!(PassTimes::default().since_single(), None);
    }

    #[test]
    fn times_lie_between_what_was_measured_and_rise_by_prefill_behind_it() {
        let mut times = PassTimes::default();
        times.record(1, 0.010);
        assert_eq!(
            times.table(3),
            [0.010, 0.020, 0.030],
            "a row costs a pass at most"
        );
        times.record_prefill(100, 0.100);
        let table = times.table(3);
        assert!((table[2] - (0.010 + 2.0 * 0.0013)).abs() < 1e-12, "{table:?}");
        times.record(4, 0.012);
        times.record(16, 0.020);
        let table = times.table(20);
        assert_eq!((table[0], table[3]), (0.010, 0.012));
        assert!((table[2] - (0.010 + 0.002 * 2.0 / 3.0)).abs() < 1e-12);
        assert!(table.windows(2).all(|pair| pair[0] <= pair[1]), "{table:?}");
    }

    #[test]
    fn a_pause_of_the_machine_is_not_believed() {
        let mut times = PassTimes::default();
        times.record(1, 0.010);
        for seconds in [0.011, 3.0, 0.012, 0.010, 0.013] {
            times.record(8, seconds);
        }
        assert_eq!(times.table(8)[7], 0.012);
        // Measured slow once, but a larger pass was fast.
        times.record(4, 1.0);
        assert_eq!(times.table(4)[3], 0.012);
    }

    #[test]
    fn old_measurements_are_forgotten() {
        let mut times = PassTimes::default();
        times.record(8, 1.0);
        times.record(1, 0.010);
        assert_eq!(times.table(8)[7], 0.080, "no more than a pass a row");
        (0..FORGOTTEN_AFTER + 1).for_each(|_| times.record(1, 0.010));
        times.record(2, 0.011);
        assert!(times.table(8)[7] < 0.08);
        assert_eq!(times.since_single(), Some(1));
    }

    #[test]
    fn times_that_are_none_are_not_kept() {
        let mut times = PassTimes::default();
        times.record(0, 1.0);
        times.record(3, f64::NAN);
        times.record(1_000_000, 1.0);
        assert!(times.table(4).is_empty());
    }
}
