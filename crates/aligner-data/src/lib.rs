//! Question/answer/correction rows, from a file to token ids.
//!
//! ```text
//!  rows.jsonl ──▶ RowReader ──▶ Record ──▶ Encoder ──▶ Dataset ──▶ Order + Cursor ──▶ Batch
//!                                             ▲
//!                     PromptTemplate ─────────┤
//!                     Tokenizer ──────────────┘
//! ```
//!
//! The crate needs no tensors: a [`Batch`] is plain numbers. The same [`Encoder`] serves training and inference, so that a
//! model sees in use exactly the prompt tokens it was trained on.
//!
//! # Example
//!
//! ```
//! use aligner_data::{PromptTemplate, ReadOptions, RowReader};
//!
//! let rows = r#"[{"question": "Capital of Italy?", "answer": "Milan.", "correction": "Rome."}]"#;
//! for record in RowReader::from_reader("rows.json", rows.as_bytes(), ReadOptions::default())? {
//!     let record = record?;
//!     let prompt = PromptTemplate::default().render(&record.question, &record.answer, &record.chat_history);
//!     assert!(prompt.ends_with("##Correction:  ASSISTANT:"));
//! }
//! # Ok::<(), aligner_data::DataError>(())
//! ```

mod batch;
mod chat_format;
mod chat_template;
mod check;
mod control;
mod convert;
mod counts;
mod dataset;
mod diff;
mod encode;
mod error;
mod format;
mod manifest;
mod mixture;
mod order;
mod random;
mod reader;
mod record;
mod store;
pub mod synthetic;
mod template;
mod token_stream;
mod tokenizer;

pub use batch::{Batch, PairRow};
pub use chat_format::ChatFormat;
pub use check::{
    BenchmarkReport, CheckOptions, CheckReport, CutOffReport, FailOn, FileReport, Finding, Forecast,
    IdentityReport, Keeps, LeakReport, LengthBias, Lengths, Level, NearReport, Oddities, OddityKind,
    OddityReport, PairExample, RefusalReport, RowExample, RowRef, check_files, near_questions, refuses,
    shares_run, words,
};
pub use convert::{ConvertOptions, ConvertReport, convert_files};
pub use counts::TokenCounts;
pub use dataset::{Dataset, LoadOptions, Progress};
pub use diff::{Edit, EditOp, diff, edit_ratio, is_copy};
pub use encode::{Encoder, Example, Target};
pub use error::{DataError, Result, RowError};
pub use format::{Format, Prefer, Safety};
pub use manifest::{AlignerManifest, Stage, StageSource};
pub use mixture::{DataSource, Share};
pub use order::{Cursor, Order};
pub use random::Random;
pub use reader::{OnBadRow, ReadOptions, RowReader, SkipLog};
pub use record::{Columns, Fields, Origin, Record, Turn};
pub use store::TokenCache;
pub use template::PromptTemplate;
pub use token_stream::TokenStream;
pub use tokenizer::{Tokenizer, copy_tokenizer_files};
