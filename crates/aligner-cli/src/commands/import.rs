//! `aligner import`

use std::io::Write;

use aligner_model::weights::gguf;

use crate::args::ImportArgs;
use crate::error::{Result, stdout_error};
use crate::terminal::say;

/// Writes a GGUF file's model as a Hugging Face directory and prints the directory.
pub fn run(args: &ImportArgs) -> Result<()> {
    let done = gguf::import(&args.file, &args.out, args.overwrite)?;
    let types: Vec<String> = done
        .types
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    say(format!(
        "{}: {} tensors ({}), {:.1}M parameters, {:.1} MB written as f32",
        done.architecture,
        done.tensors,
        types.join(", "),
        done.parameters as f64 / 1e6,
        done.bytes as f64 / 1e6,
    ));
    if done.has_manifest {
        say("with the prompt template it was trained on (aligner.json)");
    }
    writeln!(std::io::stdout(), "{}", args.out.display()).map_err(stdout_error)
}
