//! `judgements.jsonl`

use std::collections::HashSet;
use std::path::Path;

use crate::error::Result;
use crate::files::{kept, read_rows, write_rows};
use crate::row::{Judgement, Outcome};

/// What a row is.
const WHAT: &str = "judgement";

/// Writes judgements, a JSON line each. The file is whole or as it was before.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, judgements: &[Judgement]) -> Result<()> {
    write_rows(path, judgements)
}

/// Writes judgements in place of the same judges' on the same dimensions; others stay, where they are of these outcomes. Returns all.
///
/// # Errors
/// As [`read`] and [`write()`].
pub fn update(path: &Path, outcomes: &[Outcome], judgements: &[Judgement]) -> Result<Vec<Judgement>> {
    let of = |row: &Judgement| (row.judge.clone(), row.dimension);
    let anew: HashSet<_> = judgements.iter().map(of).collect();
    let mut all = kept(path, WHAT, outcomes, |row| anew.contains(&of(row)))?;
    all.extend_from_slice(judgements);
    all.sort_by_key(of);
    write(path, &all)?;
    Ok(all)
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// When the file cannot be read, or a row is no judgement.
pub fn read(path: &Path) -> Result<Vec<Judgement>> {
    read_rows(path, WHAT)
}
