//! What a report tells.

use serde_json::{Map, Value};

use crate::row::{Dimension, Outcome, ScoreKind, Scored};
use crate::stats::{Interval, Tally, bootstrap_mean};

/// Everything that a report tells. What is empty has no place in it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was evaluated, in a few words.
    pub title: String,
    /// Configuration and hashes: any JSON object, such as `eval.json`. A time stands in a report only if it is here.
    pub facts: Map<String, Value>,
    /// What readers must know: damaged rows, a judge that answered seldom.
    pub notes: Vec<String>,
    /// What was corrected; the most and the least changed are shown.
    pub outcomes: Vec<Outcome>,
    /// What judges said.
    pub verdicts: Vec<Verdicts>,
    /// What reward and cost models said.
    pub differences: Vec<Difference>,
    /// Figures without a judge.
    pub tables: Vec<Table>,
    /// How often each edit ratio occurs.
    pub edit_ratios: Vec<EditRatios>,
}

/// Rows that belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// The upstream.
    pub upstream: String,
    /// The data set.
    pub dataset: String,
    /// The Aligner.
    pub aligner: String,
}

/// Figures of groups, with a title.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// Above it.
    pub title: String,
    /// What the figures mean, or nothing.
    pub about: String,
    /// A row for each group.
    pub rows: Vec<Row>,
}

/// The figures of one group. A figure without data is left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Of what.
    pub group: Group,
    /// The figures; those of the same name stand in one column.
    pub figures: Vec<Figure>,
}

/// A number with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// The number.
    pub number: Number,
    /// How it is written.
    pub unit: Unit,
}

impl Figure {
    /// A figure.
    pub fn new(name: impl Into<String>, number: impl Into<Number>, unit: Unit) -> Self {
        Self {
            name: name.into(),
            number: number.into(),
            unit,
        }
    }
}

/// A number, with its interval where it has one. One that is not finite is left out of the report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Counted.
    Exact(f64),
    /// Estimated.
    Estimate(Interval),
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Exact(value)
    }
}

impl From<Interval> for Number {
    fn from(interval: Interval) -> Self {
        Self::Estimate(interval)
    }
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A share of one, as a percentage.
    Share,
    /// A number.
    Plain,
    /// A whole number.
    Count,
}

/// What judges said of one group in one dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdicts {
    /// Of what.
    pub group: Group,
    /// What was asked about.
    pub dimension: Dimension,
    /// How often each verdict was given.
    pub tally: Tally,
    /// ω with its interval; without it, what the tally says.
    pub win_rate: Option<Interval>,
    /// The sign test's p.
    pub p: Option<f64>,
    /// Pairs that were judged differently in the other order.
    pub contradictions: Option<u64>,
    /// The judge.
    pub judge: String,
}

/// What a reward or cost model says of one group: how much the corrections' scores differ from those of the answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Of what.
    pub group: Group,
    /// A reward's difference is told as helpfulness, a cost's with its sign turned as harmlessness.
    pub kind: ScoreKind,
    /// The correction's score less the answer's, on average.
    pub difference: Interval,
    /// Pairs.
    pub count: u64,
    /// The model that scored.
    pub scorer: String,
}

impl Difference {
    /// The mean differences of each group, kind and scorer, with intervals drawn from `seed`; in the order of these.
    ///
    /// ```
    /// use aligner_eval::report::Difference;
    /// use aligner_eval::{ScoreKind, Scored};
    /// let row = |original, output| Scored {
    ///     id: "1".into(), dataset: "d".into(), upstream: "u".into(), aligner: "a".into(),
    ///     fingerprint: String::new(), kind: ScoreKind::Cost, original, output, scorer: "s".into(),
    /// };
    /// let found = Difference::of(&[row(3.0, 1.0), row(2.0, 2.0)], 1);
    /// assert_eq!((found[0].count, found[0].difference.value), (2, -1.0));
    /// ```
    pub fn of(scored: &[Scored], seed: u64) -> Vec<Self> {
        let mut groups = std::collections::BTreeMap::<_, Vec<f64>>::new();
        for row in scored {
            let group = Group {
                upstream: row.upstream.clone(),
                dataset: row.dataset.clone(),
                aligner: row.aligner.clone(),
            };
            let values = groups.entry((group, row.kind, row.scorer.clone())).or_default();
            values.push(row.output - row.original);
        }
        let differences = groups.into_iter().filter_map(|((group, kind, scorer), values)| {
            Some(Self {
                group,
                kind,
                difference: bootstrap_mean(&values, seed)?,
                count: values.len() as u64,
                scorer,
            })
        });
        differences.collect()
    }

    /// By how much the corrections are better, whatever the score means: a cost that falls is harmlessness that rises.
    pub fn gain(&self) -> Interval {
        let Interval { value, low, high } = self.difference;
        match self.kind {
            ScoreKind::Reward => self.difference,
            // `0.0 −`: no minus zero.
            ScoreKind::Cost => Interval {
                value: 0.0 - value,
                low: 0.0 - high,
                high: 0.0 - low,
            },
        }
    }
}

/// How often each edit ratio occurs in one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditRatios {
    /// Of what. The report adds up the data sets of an upstream and an Aligner.
    pub group: Group,
    /// How many have a ratio from `index / counts.len()` on, up to the next; the last holds 1 too.
    pub counts: Vec<u64>,
}
