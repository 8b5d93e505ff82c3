//! Cross-validation of a probe: each row is scored by a probe that has not seen it, nor any other of its group.

use super::folds::assign;
use super::logistic::{fit, log_loss};
use super::matrix::{Matrix, Sum};

/// Penalties that are tried, the strongest first: each fit begins where the one before it ended.
pub(crate) const PENALTIES: [f64; 5] = [100.0, 10.0, 1.0, 0.1, 0.01];
/// Folds of the training rows by which the penalty is chosen.
const INNER_FOLDS: usize = 4;

/// Rows to cross-validate on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    pub rows: &'a [&'a [f32]],
    pub labels: &'a [bool],
    pub groups: &'a [usize],
    pub fold_of: &'a [usize],
    pub folds: usize,
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct OutOfFold {
    /// A logit for each row.
    pub logits: Vec<f64>,
    /// The penalty that each fold's training rows chose.
    pub penalties: Vec<f64>,
}

impl Task<'_> {
    /// Fits a probe for each fold to all rows outside of it, and scores the fold.
    pub fn cross_validate(&self) -> OutOfFold {
        let mut out = OutOfFold {
            logits: vec![0.0; self.rows.len()],
            penalties: Vec::new(),
        };
        for fold in 0..self.folds {
            let all = 0..self.rows.len();
            let (inside, outside): (Vec<usize>, Vec<usize>) = all.partition(|&row| self.fold_of[row] == fold);
            let penalty = self.choose_penalty(&outside);
            let split = self.split(&outside, &inside);
            let probe = split.path(penalty).last();
            let probe = probe.unwrap_or_else(|| Sum::zeros(split.train.width));
            for (&row, values) in inside.iter().zip(split.test.rows()) {
                out.logits[row] = probe.of(values);
            }
            out.penalties.push(penalty);
        }
        out
    }

    /// The penalty whose probes say held-out rows of `rows` best, by their log loss; of equals the strongest.
    fn choose_penalty(&self, rows: &[usize]) -> f64 {
        let labels: Vec<bool> = rows.iter().map(|&row| self.labels[row]).collect();
        let groups: Vec<usize> = rows.iter().map(|&row| self.groups[row]).collect();
        let fold_of = assign(&labels, &groups, INNER_FOLDS, self.seed);
        let mut losses = [0.0; PENALTIES.len()];
        for fold in 0..INNER_FOLDS {
            let pick = |inside: bool| -> Vec<usize> {
                let rows = rows.iter().zip(&fold_of);
                rows.filter(|(_, found)| (**found == fold) == inside)
                    .map(|(&row, _)| row)
                    .collect()
            };
            let split = self.split(&pick(false), &pick(true));
            for (probe, loss) in split.path(0.0).zip(&mut losses) {
                let scored = split.test.rows().zip(&split.test_labels);
                *loss += scored
                    .map(|(row, &label)| log_loss(probe.of(row), label))
                    .sum::<f64>();
            }
        }
        let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
        let found = losses.iter().position(|&loss| loss <= best);
        PENALTIES[found.unwrap_or(0)]
    }

    /// Rows to fit to and rows to score, in units of the former's standard deviations.
    fn split(&self, train: &[usize], test: &[usize]) -> Split {
        let rows = |which: &[usize]| which.iter().map(|&row| self.rows[row]).collect::<Vec<_>>();
        let labels = |which: &[usize]| which.iter().map(|&row| self.labels[row]).collect();
        let (train_rows, test_rows) = (rows(train), rows(test));
        let scale = Scale::of(&train_rows);
        Split {
            train: scale.apply(&train_rows),
            train_labels: labels(train),
            test: scale.apply(&test_rows),
            test_labels: labels(test),
        }
    }
}

struct Split {
    train: Matrix,
    train_labels: Vec<bool>,
    test: Matrix,
    test_labels: Vec<bool>,
}

impl Split {
    /// Probes by falling penalty, down to the least that is wanted.
    fn path(&self, least: f64) -> impl Iterator<Item = Sum> {
        let wanted = PENALTIES.into_iter().filter(move |&penalty| penalty >= least);
        wanted.scan(Sum::zeros(self.train.width), |start, penalty| {
            *start = fit(&self.train, &self.train_labels, penalty, start.clone());
            Some(start.clone())
        })
    }
}

/// Mean and spread of each column.
struct Scale(Vec<(f64, f64)>);

impl Scale {
    fn of(rows: &[&[f32]]) -> Self {
        let (width, count) = (rows.first().map_or(0, |row| row.len()), rows.len() as f64);
        let mut columns = vec![(0.0, 0.0); width];
        for row in rows {
            for (column, &value) in columns.iter_mut().zip(*row) {
                column.0 += f64::from(value) / count;
            }
        }
        for row in rows {
            for (column, &value) in columns.iter_mut().zip(*row) {
                column.1 += (f64::from(value) - column.0).powi(2) / count;
            }
        }
        for (mean, spread) in &mut columns {
            // A column that is the same in all rows says nothing, whatever rounding made of its mean.
            let deviation = spread.sqrt();
            *spread = if deviation > 1e-7 * mean.abs() {
                1.0 / deviation
            } else {
                0.0
            };
        }
        Self(columns)
    }

    fn apply(&self, rows: &[&[f32]]) -> Matrix {
        let scaled = |row: &&[f32]| -> Vec<f64> {
            let pairs = row.iter().zip(&self.0);
            pairs
                .map(|(&value, (mean, factor))| (f64::from(value) - mean) * factor)
                .collect()
        };
        Matrix {
            width: self.0.len(),
            values: rows.iter().flat_map(scaled).collect(),
        }
    }
}
