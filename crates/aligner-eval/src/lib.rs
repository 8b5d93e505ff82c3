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
//! | file | rows |
//! |---|---|
//! | `outcomes.jsonl` | [`Outcome`] |
//! | `judgements.jsonl` | [`Judgement`] |
//! | `scores.jsonl` | [`Scored`] |
//! | `eval.json` | what was run on what: models, templates, files and their hashes |

mod error;
mod row;
pub mod stats;

pub use error::{EvalError, Result};
pub use row::{Dimension, Item, Judgement, Outcome, References, ScoreKind, Scored, Verdict};
