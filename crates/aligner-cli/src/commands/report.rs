//! `aligner report`

use std::io::Write;
use std::path::Path;

use crate::args::ReportArgs;
use crate::error::{Result, stdout_error};
use crate::runs;
use crate::terminal::say;

/// Name of the page in a run directory.
const PAGE: &str = "report.html";

/// Draws a run, going on or ended, as a page; its place goes to stdout.
pub fn run(args: &ReportArgs) -> Result<()> {
    let run = match &args.run {
        Some(run) => run.clone(),
        None => runs::latest()?,
    };
    let out = args.out.clone().unwrap_or_else(|| run.join(PAGE));
    aligner_report::write(&run, &out)?;
    writeln!(std::io::stdout(), "{}", out.display()).map_err(stdout_error)
}

/// Draws a run that has just ended. A page that cannot be written does not make a run a failure.
pub fn after(run: &Path) {
    let out = run.join(PAGE);
    match aligner_report::write(run, &out) {
        Ok(()) => say(format!("report: {}", out.display())),
        Err(error) => say(format!("no report: {error}")),
    }
}
