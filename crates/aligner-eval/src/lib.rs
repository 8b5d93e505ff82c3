//! Whether corrections help, and what an upstream can learn from them.
//!
//! ```text
//!  questions + answers ──▶ Item ──▶ (a corrector) ──▶ Outcome ──┬──▶ TextMetrics   without a judge
//!                                                               ├──▶ Judgement     a judge's verdicts
//!                                                               ├──▶ Scored        reward and cost models
//!                                                               └──▶ rows to train the upstream on
//! ```
//!
//! The crate knows files, texts and numbers, and no tensors: who corrects and who scores is handed in. An evaluation is a
//! directory of JSON lines, each file written by one step and readable by any program:
//!
//! | file | what it holds | module |
//! |---|---|---|
//! | `outcomes.jsonl`, `model_outputs.json` | [`Outcome`]s; the latter as AlpacaEval reads them | [`outcomes`], of [`input`] or [`given`] |
//! | `metrics.json` | figures without a judge | [`metrics`], [`summary`] |
//! | `judgements.jsonl` | [`Judgement`]s | [`judge`] |
//! | `scores.jsonl` | [`Scored`] pairs | [`scores`] |
//! | `eval.json` | what was run on what: models, templates, files and their hashes | [`facts`] |
//! | `report.html`, `report.md`, `*.svg` | all of it, drawn | [`report`] |
//!
//! [`bootstrap`] makes rows of outcomes, [`alpaca`] win rates of annotations, [`probe`] layers' accuracies of hidden states.

pub mod alpaca;
pub mod bootstrap;
mod error;
pub mod facts;
mod files;
pub mod given;
mod growing;
pub mod input;
pub mod judge;
pub mod metrics;
pub mod outcomes;
pub mod probe;
pub mod report;
mod row;
pub mod scores;
pub mod stats;
pub mod summary;
mod text;

pub use error::{EvalError, Result};
pub use growing::Unfinished;
pub use row::{Dimension, Item, Judgement, Outcome, References, ScoreKind, Scored, Verdict};
