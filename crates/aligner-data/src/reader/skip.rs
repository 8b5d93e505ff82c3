//! What was left out, and why.

use crate::error::RowError;

/// Rows that were left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkipLog {
    count: u64,
    unsuitable: u64,
    first: Vec<RowError>,
    /// Of those that are bad: where most rows are unsuitable, `first` need not have one.
    first_bad: Vec<RowError>,
}

impl SkipLog {
    /// Rows whose reasons are remembered; all are counted.
    pub const REMEMBERED: usize = 100;

    /// How many rows were left out.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them are rows as they should be, in which there is no pair of answers for us: transcripts that do not
    /// share their beginning, responses without a counterpart. They are left out whatever is done with bad rows.
    pub fn unsuitable(&self) -> u64 {
        self.unsuitable
    }

    /// The first of them, with the reasons.
    pub fn first(&self) -> &[RowError] {
        &self.first
    }

    /// How many of them are not what their format says.
    pub fn bad(&self) -> u64 {
        self.count - self.unsuitable
    }

    /// The first of those, with the reasons.
    pub fn first_bad(&self) -> &[RowError] {
        &self.first_bad
    }

    pub(crate) fn of(unsuitable: u64, bad: u64, first: Vec<RowError>, first_bad: Vec<RowError>) -> Self {
        Self {
            count: unsuitable + bad,
            unsuitable,
            first,
            first_bad,
        }
    }

    pub(crate) fn push(&mut self, error: RowError) {
        if self.first_bad.len() < Self::REMEMBERED {
            self.first_bad.push(error.clone());
        }
        self.remember(error);
    }

    fn remember(&mut self, error: RowError) {
        self.count += 1;
        if self.first.len() < Self::REMEMBERED {
            self.first.push(error);
        }
    }

    pub(crate) fn push_unsuitable(&mut self, error: RowError) {
        self.unsuitable += 1;
        self.remember(error);
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.count += other.count;
        self.unsuitable += other.unsuitable;
        for (ours, theirs) in [
            (&mut self.first, &other.first),
            (&mut self.first_bad, &other.first_bad),
        ] {
            let room = Self::REMEMBERED - ours.len();
            ours.extend(theirs.iter().take(room).cloned());
        }
    }
}
