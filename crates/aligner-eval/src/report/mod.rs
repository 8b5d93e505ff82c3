//! An evaluation for readers: a page, Markdown and pictures.
//!
//! ```text
//!  Report ──▶ Content   sections of plain text, tables, pictures, changed answers
//!               ├──▶ html       one self-contained page, no script, nothing from elsewhere
//!               ├──▶ markdown   the same for repositories and issues
//!               └──▶ pictures   SVG files, with a background of their own
//! ```
//!
//! [`Report`] is plain: whoever has figures fills it. The same report gives the same bytes. Numbers without data, or that
//! are not finite, are left out. Whatever users and models wrote is text in all three.
//!
//! ```
//! use aligner_eval::Dimension;
//! use aligner_eval::report::{Group, Report, Verdicts, html};
//! use aligner_eval::stats::{Tally, bootstrap_mean};
//!
//! let tally = Tally { wins: 224, ties: 320, losses: 146, unread: 10 };
//! let report = Report {
//!     title: "First run".into(),
//!     verdicts: vec![Verdicts {
//!         group: Group { upstream: "alpaca-7b".into(), ..Group::default() },
//!         dimension: Dimension::Helpful,
//!         tally,
//!         win_rate: bootstrap_mean(&tally.values(), 1),
//!         p: Some(tally.sign_test()),
//!         contradictions: None,
//!         judge: "a judge".into(),
//!     }],
//!     ..Report::default()
//! };
//! assert!(html(&report).contains("ω +11.3 %"));
//! ```

mod changes;
mod content;
mod facts;
mod format;
mod html;
mod input;
mod markdown;
mod svg;

use std::path::Path;

use aligner_report::kit::write_whole;

pub use input::{Difference, EditRatios, Figure, Group, Number, Report, Row, Table, Unit, Verdicts};
pub(crate) use svg::canvas::{Clean, width_px};

use crate::error::{EvalError, Result};
use content::Content;

/// The report as one page.
pub fn html(report: &Report) -> String {
    html::html(&Content::of(report))
}

/// The report as Markdown, which refers to the [`pictures`] beside it.
pub fn markdown(report: &Report) -> String {
    markdown::markdown(&Content::of(report))
}

/// The report's pictures: names of files, and SVG.
pub fn pictures(report: &Report) -> Vec<(String, String)> {
    files(&Content::of(report))
}

fn files(content: &Content<'_>) -> Vec<(String, String)> {
    let pictures = content.pictures();
    pictures
        .map(|picture| (picture.file.clone(), svg::svg(picture)))
        .collect()
}

/// Writes `report.html`, `report.md` and the pictures to a directory, which is made if need be. Each file is there whole, or
/// as it was; pictures of an earlier report that this one does not have stay.
///
/// # Errors
/// When the directory cannot be made, or a file not be written.
pub fn write(report: &Report, out_dir: &Path) -> Result<()> {
    std::fs::create_dir_all(out_dir).map_err(EvalError::io("write", out_dir))?;
    let content = Content::of(report);
    // What refers to the pictures comes behind them.
    let mut files = files(&content);
    files.push(("report.md".into(), markdown::markdown(&content)));
    files.push(("report.html".into(), html::html(&content)));
    for (name, text) in files {
        let path = out_dir.join(name);
        write_whole(&path, &text).map_err(EvalError::io("write", &path))?;
    }
    Ok(())
}
