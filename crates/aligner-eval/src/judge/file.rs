//! `judgements.jsonl`

use std::path::Path;

use crate::error::Result;
use crate::files::{read_rows, write_rows};
use crate::row::Judgement;

/// Writes judgements, a JSON line each. The file is whole or as it was before.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, judgements: &[Judgement]) -> Result<()> {
    write_rows(path, judgements)
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// When the file cannot be read, or a row is no judgement.
pub fn read(path: &Path) -> Result<Vec<Judgement>> {
    read_rows(path, "judgement")
}
