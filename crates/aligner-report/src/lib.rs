//! A training run as one self-contained page: curves, numbers, samples with their changes, configuration; and a correction token
//! by token as another ([`tokens`]).
//!
//! ```text
//!  RUN/metrics.jsonl ──▶ Metrics   series in constant memory, stages, validations ──┐
//!  RUN/samples.jsonl ──▶ Samples   of the last validation                           ├──▶ page ──▶ report.html
//!  RUN/run.toml · checkpoints/*/checkpoint.json · final/aligner.json ──▶ Facts      ──┘
//! ```
//!
//! The crate reads what a run directory holds and knows nothing of training: records are JSON objects with a `step`, and a
//! number it has never heard of gets a curve of its own. The page refers to nothing outside of it, has no script, follows
//! the reader's light or dark scheme, and prints. A run of a million steps gives a page as small as one of a thousand.
//!
//! What the page is made of is a [`kit`] for the reports of other crates.
//!
//! # Example
//!
//! ```no_run
//! aligner_report::write("runs/first".as_ref(), "first.html".as_ref())?;
//! # Ok::<(), aligner_report::ReportError>(())
//! ```

mod chart;
mod error;
mod facts;
pub mod kit;
mod lines;
mod metrics;
mod page;
mod samples;
mod series;
pub mod tokens;

use std::path::Path;

pub use error::{ReportError, Result};

use facts::Facts;
use metrics::Metrics;
use samples::Samples;

/// The page of the run in `run`, which may be going on.
///
/// # Errors
/// When the directory holds no run, or a file in it cannot be read. Lines that are damaged are left out, and the page says
/// how many.
pub fn render(run: &Path) -> Result<String> {
    let metrics = run.join("metrics.jsonl");
    if !metrics.is_file() && !run.join("run.toml").is_file() {
        return Err(ReportError::NoRun(run.to_path_buf()));
    }
    let metrics = Metrics::read(&metrics)?;
    let samples = Samples::read(&run.join("samples.jsonl"))?;
    Ok(page::page(&Facts::read(run), &metrics, &samples))
}

/// Writes the page of the run in `run` to `out`: whole, or what was there stays.
///
/// # Errors
/// As [`render`], and when `out` cannot be written.
pub fn write(run: &Path, out: &Path) -> Result<()> {
    write_page(out, &render(run)?)
}

/// Writes a page to `out`: whole, or what was there stays.
///
/// # Errors
/// When `out` cannot be written.
pub fn write_page(out: &Path, page: &str) -> Result<()> {
    kit::write_whole(out, page).map_err(ReportError::io("write", out))
}
