//! `judgements.jsonl`

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use crate::error::{EvalError, Result};
use crate::row::Judgement;

/// Writes judgements, a JSON line each. The file is whole or as it was before.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, judgements: &[Judgement]) -> Result<()> {
    let failed = || EvalError::io("write", path);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let beside = path.with_file_name(name);
    let mut file = BufWriter::new(File::create(&beside).map_err(failed())?);
    for judgement in judgements {
        serde_json::to_writer(&mut file, judgement).map_err(|error| failed()(error.into()))?;
        file.write_all(b"\n").map_err(failed())?;
    }
    let file = file.into_inner().map_err(|error| failed()(error.into_error()))?;
    file.sync_all().map_err(failed())?;
    std::fs::rename(&beside, path).map_err(failed())
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// When the file cannot be read, or a row is no judgement.
pub fn read(path: &Path) -> Result<Vec<Judgement>> {
    let file = BufReader::new(File::open(path).map_err(EvalError::io("read", path))?);
    let mut judgements = Vec::new();
    for (line, row) in file.lines().zip(1..) {
        let line = line.map_err(EvalError::io("read", path))?;
        if line.trim().is_empty() {
            continue;
        }
        let judgement = serde_json::from_str(&line)
            .map_err(|error| EvalError::row(path, row, format!("it is no judgement: {error}")))?;
        judgements.push(judgement);
    }
    Ok(judgements)
}
