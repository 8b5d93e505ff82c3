//! `aligner export`

use aligner_hub::Files;
use aligner_infer::export::{ExportOptions, export};

use super::fetched_base;
use crate::args::ExportArgs;
use crate::error::Result;
use crate::runs::model_dir;
use crate::terminal::say;

/// Writes the model in another program's format; prints the files.
pub fn run(args: &ExportArgs) -> Result<()> {
    let dir = model_dir(args.model.as_deref(), Files::Model)?;
    let options = ExportOptions {
        adapter: args
            .adapter
            .as_deref()
            .map(|adapter| model_dir(Some(adapter), Files::Model))
            .transpose()?,
        average: args
            .average
            .iter()
            .map(|model| model_dir(Some(model), Files::Model))
            .collect::<Result<_>>()?,
        base: match &args.base {
            Some(base) => Some(model_dir(Some(base), Files::Model)?),
            None => fetched_base(&dir)?,
        },
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
