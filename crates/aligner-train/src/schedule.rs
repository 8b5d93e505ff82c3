//! Learning-rate schedules with transformers' semantics.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate after its warmup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine down to 0.
    #[default]
    Cosine,
    /// A straight line down to 0.
    Linear,
    /// The peak rate throughout.
    Constant,
}

impl std::str::FromStr for ScheduleKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cosine" => Ok(Self::Cosine),
            "linear" => Ok(Self::Linear),
            "constant" => Ok(Self::Constant),
            _ => Err(format!(
                "{text:?} is not a schedule; known are cosine, linear, constant"
            )),
        }
    }
}

/// The learning rate of every step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape after the warmup.
    pub kind: ScheduleKind,
    /// Highest rate.
    pub peak: f64,
    /// Steps over which the rate rises from 0.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of the step that follows `done` finished ones: the first step has `done = 0`.
    ///
    /// Equal to transformers' `get_{cosine,linear,constant}_schedule_with_warmup`, so a warmup's first step has rate 0.
    pub fn rate(&self, done: u64) -> f64 {
        if done < self.warmup_steps {
            return self.peak * done as f64 / self.warmup_steps.max(1) as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (done - self.warmup_steps) as f64 / span;
        self.peak
            * match self.kind {
                ScheduleKind::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
                ScheduleKind::Linear => (1.0 - progress).max(0.0),
                ScheduleKind::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values printed by transformers 5.23 (`get_cosine_schedule_with_warmup(opt, 3, 10)` with lr 1, and so on).
    #[test]
    fn rates_equal_transformers() {
        let rates = |kind| {
            let schedule = Schedule {
                kind,
                peak: 1.0,
                warmup_steps: 3,
                total_steps: 10,
            };
            (0..=10).map(|done| schedule.rate(done)).collect::<Vec<_>>()
        };
        let third = 1.0 / 3.0;
        let cosine = [
            0.0,
            third,
            2.0 * third,
            1.0,
            0.9504844339512095,
            0.8117449009293668,
            0.6112604669781572,
            0.3887395330218429,
            0.1882550990706332,
            0.04951556604879043,
            0.0,
        ];
        let linear: Vec<f64> = (0..=10u32)
            .map(|s| {
                if s < 3 {
                    f64::from(s) / 3.0
                } else {
                    f64::from(10 - s) / 7.0
                }
            })
            .collect();
        for (kind, want) in [
            (ScheduleKind::Cosine, cosine.to_vec()),
            (ScheduleKind::Linear, linear),
        ] {
            for (got, want) in rates(kind).iter().zip(want) {
                assert!((got - want).abs() < 1e-12, "{kind:?}: {got} {want}");
            }
        }
        assert_eq!(rates(ScheduleKind::Constant)[3..], [1.0; 8]);
    }

    #[test]
    fn no_warmup_starts_at_the_peak() {
        let schedule = Schedule {
            kind: ScheduleKind::Cosine,
            peak: 2.0,
            warmup_steps: 0,
            total_steps: 1,
        };
        assert_eq!(schedule.rate(0), 2.0);
    }
}
