//! `aligner export`

use aligner_infer::export::{ExportOptions, export};

use crate::args::ExportArgs;
use crate::error::Result;
use crate::runs::model_dir;
use crate::terminal::say;

/// Writes the model in another program's format; prints the files.
pub fn run(args: &ExportArgs) -> Result<()> {
    let dir = model_dir(args.model.as_deref())?;
    let options = ExportOptions {
        adapter: args
            .adapter
            .as_deref()
            .map(|adapter| model_dir(Some(adapter)))
            .transpose()?,
        base: args.base.clone(),
        pre: args.pre.clone(),
        overwrite: args.overwrite,
        ..ExportOptions::new(args.format, args.dtype)
    };
    let written = export(&dir, &args.out, &options)?;
    for note in &written.notes {
        say(format!("note: {note}"));
    }
    say(format!(
        "{}: {} files, {:.1} MB",
        args.out.display(),
        written.files.len(),
        written.bytes as f64 / 1e6
    ));
    Ok(())
}
