//! Rows to train the upstream on, made of what an Aligner corrected.
//!
//! ```text
//!  upstream A ──answers──▶ Aligner ──▶ [Outcome] ──▶ rows ──▶ Rows ──▶ write ──▶ OUT/train.jsonl
//!       ▲                              [Scored] ─────▲                           OUT/valid.jsonl
//!       └────────────── a trainer ◀───────────────────────────────────────────── OUT/manifest.json
//! ```
//!
//! A round turns A into A*: A answers, the Aligner corrects, and A learns from the corrections (arXiv 2402.02416). Copies,
//! cut corrections and what filters reject are dropped, each counted under its [`Reason`]. The manifest says what the rows
//! were made of, with the chain of rounds before and every licence along it. The same input gives the same bytes.
//!
//! # Example
//!
//! ```
//! use aligner_eval::bootstrap::{self, BootstrapOptions};
//! use aligner_eval::{Item, Outcome};
//!
//! let item = Item {
//!     id: "1".into(),
//!     dataset: "capitals".into(),
//!     question: "Capital of Italy?".into(),
//!     answer: "Milan.".into(),
//!     upstream: "small-chat".into(),
//!     ..Item::default()
//! };
//! let outcomes = [Outcome {
//!     item,
//!     output: "Rome.".into(),
//!     aligner: "aligner-2b".into(),
//!     ..Outcome::default()
//! }];
//! let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default())?;
//! # let dir = tempfile::tempdir().unwrap();
//! # let out = dir.path().join("round1");
//! let summary = bootstrap::write(&rows, &out, &[], false)?;
//! assert_eq!((summary.round, summary.counts.kept), (1, 1));
//! # Ok::<(), aligner_eval::EvalError>(())
//! ```

mod counts;
mod duplicates;
mod format;
mod lineage;
mod manifest;
mod options;
mod output;
mod scores;
mod select;
mod split;
mod summary;
mod warnings;

pub use counts::{Counts, Reason, planned};
pub use format::BootstrapFormat;
pub use lineage::{Ancestor, LicenceNote, Source};
pub use manifest::{BootstrapManifest, HashedFile};
pub use options::{BootstrapOptions, Filters, Licences, Upstreams};
pub use output::write;
pub use select::{Rows, rows};
pub use summary::Summary;
