//! Correction inference: a question and an answer go in, a better answer comes out.
//!
//! ```text
//!  question + answer ──▶ Corrector ──▶ Correction      text, tokens, finish_reason, usage, timings
//!                            │
//!                            ├── Encoder    the template and tokenizer the model was trained with
//!                            ├── generate   prefill, sample, decode; cancellable
//!                            └── CausalLm   the model: Burn's decoder, or anything else
//! ```
//!
//! The crate depends on neither training nor a web server. Everything but [`DecoderLm`] works on any [`CausalLm`].
//!
//! # Example
//!
//! Streaming, with a change list at the end:
//!
//! ```no_run
//! use aligner_infer::{CorrectOptions, Corrector, Piece, diff, edit_ratio};
//!
//! let corrector = Corrector::open("runs/first/final")?;
//! let answer = "The sun orbits the earth.";
//! for piece in corrector.stream("What orbits what?", answer, &CorrectOptions::default()) {
//!     match piece? {
//!         Piece::Text(text) => print!("{text}"),
//!         Piece::Done(correction) => println!("\nedit ratio {:.2}", edit_ratio(&diff(answer, &correction.text))),
//!     }
//! }
//! # Ok::<(), aligner_infer::InferError>(())
//! ```

mod acceptance;
mod answerer;
mod batcher;
mod builder;
mod causal_lm;
mod corrector;
mod cost;
mod decoder;
pub mod draft;
mod embed;
mod engine;
mod error;
pub mod export;
pub mod inspect;
mod policy;
pub mod replay;
mod sampler;
mod scheduler;
mod scorer;
mod sentences;
mod sequence;
mod steer;
mod verify;
mod voice;
mod windows;
mod windows_batch;

pub use aligner_data::{Edit, EditOp, diff, edit_ratio, is_copy};
pub use answerer::Answerer;
pub use batcher::{BatchLoad, Batcher};
pub use builder::CorrectorBuilder;
pub use causal_lm::{CausalLm, Run};
pub use corrector::{CorrectOptions, Correction, CorrectionStream, Corrector, Input, Piece, Score, Usage};
pub use decoder::DecoderLm;
pub use engine::{
    CancelToken, Drafting, FinishReason, Generated, Request, Timings, TokenScore, generate, score_tokens,
};
pub use error::{InferError, Result};
pub use policy::{Draft, DraftMemory};
pub use sampler::{Sampler, SamplingParams, part_seed};
pub use scheduler::BatchOptions;
pub use scorer::{Scorer, ScorerBuilder};
pub use steer::sign_steering;
pub use verify::{Verified, verify};
pub use windows::LongAnswers;
