//! `aligner eval report`

use std::io::Write;

use aligner_eval::{report, summary};

use super::make_dir;
use crate::args::EvalReportArgs;
use crate::error::{Result, stdout_error};

/// Draws an evaluation; the page's place goes to stdout.
pub fn run(args: &EvalReportArgs) -> Result<()> {
    let named = || {
        let dir = std::path::absolute(&args.dir).unwrap_or_else(|_| args.dir.clone());
        dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    };
    let title = args.title.clone().unwrap_or_else(named);
    let gathered = summary::gather(&args.dir, &title, args.seed)?;
    let out = args.out.as_ref().unwrap_or(&args.dir);
    make_dir(out)?;
    report::write(&gathered, out)?;
    writeln!(std::io::stdout(), "{}", out.join("report.html").display()).map_err(stdout_error)
}
