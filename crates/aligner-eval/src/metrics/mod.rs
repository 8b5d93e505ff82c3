//! What corrections did to answers, without a judge.
//!
//! Every figure is of one data set, upstream and Aligner. Rates and means carry the interval of a bootstrap over rows
//! ([`bootstrap_mean`]); the same outcomes, seed and embedder give the same figures to the
//! last bit.

mod changes;
mod contamination;
mod distinct;
mod embedding;
mod refusals;
mod rouge;
mod similarity;

use std::collections::HashMap;

use aligner_data::CheckOptions;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{EvalError, Result};
use crate::row::Outcome;
use crate::stats::{Interval, bootstrap_mean};
pub use changes::{LengthChange, SecondPass};
pub use contamination::Contamination;
pub use distinct::{Distinct, distinct};
pub use embedding::Embedder;
use embedding::Embeddings;
pub use refusals::Refusals;
pub use rouge::rouge_l;
use similarity::RowScores;
pub use similarity::{Scores, Similarity};

/// How outcomes are measured.
#[derive(Clone, Copy)]
pub struct MetricOptions<'a> {
    /// Of the bootstrap.
    pub seed: u64,
    /// Words of a run that an output shares with a reference when it overlaps.
    pub ngram: usize,
    /// Embeds texts; without one, there is no similarity by embeddings.
    pub embedder: Option<&'a dyn Embedder>,
    /// Texts that are embedded at once.
    pub embed_batch: usize,
}

impl Default for MetricOptions<'_> {
    fn default() -> Self {
        Self {
            seed: 42,
            ngram: CheckOptions::NGRAM,
            embedder: None,
            embed_batch: 16,
        }
    }
}

impl std::fmt::Debug for MetricOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricOptions")
            .field("seed", &self.seed)
            .field("ngram", &self.ngram)
            .field("embed_batch", &self.embed_batch)
            .finish_non_exhaustive()
    }
}

/// What an Aligner did to the answers of one upstream to one data set. Rates are shares from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextMetrics {
    /// [`Item::dataset`](crate::Item::dataset).
    pub dataset: String,
    /// [`Item::upstream`](crate::Item::upstream).
    pub upstream: String,
    /// [`Outcome::aligner`].
    pub aligner: String,
    /// Outcomes.
    pub rows: u64,
    /// Outputs that are the original answer, white space at the ends aside ([`aligner_data::is_copy`]).
    pub copy_rate: Interval,
    /// Mean share of changed words, from 0 for a copy to 1 where none was kept ([`aligner_data::edit_ratio`]).
    pub edit_ratio: Interval,
    /// Rows by edit ratio: from 0 up to 0.1, …, from 0.9 to 1.
    pub edit_ratio_histogram: [u64; 10],
    /// How much longer outputs are.
    pub length: LengthChange,
    /// What the Aligner made of its own outputs, where it was asked.
    pub second_pass: Option<SecondPass>,
    /// Answers and outputs that decline.
    pub refusals: Refusals,
    /// How varied the words are.
    pub distinct: Distinct,
    /// Outputs that were cut at the limit of their length.
    pub cut_rate: Interval,
    /// ROUGE-L F1 with the reference answers, where there are any.
    pub rouge_l: Option<Similarity>,
    /// Cosine of embeddings with those of the reference answers, where there are any and an embedder.
    pub embedding: Option<Similarity>,
    /// How probable the reference answers are to the Aligner, where it was asked.
    pub reference_perplexity: Option<Perplexity>,
    /// Answers that may have been seen in training, where there are references.
    pub contamination: Option<Contamination>,
}

/// `exp` of the mean over rows of [`Outcome::reference_nll`], which is a mean over tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Rows with a likelihood.
    pub rows: u64,
    /// From 1, where every token was certain.
    pub value: Interval,
}

/// Measures outcomes by data set, upstream and Aligner, in the order in which these first occur.
///
/// ```
/// use aligner_eval::metrics::{MetricOptions, text_metrics};
/// use aligner_eval::{Item, Outcome};
/// let item = Item { answer: "Two and two is five.".into(), ..Item::default() };
/// let outcome = Outcome { item, output: "Two and two is four.".into(), ..Outcome::default() };
/// let metrics = text_metrics(&[outcome], &MetricOptions::default())?;
/// assert_eq!((metrics[0].copy_rate.value, metrics[0].edit_ratio.value), (0.0, 0.2));
/// # Ok::<(), aligner_eval::EvalError>(())
/// ```
///
/// # Errors
/// When an outcome's `reference_nll` is no likelihood, or an embedding fails or is no direction; both name the outcome,
/// counted from 1.
pub fn text_metrics(outcomes: &[Outcome], options: &MetricOptions<'_>) -> Result<Vec<TextMetrics>> {
    check_nll(outcomes)?;
    let embeddings = options
        .embedder
        .map(|embedder| Embeddings::of(outcomes, embedder, options.embed_batch))
        .transpose()?;
    // An embedder may be of one thread.
    let (seed, ngram) = (options.seed, options.ngram);
    let figures: Vec<Figures> = outcomes
        .par_iter()
        .map(|outcome| Figures::of(outcome, embeddings.as_ref(), ngram))
        .collect();
    let groups = groups(outcomes);
    let metrics = groups.into_par_iter().map(|rows| {
        let outcomes: Vec<&Outcome> = rows.iter().map(|&row| &outcomes[row]).collect();
        let figures: Vec<&Figures> = rows.iter().map(|&row| &figures[row]).collect();
        TextMetrics::of(&outcomes, &figures, seed)
    });
    Ok(metrics.collect())
}

fn check_nll(outcomes: &[Outcome]) -> Result<()> {
    for (outcome, row) in outcomes.iter().zip(1..) {
        if let Some(nll) = outcome.reference_nll.filter(|nll| !nll.is_finite() || *nll < 0.0) {
            return Err(of_row(
                row,
                outcome,
                &format!("reference_nll is {nll}, which is no mean of nats"),
            ));
        }
    }
    Ok(())
}

fn of_row(row: usize, outcome: &Outcome, reason: &str) -> EvalError {
    EvalError::Invalid(format!("outcome {row} (id {:?}): {reason}", outcome.item.id))
}

/// The rows of each data set, upstream and Aligner.
fn groups(outcomes: &[Outcome]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut places = HashMap::new();
    for (row, outcome) in outcomes.iter().enumerate() {
        let key = (&outcome.item.dataset, &outcome.item.upstream, &outcome.aligner);
        let place = *places.entry(key).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(row);
    }
    groups
}

/// What is measured of one outcome.
struct Figures {
    changes: changes::Change,
    refuses: refusals::Pair,
    rouge_l: Option<[RowScores; 2]>,
    embedding: Option<[RowScores; 2]>,
    overlap: Option<contamination::Pair>,
}

impl Figures {
    fn of(outcome: &Outcome, embeddings: Option<&Embeddings<'_>>, ngram: usize) -> Self {
        let references = &outcome.item.references;
        let sides = [outcome.item.answer.as_str(), outcome.output.as_str()];
        let both = |scores: [Option<RowScores>; 2]| match scores {
            [Some(original), Some(output)] => Some([original, output]),
            _ => None,
        };
        Self {
            changes: changes::Change::of(outcome),
            refuses: refusals::of(sides),
            rouge_l: both(sides.map(|text| rouge::best(text, references))),
            embedding: embeddings
                .and_then(|embeddings| both(sides.map(|text| embeddings.best(text, references)))),
            overlap: contamination::of(sides, references, ngram),
        }
    }
}

impl TextMetrics {
    fn of(outcomes: &[&Outcome], figures: &[&Figures], seed: u64) -> Self {
        let item = &outcomes[0].item;
        let changes: Vec<&changes::Change> = figures.iter().map(|figures| &figures.changes).collect();
        let mean = |value: &dyn Fn(&changes::Change) -> f64| {
            rate(
                &changes.iter().map(|change| value(change)).collect::<Vec<_>>(),
                seed,
            )
        };
        let answers = outcomes.iter().map(|outcome| outcome.item.answer.as_str());
        let cut: Vec<f64> = outcomes.iter().map(|outcome| share(outcome.is_cut)).collect();
        Self {
            dataset: item.dataset.clone(),
            upstream: item.upstream.clone(),
            aligner: outcomes[0].aligner.clone(),
            rows: outcomes.len() as u64,
            copy_rate: mean(&|change| share(change.is_copy)),
            edit_ratio: mean(&|change| change.edit_ratio),
            edit_ratio_histogram: changes::histogram(&changes),
            length: LengthChange::of(&changes, seed),
            second_pass: SecondPass::of(&changes, seed),
            refusals: Refusals::of(figures.iter().map(|figures| figures.refuses), seed),
            distinct: Distinct {
                original: distinct(answers),
                output: distinct(outcomes.iter().map(|outcome| outcome.output.as_str())),
            },
            cut_rate: rate(&cut, seed),
            rouge_l: Similarity::of(figures.iter().filter_map(|figures| figures.rouge_l), seed),
            embedding: Similarity::of(figures.iter().filter_map(|figures| figures.embedding), seed),
            reference_perplexity: perplexity(outcomes, seed),
            contamination: Contamination::of(figures.iter().filter_map(|figures| figures.overlap), seed),
        }
    }
}

fn perplexity(outcomes: &[&Outcome], seed: u64) -> Option<Perplexity> {
    let nll: Vec<f64> = outcomes
        .iter()
        .filter_map(|outcome| outcome.reference_nll)
        .collect();
    let mean = bootstrap_mean(&nll, seed)?;
    Some(Perplexity {
        rows: nll.len() as u64,
        // `exp` is monotonic: the ends of its interval are those of the mean's.
        value: Interval {
            value: mean.value.exp(),
            low: mean.low.exp(),
            high: mean.high.exp(),
        },
    })
}

/// The mean of values of which there is at least one: a group has a row.
fn rate(values: &[f64], seed: u64) -> Interval {
    let none = Interval {
        value: 0.0,
        low: 0.0,
        high: 0.0,
    };
    bootstrap_mean(values, seed).unwrap_or(none)
}

/// A row's part in a share.
fn share(counts: bool) -> f64 {
    f64::from(u8::from(counts))
}
