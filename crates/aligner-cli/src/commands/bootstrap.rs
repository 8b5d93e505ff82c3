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
    let (outcomes, hash) = outcomes::read_hashed(&path)?;
    let mut inputs = vec![HashedFile::of(&path, outcomes.len(), hash)];
    let path = args.eval.join(SCORES);
    let scored = if path.is_file() {
        let (scored, hash) = scores::read_hashed(&path)?;
        inputs.push(HashedFile::of(&path, scored.len(), hash));
        scored
    } else {
        Vec::new()
    };
    let rows = bootstrap::rows(&outcomes, &scored, &options)?;
    let summary = bootstrap::write(&rows, &args.out, &inputs, args.overwrite)?;
    write!(std::io::stdout(), "{summary}").map_err(stdout_error)
}
