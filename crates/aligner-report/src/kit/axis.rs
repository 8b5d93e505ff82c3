//! Where a value lies on an axis, and which values are written beside it.

/// More than this many times the median, and a linear axis would show one peak and nothing else.
const LOG_FROM: f64 = 20.0;
/// Values that are written beside an axis, about.
const TICKS: f64 = 4.0;

/// A range of values, mapped to 0..=1.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// From the lowest to the highest value.
    pub fn exact(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = range(values)?;
        // A single value lies in the middle.
        let (low, high) = if high > low {
            (low, high)
        } else {
            (low - 1.0, high + 1.0)
        };
        Some(Self {
            low,
            high,
            log: false,
        })
    }

    /// With some room, from zero where the values are not far from it, and logarithmic where a few are far from the rest.
    pub fn fitting(mut values: Vec<f64>) -> Option<Self> {
        let (low, high) = range(values.iter().copied())?;
        let middle = values.len() / 2;
        let (_, &mut median, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
        if low > 0.0 && high > LOG_FROM * median {
            return Some(Self {
                low: low.ln() - 0.05,
                high: high.ln() + 0.05,
                log: true,
            });
        }
        if low == high {
            let room = if low == 0.0 { 1.0 } else { 0.5 * low.abs() };
            return Some(Self {
                low: low - room,
                high: high + room,
                log: false,
            });
        }
        let room = 0.06 * (high - low);
        let from_zero = low >= 0.0 && low < 0.4 * high;
        Some(Self {
            low: if from_zero { 0.0 } else { low - room },
            high: high + room,
            log: false,
        })
    }

    /// From zero to a little more than `high`.
    pub fn from_zero(high: f64) -> Option<Self> {
        (high > 0.0).then_some(Self {
            low: 0.0,
            high: 1.06 * high,
            log: false,
        })
    }

    /// Whether it is logarithmic.
    pub fn is_log(&self) -> bool {
        self.log
    }

    /// Where a value lies, 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.ln() } else { value };
        (value - self.low) / (self.high - self.low)
    }

    /// Round values on the axis, and where they lie.
    pub fn ticks(&self) -> Vec<(f64, f64)> {
        let values = if self.log {
            self.log_ticks()
        } else {
            self.linear_ticks()
        };
        values
            .into_iter()
            .map(|value| (value, self.place(value)))
            .collect()
    }

    fn linear_ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / TICKS;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .find(|factor| factor * power >= rough);
        let step = factor.unwrap_or(10.0) * power;
        let first = (self.low / step - 1e-9).ceil();
        let count = ((self.high / step + 1e-9).floor() - first).clamp(0.0, 20.0) as usize;
        // `+ 0.0`: not minus zero.
        (0..=count)
            .map(|index| (first + index as f64) * step + 0.0)
            .collect()
    }

    fn log_ticks(&self) -> Vec<f64> {
        let (first, last) = (
            (self.low / std::f64::consts::LN_10).floor() as i32,
            (self.high / std::f64::consts::LN_10).ceil() as i32,
        );
        let is_inside = |value: &f64| (self.low..=self.high).contains(&value.ln());
        let powers = |factors: &'static [f64]| {
            let decades =
                (first..=last).flat_map(move |power| factors.iter().map(move |f| f * 10f64.powi(power)));
            decades.filter(is_inside).collect::<Vec<_>>()
        };
        let tens = powers(&[1.0]);
        match tens.len() {
            0..=2 => powers(&[1.0, 3.0]),
            3..=6 => tens,
            many => tens.into_iter().step_by(many.div_ceil(5)).collect(),
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(axis: &Axis) -> Vec<f64> {
        axis.ticks().into_iter().map(|(value, _)| value).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        let axis = Axis::exact([0.0, 800.0].into_iter()).unwrap();
        assert_eq!(values(&axis), [0.0, 200.0, 400.0, 600.0, 800.0]);
        for (low, high) in [(0.0, 1e-5), (1.3, 4.7), (-3.0, 1e6), (1e9, 1e9 + 3.0)] {
            let axis = Axis::exact([low, high].into_iter()).unwrap();
            let ticks = axis.ticks();
            assert!((2..=6).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            assert!(ticks.iter().all(|(_, place)| (-1e-6..=1.000_001).contains(place)));
        }
    }

    #[test]
    fn a_peak_makes_an_axis_logarithmic() {
        let mut loss = vec![2.0; 100];
        assert!(!Axis::fitting(loss.clone()).unwrap().is_log());
        loss.push(900.0);
        let axis = Axis::fitting(loss.clone()).unwrap();
        assert!(axis.is_log());
        assert!(values(&axis).contains(&100.0));
        loss.push(0.0);
        assert!(!Axis::fitting(loss).unwrap().is_log(), "zero has no logarithm");
    }

    #[test]
    fn odd_ranges_are_axes_too() {
        assert!(Axis::fitting(Vec::new()).is_none());
        for values in [
            vec![0.0],
            vec![5.0, 5.0],
            vec![-2.0],
            vec![f64::MIN_POSITIVE, 1e300],
        ] {
            let axis = Axis::fitting(values).unwrap();
            assert!(axis.ticks().iter().all(|(_, place)| place.is_finite()));
            assert!(axis.ticks().len() <= 21);
        }
    }
}
