//! From a configuration to the stages of a run and their rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aligner_data::{
    DataError, DataSource, Dataset, Encoder, Fields, LoadOptions, OnBadRow, Order, Progress, ReadOptions,
    Share, StageSource, Target,
};

use crate::config::{CopyFrom, TrainConfig, WarmupChoice};
use crate::error::{Result, TrainError};
use crate::plan::{Length, Plan, StageKind, StagePlan};
use crate::rows::{Rows, combined};

/// Keep the choices of rows apart from each other and from the order of the rows, which has the bare seed.
const WARMUP_SALT: u64 = 0x7761_726d;
const IDENTITY_SALT: u64 = 0x6964_656e;

/// Training files, and how they are weighted, when they are.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub files: Vec<PathBuf>,
    pub weights: Option<Vec<f64>>,
}

impl Sources {
    /// Files as they are named in a configuration: `FILE:WEIGHT`, or `FILE`.
    pub fn of(typed: &[PathBuf]) -> Result<Self> {
        let (files, weights) = DataSource::parse_all(typed)?;
        Ok(Self { files, weights })
    }

    /// The files of a setting that knows no weights, because all their rows are passed through alike.
    pub fn without_weights(key: &'static str, typed: &[PathBuf]) -> Result<Vec<PathBuf>> {
        match Self::of(typed)? {
            Self { files, weights: None } => Ok(files),
            _ => {
                let reason = "all rows of these files are passed through alike: they have no weights";
                Err(TrainError::config(key, reason))
            }
        }
    }
}

/// Refuses files that are read once more and give their rows only once.
pub(crate) fn check_rereadable(key: &'static str, files: &[PathBuf]) -> Result<()> {
    match files.iter().find(|file| !file.is_file()) {
        None => Ok(()),
        Some(pipe) => {
            let reason = format!(
                "reads the rows of {} once more, which gives them only once: write them to a file, or go without (0)",
                pipe.display()
            );
            Err(TrainError::config(key, reason))
        }
    }
}

/// How the rows of a run are read.
pub(crate) struct RowLoader<'a> {
    pub encoder: Encoder,
    pub options: LoadOptions,
    /// Is told how far tokenising has come.
    pub tell: &'a mut dyn FnMut(Progress),
}

impl RowLoader<'_> {
    /// The rows of some files as they are.
    pub fn load(&mut self, files: &[PathBuf]) -> Result<Arc<Dataset>> {
        let loaded = Dataset::load_with(files, &self.encoder, &self.options, self.tell);
        Ok(loaded.map(Arc::new)?)
    }

    /// The rows of some files as rows to be copied.
    ///
    /// A text that does not fit twice is left out, whatever is done with long rows: nobody wrote such a row.
    fn load_identity(&mut self, files: &[PathBuf], from: CopyFrom) -> Result<Arc<Dataset>> {
        let (target, fields) = match from {
            CopyFrom::Answer => (Target::AnswerUnchanged, Fields::Pair),
            CopyFrom::Correction => (Target::CorrectionUnchanged, Fields::Triple),
        };
        let encoder = self.encoder.clone().with_target(target);
        let options = LoadOptions {
            read: ReadOptions {
                fields,
                ..self.options.read.clone()
            },
            on_long_row: OnBadRow::Skip,
            ..self.options.clone()
        };
        let loaded = Dataset::load_with(files, &encoder, &options, self.tell);
        Ok(loaded.map(Arc::new)?)
    }
}

/// The rows of a stage.
#[derive(Debug, Clone)]
pub(crate) struct StageRows {
    pub kind: StageKind,
    pub rows: Rows,
    pub identity_rows: usize,
    /// Of the rows, and of how they are mixed where they are.
    pub fingerprint: String,
    pub sources: Vec<StageSource>,
    order: Order,
}

impl StageRows {
    /// Rows to be copied, in an order of all of them.
    fn warmup(config: &TrainConfig, rows: Rows, sources: Vec<StageSource>) -> Self {
        Self {
            kind: StageKind::Warmup,
            identity_rows: rows.len(),
            fingerprint: rows.fingerprint(),
            sources,
            order: Order::new(config.seed, rows.len(), config.shuffle),
            rows,
        }
    }

    /// Corrections, and rows to be copied where there are any. What cannot be mixed is refused here.
    fn correction(
        config: &TrainConfig,
        weights: Option<&[f64]>,
        train: &Arc<Dataset>,
        copies: Option<Rows>,
    ) -> Result<Self> {
        let TrainConfig { seed, shuffle, .. } = *config;
        let (mut order, mut fingerprint) = (train.order(seed, shuffle, weights)?, mixed(train, weights));
        let mut rows = Rows::from(Arc::clone(train));
        let identity_rows = copies.as_ref().map_or(0, Rows::len);
        if let Some(copies) = copies {
            let weights = weights.filter(|weights| weights.len() > 1);
            let drawn = weights.map(|weights| shares(train, weights, copies.len(), config.identity_share));
            // With weights the share of the copies decides the order too, beyond how many there are.
            let share = drawn.as_ref().map(|_| config.identity_share.to_string());
            let parts = [fingerprint, copies.fingerprint()].into_iter().chain(share);
            fingerprint = combined(parts);
            rows = rows.and(copies);
            order = match drawn {
                Some(shares) => Order::mixture(seed, &shares, shuffle)?,
                None => Order::new(seed, rows.len(), shuffle),
            };
        }
        Ok(Self {
            kind: config.objective.stage(),
            rows,
            identity_rows,
            fingerprint,
            sources: described(train, weights),
            order,
        })
    }

    /// The order in which they are trained on.
    pub fn order(&self) -> &Order {
        &self.order
    }
}

/// The files of a mixture at their part of what the copies leave, and the copies behind them.
fn shares(train: &Dataset, weights: &[f64], copies: usize, copied: f64) -> Vec<Share> {
    let total: f64 = weights.iter().sum();
    let files = train.sources().zip(weights);
    let files = files.map(|((_, rows), weight)| Share {
        rows,
        weight: (1.0 - copied) * weight / total,
    });
    let copies = Share {
        rows: copies as u64,
        weight: copied,
    };
    files.chain(std::iter::once(copies)).collect()
}

/// The fingerprint of the rows; of a mixture also of the weights, and of where one source ends and the next begins.
fn mixed(rows: &Dataset, weights: Option<&[f64]>) -> String {
    let Some(weights) = weights else {
        return rows.fingerprint();
    };
    let sources = rows.sources().zip(weights);
    let sources = sources.map(|((_, rows), weight)| format!("{rows} rows at {weight}"));
    combined(std::iter::once(rows.fingerprint()).chain(sources))
}

/// The files of a data set with their rows and weights.
fn described(rows: &Dataset, weights: Option<&[f64]>) -> Vec<StageSource> {
    let describe = |(index, (path, rows)): (usize, (&Path, u64))| StageSource {
        // Where it lay is nobody else's business.
        file: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        rows,
        weight: weights.and_then(|weights| weights.get(index).copied()),
    };
    rows.sources().enumerate().map(describe).collect()
}

/// The rows of every stage: those of the stages before, and of the correction.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    pub before: Vec<StageRows>,
    pub last: StageRows,
}

impl Stages {
    /// Reads the rows that `config` adds to the corrections `train` of the files `sources`.
    pub fn load(
        config: &TrainConfig,
        sources: &Sources,
        train: &Arc<Dataset>,
        loader: &mut RowLoader<'_>,
    ) -> Result<Self> {
        let mut before = Vec::new();
        if config.warmup.is_on() {
            let (rows, files) =
                warmup_rows(config, &sources.files, train.len(), loader).map_err(no_rows("warmup"))?;
            before.push(StageRows::warmup(config, rows, files));
        }
        let identity_rows = identity_rows(config.identity_share, train.len());
        let copies = if identity_rows > 0 {
            check_rereadable("identity_share", &sources.files)?;
            let copies = loader
                .load_identity(&sources.files, CopyFrom::Correction)
                .map_err(no_rows("identity_share"))?;
            Some(Rows::chosen(copies, identity_rows, config.seed ^ IDENTITY_SALT))
        } else {
            None
        };
        Ok(Self {
            before,
            last: StageRows::correction(config, sources.weights.as_deref(), train, copies)?,
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
                _ => {
                    let length = config.steps.map_or(Length::Epochs(config.epochs), Length::Steps);
                    (length, None)
                }
            };
            StagePlan {
                identity_rows: stage.identity_rows as u64,
                data_fingerprint: stage.fingerprint.clone(),
                sources: stage.sources.clone(),
                ..StagePlan::new(stage.kind, rows, length, config, lr)
            }
        };
        Plan::new(self.before.iter().map(plan).collect(), plan(&self.last))
    }
}

/// The rows of the warm-up, and the files they are of.
fn warmup_rows(
    config: &TrainConfig,
    train_files: &[PathBuf],
    train_rows: usize,
    loader: &mut RowLoader<'_>,
) -> Result<(Rows, Vec<StageSource>)> {
    let WarmupChoice {
        data, share, from, ..
    } = &config.warmup;
    if !data.is_empty() {
        let files = Sources::without_weights("warmup.data", data)?;
        let copies = loader.load_identity(&files, *from)?;
        let sources = described(&copies, None);
        return Ok((copies.into(), sources));
    }
    check_rereadable("warmup.share", train_files)?;
    let copies = loader.load_identity(train_files, *from)?;
    let sources = described(&copies, None);
    let count = (share.unwrap_or(0.0) * train_rows as f64).round().max(1.0) as usize;
    Ok((Rows::chosen(copies, count, config.seed ^ WARMUP_SALT), sources))
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
