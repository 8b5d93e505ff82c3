//! `aligner data convert`

use std::io::Write;

use aligner_data::{ConvertOptions, ConvertReport, ReadOptions, convert_files};

use crate::args::ConvertArgs;
use crate::error::{Result, stdout_error};
use crate::terminal::say;

/// Reasons that are printed.
const REASONS: usize = 5;

/// Writes the rows, says what became of them, and prints where they are.
pub fn run(args: &ConvertArgs) -> Result<()> {
    let options = ConvertOptions {
        read: ReadOptions {
            columns: args.rows.columns.clone(),
            on_bad_row: args.rows.on_bad_row(),
            format: args.rows.format,
            prefer: args.prefer,
            ..ReadOptions::default()
        },
        limit: args.rows.limit.map(|limit| limit as u64),
        identity: args.identity,
        overwrite: args.overwrite,
    };
    let report = convert_files(&args.files, &args.out, &options)?;
    tell(&report);
    // Behind rows that went to a pipe, which may be stdout itself, it would be one of them.
    if args.out.is_file() {
        writeln!(std::io::stdout(), "{}", args.out.display()).map_err(stdout_error)?;
    }
    Ok(())
}

fn tell(report: &ConvertReport) {
    for (file, format) in &report.files {
        match format {
            Some(format) => say(format!("{}: {format}", file.display())),
            None => say(format!("{}: no rows", file.display())),
        }
    }
    let skipped = &report.skipped;
    say(format!(
        "{} rows read, {} written, {} left out",
        report.read,
        report.written,
        skipped.count()
    ));
    for error in skipped.first().iter().take(REASONS) {
        say(format!("left out: {error}"));
    }
    if skipped.count() > REASONS as u64 {
        say(format!(
            "left out: … and {} more",
            skipped.count() - REASONS as u64
        ));
    }
    if report.with_correction < report.written {
        say(format!(
            "{} rows have no correction: they can be corrected, but not trained on (--identity makes their answer one)",
            report.written - report.with_correction
        ));
    }
}
