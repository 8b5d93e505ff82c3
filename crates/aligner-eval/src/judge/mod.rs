//! A judge: a language model that compares each original answer with its correction.
//!
//! Helpfulness, harmlessness and honesty are asked for apart, and each in both orders, because judges prefer a place: with
//! answer A the original and answer B the correction, and the other way round. So a pair and a dimension make two calls and
//! two [`Judgement`](crate::Judgement)s. The judge writes an analysis first and its verdict last.
//!
//! [`combine`] makes one verdict of the two: a verdict for the correction counts 1, one for the original −1, a tie 0, and
//! the sign of their sum decides.
//!
//! | one order | the other | the pair |
//! |---|---|---|
//! | win | win or tie | win |
//! | loss | loss or tie | loss |
//! | tie | tie | tie |
//! | win | loss | tie, and a contradiction |
//! | any | unread | as the one that was read |
//! | unread | unread | unread, which counts nowhere |
//!
//! An original and a correction that are the same text but for the space around them are a tie, and nobody is asked.
//!
//! Every reply is kept at once in a cache, a JSON line each, under the hash of the request: a run that was killed goes on
//! where it was, and one that ended asks nothing twice. What is returned does not depend on the number of parallel calls.
//!
//! ```no_run
//! use aligner_eval::judge::{self, ApiKey, JudgeConfig};
//! # fn main() -> aligner_eval::Result<()> {
//! # let outcomes = vec![];
//! let mut config = JudgeConfig::new("https://api.openai.com/v1", "gpt-4.1-mini");
//! config.api_key = Some(ApiKey::from_env("OPENAI_API_KEY")?);
//! let cache = std::path::Path::new("eval/judge-cache.jsonl");
//! let estimate = judge::estimate(&outcomes, &config, cache)?;
//! if estimate.calls < 10_000 {
//!     let judgements = judge::judge(&outcomes, &config, cache, |_| {})?;
//!     let all = judge::update("eval/judgements.jsonl".as_ref(), &outcomes, &judgements)?;
//!     for row in judge::table(&all, 0)? {
//!         let rate = row.win_rate.map(|rate| rate.value);
//!         assert!(rate.is_none_or(|rate| rate.abs() <= 1.0));
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod cache;
mod client;
mod combine;
mod config;
mod estimate;
mod file;
mod pace;
mod plan;
mod prompt;
mod reply;
mod run;
mod table;
mod verdict;

pub use combine::{PairVerdict, combine};
pub use config::{ApiKey, JudgeConfig, Price};
pub use estimate::{CHARS_PER_TOKEN, Estimate, estimate};
pub use file::{read, update, write};
pub use plan::IDENTICAL;
pub use run::{Progress, judge};
pub use table::{Row, table};
pub use verdict::{Choice, read_choice};
