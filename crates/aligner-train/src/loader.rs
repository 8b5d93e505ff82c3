//! The steps of all stages as one data loader.

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use crate::batches::{StepBatch, StepLoader};

/// Gives the steps of a run from where it stands to its end, stage after stage.
#[derive(Debug, Clone)]
pub struct PlanLoader {
    stages: Vec<StepLoader>,
}

impl PlanLoader {
    /// The stages' loaders in their order; those of finished stages have no steps left.
    pub fn new(stages: Vec<StepLoader>) -> Self {
        Self { stages }
    }

    fn done(&self) -> u64 {
        self.stages.iter().map(StepLoader::done).sum()
    }
}

impl DataLoader<StepBatch> for PlanLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<StepBatch> + 'a> {
        Box::new(Steps {
            steps: Box::new(self.stages.iter().flat_map(DataLoader::iter)),
            done: self.done(),
            total: self.num_items(),
        })
    }

    fn num_items(&self) -> usize {
        self.stages.iter().map(DataLoader::num_items).sum()
    }

    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<StepBatch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<StepBatch>> {
        let mut first = 0;
        let stages = self.stages.iter().map(|stage| {
            let sliced = stage.sliced(start.saturating_sub(first), end.saturating_sub(first));
            first += stage.num_items();
            sliced
        });
        Arc::new(Self::new(stages.collect()))
    }
}

struct Steps<'a> {
    steps: Box<dyn Iterator<Item = Result<StepBatch, DatasetError>> + 'a>,
    done: u64,
    total: usize,
}

impl Iterator for Steps<'_> {
    type Item = Result<StepBatch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.steps.next()?;
        match &step {
            Ok(_) => self.done += 1,
            // No stage comes behind a step that is missing.
            Err(_) => self.steps = Box::new(std::iter::empty()),
        }
        Some(step)
    }
}

impl DataLoaderIterator<StepBatch> for Steps<'_> {
    fn progress(&self) -> Progress {
        Progress::new(self.done as usize, self.total, Some("steps".to_string()))
    }
}
