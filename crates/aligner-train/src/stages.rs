//! From a configuration to the stages of a run and their rows.

use std::path::PathBuf;
use std::sync::Arc;

use aligner_data::{DataError, Dataset, Encoder, Fields, OnBadRow, Order, ReadOptions, Target};

use crate::config::{CopyFrom, TrainConfig, WarmupChoice};
use crate::error::{Result, TrainError};
use crate::plan::{Length, Plan, StageKind, StagePlan};
use crate::rows::{Rows, combined};

/// Keep the choices of rows apart from each other and from the order of the rows, which has the bare seed.
const WARMUP_SALT: u64 = 0x7761_726d;
const IDENTITY_SALT: u64 = 0x6964_656e;

/// How the rows of a run are read.
#[derive(Debug, Clone)]
pub(crate) struct RowLoader {
    pub encoder: Encoder,
    pub options: ReadOptions,
    pub on_long_row: OnBadRow,
}

impl RowLoader {
    /// The rows of some files as they are.
    pub fn load(&self, files: &[PathBuf]) -> Result<Arc<Dataset>> {
        let loaded = Dataset::load(files, &self.encoder, &self.options, self.on_long_row);
        Ok(loaded.map(Arc::new)?)
    }

    /// The rows of some files as rows to be copied.
    ///
    /// A text that does not fit twice is left out, whatever is done with long rows: nobody wrote such a row.
    fn load_identity(&self, files: &[PathBuf], from: CopyFrom) -> Result<Arc<Dataset>> {
        let (target, fields) = match from {
            CopyFrom::Answer => (Target::AnswerUnchanged, Fields::Pair),
            CopyFrom::Correction => (Target::CorrectionUnchanged, Fields::Triple),
        };
        let encoder = self.encoder.clone().with_target(target);
        let options = ReadOptions {
            fields,
            ..self.options.clone()
        };
        let loaded = Dataset::load(files, &encoder, &options, OnBadRow::Skip);
        Ok(loaded.map(Arc::new)?)
    }
}

/// The rows of a stage.
#[derive(Debug, Clone)]
pub(crate) struct StageRows {
    pub kind: StageKind,
    pub rows: Rows,
    pub identity_rows: usize,
    pub fingerprint: String,
}

impl StageRows {
    fn new(kind: StageKind, rows: Rows, identity_rows: usize) -> Self {
        Self {
            kind,
            identity_rows,
            fingerprint: rows.fingerprint(),
            rows,
        }
    }

    /// The order in which they are trained on.
    pub fn order(&self, config: &TrainConfig) -> Order {
        Order::new(config.seed, self.rows.len(), config.shuffle)
    }
}

/// The rows of every stage: those of the stages before, and of the correction.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    pub before: Vec<StageRows>,
    pub last: StageRows,
}

impl Stages {
    /// Reads the rows that `config` adds to the corrections `train`.
    pub fn load(config: &TrainConfig, train: &Arc<Dataset>, loader: &RowLoader) -> Result<Self> {
        let mut before = Vec::new();
        if config.warmup.is_on() {
            let rows = warmup_rows(config, train.len(), loader).map_err(no_rows("warmup"))?;
            let count = rows.len();
            before.push(StageRows::new(StageKind::Warmup, rows, count));
        }
        let mut rows = Rows::from(Arc::clone(train));
        let identity_rows = identity_rows(config.identity_share, train.len());
        if identity_rows > 0 {
            let copies = loader
                .load_identity(&config.data, CopyFrom::Correction)
                .map_err(no_rows("identity_share"))?;
            rows = rows.and(Rows::chosen(copies, identity_rows, config.seed ^ IDENTITY_SALT));
        }
        let identity_rows = rows.len() - train.len();
        Ok(Self {
            before,
            last: StageRows::new(StageKind::Correction, rows, identity_rows),
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &StageRows> {
        self.before.iter().chain(std::iter::once(&self.last))
    }

    /// The fingerprint of all rows; a run of one stage has that stage's.
    pub fn fingerprint(&self) -> String {
        if self.before.is_empty() {
            return self.last.fingerprint.clone();
        }
        combined(self.iter().map(|stage| stage.fingerprint.clone()))
    }

    /// What the run does.
    pub fn plan(&self, config: &TrainConfig) -> Plan {
        let plan = |stage: &StageRows| {
            let rows = stage.rows.len() as u64;
            let (length, lr) = match stage.kind {
                StageKind::Warmup => (warmup_length(config, rows), config.warmup.lr),
                StageKind::Correction => {
                    let length = config.steps.map_or(Length::Epochs(config.epochs), Length::Steps);
                    (length, None)
                }
            };
            StagePlan {
                identity_rows: stage.identity_rows as u64,
                data_fingerprint: stage.fingerprint.clone(),
                ..StagePlan::new(stage.kind, rows, length, config, lr)
            }
        };
        Plan::new(self.before.iter().map(plan).collect(), plan(&self.last))
    }
}

fn warmup_rows(config: &TrainConfig, train_rows: usize, loader: &RowLoader) -> Result<Rows> {
    let WarmupChoice {
        data, share, from, ..
    } = &config.warmup;
    if !data.is_empty() {
        return Ok(loader.load_identity(data, *from)?.into());
    }
    let copies = loader.load_identity(&config.data, *from)?;
    let count = (share.unwrap_or(0.0) * train_rows as f64).round().max(1.0) as usize;
    Ok(Rows::chosen(copies, count, config.seed ^ WARMUP_SALT))
}

/// How long the warm-up is: one pass unless something else is asked for. A run that is given in steps is not to spend more
/// than the warm-up's share of them on copying, however many rows there are.
fn warmup_length(config: &TrainConfig, rows: u64) -> Length {
    let warmup = &config.warmup;
    if let Some(steps) = warmup.steps {
        return Length::Steps(steps);
    }
    let Some(steps) = config.steps.filter(|_| warmup.data.is_empty()) else {
        return Length::Epochs(warmup.epochs);
    };
    let most = ((warmup.share.unwrap_or(0.0) * steps as f64).round() as u64).max(1);
    let passes = (warmup.epochs * rows).div_ceil((config.micro_batch * config.accumulate) as u64);
    if passes <= most {
        Length::Epochs(warmup.epochs)
    } else {
        Length::Steps(most)
    }
}

/// How many identity rows make up `share` of a stage with `corrections` other rows.
fn identity_rows(share: f64, corrections: usize) -> usize {
    (corrections as f64 * share / (1.0 - share)).round() as usize
}

/// Says which setting asked for rows that there are none of.
fn no_rows(key: &'static str) -> impl Fn(TrainError) -> TrainError {
    move |error| match error {
        TrainError::Data(error @ DataError::Empty { .. }) => TrainError::config(
            key,
            format!("there is nothing to copy: {error}; a share of 0 goes without"),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(steps: Option<u64>, warmup: WarmupChoice) -> TrainConfig {
        TrainConfig {
            micro_batch: 4,
            accumulate: 2,
            steps,
            warmup,
            ..TrainConfig::default()
        }
    }

    #[test]
    fn a_warmup_is_one_pass_and_of_a_run_by_steps_at_most_its_share() {
        let share = |share| WarmupChoice {
            share: Some(share),
            ..WarmupChoice::default()
        };
        let length = |steps, warmup, rows| warmup_length(&config(steps, warmup), rows);
        assert_eq!(length(None, share(0.2), 10_000), Length::Epochs(1));
        assert_eq!(length(Some(100), share(0.2), 160), Length::Epochs(1));
        assert_eq!(length(Some(100), share(0.2), 161), Length::Steps(20));
        assert_eq!(length(Some(2), share(0.2), 10_000), Length::Steps(1));
        let asked = WarmupChoice {
            steps: Some(7),
            ..share(0.2)
        };
        assert_eq!(length(Some(2), asked, 10_000), Length::Steps(7));
        let from_file = WarmupChoice {
            data: vec!["copies.jsonl".into()],
            epochs: 2,
            ..WarmupChoice::default()
        };
        assert_eq!(length(Some(2), from_file, 10_000), Length::Epochs(2));
    }

    #[test]
    fn the_share_is_of_all_rows_of_the_stage() {
        for (share, corrections, identity) in [(0.0, 100, 0), (0.2, 100, 25), (0.5, 100, 100), (0.1, 3, 0)] {
            assert_eq!(identity_rows(share, corrections), identity, "{share}");
        }
    }
}
