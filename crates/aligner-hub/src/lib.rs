//! Model directories from the Hugging Face Hub.
//!
//! [`Hub::resolve`] takes `org/name[@revision]` and gives a local directory with what a model directory needs, in the
//! Hub's own cache (`models--org--name/{blobs,refs,snapshots}`), which Python's `huggingface_hub` reads and fills too.
//!
//! ```no_run
//! use aligner_hub::{Files, Hub, ModelRef};
//!
//! let model = ModelRef::parse("HuggingFaceTB/SmolLM2-135M-Instruct")?;
//! let dir = Hub::from_env()?.resolve(&model, Files::Model, &mut |progress| {
//!     eprintln!("{} {}/{:?}", progress.file, progress.done_bytes, progress.total_bytes);
//! })?;
//! # Ok::<(), aligner_hub::HubError>(())
//! ```
//!
//! Of the crate `hf-hub` come URLs, cache paths and the listing's type. Its downloader is not used: it ignores `HF_TOKEN`,
//! `HF_HUB_CACHE` and `HF_HUB_OFFLINE`, appends to what it has without looking whether the server honoured the range, and
//! checks neither size nor hash. [`Hub`] does that with the HTTP client that `hf-hub` brings.

mod cache;
mod config;
mod download;
mod error;
mod files;
mod http;
mod model_ref;
mod resolve;
mod retry;

pub use config::{HubConfig, Token};
pub use error::{HubError, Result};
pub use files::Files;
pub use model_ref::ModelRef;
pub use resolve::{Hub, Progress};
pub use retry::RetryPolicy;
