//! `aligner bootstrap`

use std::io::Write;

use aligner_eval::bootstrap::{self, HashedFile};
use aligner_eval::{facts, outcomes, scores};

use super::eval::{OUTCOMES, SCORES};
use crate::args::BootstrapArgs;
use crate::error::{Result, stdout_error};

/// Writes rows to train an upstream on, and says what they are.
pub fn run(args: &BootstrapArgs) -> Result<()> {
    let mut options = args.options()?;
    options.planned = bootstrap::planned(&facts::read(&args.eval)?);
    let path = args.eval.join(OUTCOMES);
    let outcomes = outcomes::read(&path)?;
    let mut inputs = vec![HashedFile::of(&path, outcomes.len() as u64)?];
    let path = args.eval.join(SCORES);
    let scored = if path.is_file() {
        let scored = scores::read(&path)?;
        inputs.push(HashedFile::of(&path, scored.len() as u64)?);
        scored
    } else {
        Vec::new()
    };
    let rows = bootstrap::rows(&outcomes, &scored, &options)?;
    let summary = bootstrap::write(&rows, &args.out, &inputs, args.overwrite)?;
    write!(std::io::stdout(), "{summary}").map_err(stdout_error)
}
