//! Rows in the order in which they are trained on, as burn-train data loaders.

use std::sync::Arc;

use aligner_data::{Batch, Cursor, DataError, Example, Order};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use crate::prefetch::Ahead;
use crate::rows::Rows;

/// Steps that are ready before they are asked for.
const PREPARED_STEPS: usize = 2;

/// The rows of one optimizer step, or of one validation batch.
#[derive(Debug, Clone)]
pub struct StepBatch {
    /// Rows that go through the model at once.
    pub micro_batches: Vec<Batch>,
    /// Tokens that carry loss, in all of them; of pairs, those of both answers.
    pub target_tokens: u64,
    /// Tokens of all of them.
    pub tokens: u64,
    /// Where the step's first row stood.
    pub start: Cursor,
    /// Where the next step's first row stands.
    pub end: Cursor,
    /// Number of rows.
    pub rows: u64,
}

impl StepBatch {
    fn new(
        dataset: &Rows,
        order: &Order,
        start: Cursor,
        rows: u64,
        micro_batch: usize,
    ) -> Result<Self, DataError> {
        let mut cursor = start;
        let examples: Vec<Example<'_>> = (0..rows)
            .map(|_| dataset.example(cursor.next(order)))
            .collect::<Result<_, DataError>>()?;
        let micro_batches: Vec<Batch> = examples
            .chunks(micro_batch)
            .map(|chunk| Batch::new(chunk.iter().copied()))
            .collect();
        let target = dataset.target();
        let counts = || examples.iter().map(|row| target.counts(*row));
        Ok(Self {
            target_tokens: counts().map(|row| row.targets as u64).sum(),
            tokens: counts().map(|row| row.tokens as u64).sum(),
            micro_batches,
            start,
            end: cursor,
            rows,
        })
    }
}

/// Which rows a [`StepLoader`] gives, and in what portions.
#[derive(Debug, Clone)]
pub struct Portions {
    /// The order of the rows.
    pub order: Order,
    /// The first row.
    pub start: Cursor,
    /// Steps that are already done.
    pub done: u64,
    /// Steps of the whole stage.
    pub total_steps: u64,
    /// Rows that go through the model at once.
    pub micro_batch: usize,
    /// Rows of a step.
    pub rows_per_step: u64,
    /// Rows of the whole stage; the last step takes what is left.
    pub total_rows: u64,
}

/// Gives the steps of a stage from where it stands to its end.
#[derive(Debug, Clone)]
pub struct StepLoader {
    rows: Rows,
    portions: Portions,
}

impl StepLoader {
    /// A loader over `rows`.
    pub fn new(rows: impl Into<Rows>, portions: Portions) -> Self {
        Self {
            rows: rows.into(),
            portions,
        }
    }

    /// A loader that passes once over all rows in their order, `micro_batch` at a time.
    pub fn one_pass(rows: impl Into<Rows>, micro_batch: usize) -> Self {
        let all = rows.into();
        let rows = all.len() as u64;
        let order = Order::new(0, all.len(), false);
        let portions = Portions {
            order,
            start: Cursor::default(),
            done: 0,
            total_steps: rows.div_ceil(micro_batch as u64),
            micro_batch,
            rows_per_step: micro_batch as u64,
            total_rows: rows,
        };
        Self { rows: all, portions }
    }

    /// Steps that are already done.
    pub(crate) fn done(&self) -> u64 {
        self.portions.done
    }

    /// The steps from `start` up to `end` that are not done yet.
    pub(crate) fn sliced(&self, start: usize, end: usize) -> Self {
        let mut portions = self.portions.clone();
        let skipped = (start as u64).saturating_sub(portions.done) * portions.rows_per_step;
        for _ in 0..skipped {
            portions.start.next(&portions.order);
        }
        portions.done = portions.done.max(start as u64);
        portions.total_steps = portions.total_steps.min(end as u64);
        Self {
            rows: self.rows.clone(),
            portions,
        }
    }
}

impl DataLoader<StepBatch> for StepLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<StepBatch> + 'a> {
        let steps = Steps {
            loader: self.clone(),
            done: self.portions.done,
            cursor: self.portions.start,
        };
        Box::new(PreparedSteps {
            total: self.portions.total_steps,
            given: steps.done,
            steps: Ahead::new(steps, PREPARED_STEPS),
        })
    }

    fn num_items(&self) -> usize {
        self.portions.total_steps as usize
    }

    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<StepBatch>> {
        // Batches are host memory; the model moves them to its device.
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<StepBatch>> {
        Arc::new(self.sliced(start, end))
    }
}

/// Makes the steps.
#[derive(Clone)]
struct Steps {
    loader: StepLoader,
    done: u64,
    cursor: Cursor,
}

impl Iterator for Steps {
    type Item = Result<StepBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Portions {
            order,
            total_steps,
            micro_batch,
            rows_per_step,
            total_rows,
            ..
        } = &self.loader.portions;
        if self.done >= *total_steps {
            return None;
        }
        let rows = (*rows_per_step).min(total_rows.saturating_sub(self.done * rows_per_step));
        if rows == 0 {
            return None;
        }
        match StepBatch::new(&self.loader.rows, order, self.cursor, rows, *micro_batch) {
            Ok(batch) => {
                self.done += 1;
                self.cursor = batch.end;
                Some(Ok(batch))
            }
            Err(error) => {
                // Nothing comes behind a step that is missing.
                self.done = *total_steps;
                Some(Err(DatasetError::new(error)))
            }
        }
    }
}

/// Gives the steps, which another thread makes.
struct PreparedSteps {
    steps: Ahead<Steps>,
    given: u64,
    total: u64,
}

impl Iterator for PreparedSteps {
    type Item = Result<StepBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.steps.next()?;
        self.given += u64::from(step.is_ok());
        Some(step)
    }
}

impl DataLoaderIterator<StepBatch> for PreparedSteps {
    fn progress(&self) -> Progress {
        Progress::new(
            self.given as usize,
            self.total as usize,
            Some("steps".to_string()),
        )
    }
}
