//! The rows of a stage: whole data sets, or some rows of them chosen by a seed.

use std::sync::Arc;

use aligner_data::{DataError, Dataset, Example, Order, Target};
use sha2::{Digest, Sha256};

/// Rows of one or more data sets, one set behind the other.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    dataset: Arc<Dataset>,
    len: usize,
    choice: Option<Choice>,
}

/// Which rows of a data set are taken: the first of a shuffled order, so that no table of them is kept.
#[derive(Debug, Clone)]
struct Choice {
    seed: u64,
    order: Order,
}

impl From<Arc<Dataset>> for Rows {
    fn from(dataset: Arc<Dataset>) -> Self {
        let len = dataset.len();
        let part = Part {
            dataset,
            len,
            choice: None,
        };
        Self { parts: vec![part] }
    }
}

impl Rows {
    /// `count` rows of a data set (all when there are not more), the same for the same seed.
    pub fn chosen(dataset: Arc<Dataset>, count: usize, seed: u64) -> Self {
        let order = Order::new(seed, dataset.len(), true);
        let part = Part {
            len: count.min(dataset.len()),
            dataset,
            choice: Some(Choice { seed, order }),
        };
        Self { parts: vec![part] }
    }

    /// These rows and then others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.parts.extend(others.parts);
        self
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len).sum()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the rows are; data sets that are copied from are corrections like those behind them.
    pub fn target(&self) -> Target {
        let first = self.parts.first();
        first.map_or_else(Target::default, |part| part.dataset.target())
    }

    /// A row; empty when there is none of that number.
    ///
    /// # Errors
    /// When the row's tokens were damaged on the disk.
    pub fn example(&self, mut row: usize) -> Result<Example<'_>, DataError> {
        for part in &self.parts {
            if row < part.len {
                return part.dataset.example(match &part.choice {
                    Some(choice) => choice.order.at(0, row as u64),
                    None => row,
                });
            }
            row -= part.len;
        }
        Ok(Example {
            ids: &[],
            prompt_len: 0,
        })
    }

    /// Mean tokens of a row and mean target tokens; of rows that are chosen, those of the data set they are chosen from.
    pub fn mean_tokens(&self) -> (f64, f64) {
        let mean = |of: fn(&Dataset) -> usize| {
            let parts = self.parts.iter().map(|part| {
                let share = part.len as f64 / part.dataset.len().max(1) as f64;
                of(&part.dataset) as f64 * share
            });
            parts.sum::<f64>() / self.len().max(1) as f64
        };
        (mean(Dataset::tokens), mean(Dataset::target_tokens))
    }

    /// The largest id of the data sets.
    pub fn largest_id(&self) -> u32 {
        let ids = self.parts.iter().map(|part| part.dataset.largest_id());
        ids.max().unwrap_or(0)
    }

    /// The data set's own fingerprint, or one of all sets and of which rows of them are taken.
    pub fn fingerprint(&self) -> String {
        if let [
            Part {
                dataset,
                choice: None,
                ..
            },
        ] = self.parts.as_slice()
        {
            return dataset.fingerprint();
        }
        combined(self.parts.iter().map(|part| match &part.choice {
            Some(choice) => format!(
                "{} {} of seed {}",
                part.dataset.fingerprint(),
                part.len,
                choice.seed
            ),
            None => part.dataset.fingerprint(),
        }))
    }
}

/// One fingerprint of several.
pub(crate) fn combined(fingerprints: impl Iterator<Item = String>) -> String {
    let mut hash = Sha256::new();
    for fingerprint in fingerprints {
        hash.update(fingerprint);
        hash.update(b"\n");
    }
    let digest = hash.finalize();
    digest
        .iter()
        .fold("sha256:".into(), |text, byte| text + &format!("{byte:02x}"))
}
