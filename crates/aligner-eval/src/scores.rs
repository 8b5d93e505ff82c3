//! `scores.jsonl`: what reward and cost models said.

use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::error::{EvalError, Result};
use crate::row::Scored;

/// Writes all scores, whole or not at all.
///
/// # Errors
/// When a score is no number, which names its row, or the file cannot be written.
pub fn write(path: &Path, scored: &[Scored]) -> Result<()> {
    let mut text = String::new();
    for (row, scored) in (1..).zip(scored) {
        check(path, row, scored)?;
        let line = serde_json::to_string(scored);
        text += &line.map_err(|error| EvalError::row(path, row, error.to_string()))?;
        text.push('\n');
    }
    aligner_report::kit::write_whole(path, &text).map_err(EvalError::io("write", path))
}

/// Reads all scores.
///
/// # Errors
/// When the file cannot be read, or a row is no score.
pub fn read(path: &Path) -> Result<Vec<Scored>> {
    let file = std::fs::File::open(path).map_err(EvalError::io("read", path))?;
    let mut all = Vec::new();
    for (row, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(EvalError::io("read", path))?;
        let scored: Scored = serde_json::from_str(&line)
            .map_err(|error| EvalError::row(path, row, format!("is no score: {error}; score anew")))?;
        check(path, row, &scored)?;
        all.push(scored);
    }
    Ok(all)
}

fn check(path: &Path, row: u64, scored: &Scored) -> Result<()> {
    match scored.original.is_finite() && scored.output.is_finite() {
        true => Ok(()),
        false => Err(EvalError::row(
            path,
            row,
            format!("the scores of {} are no finite numbers", scored.id),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::row::ScoreKind;

    fn scored(output: f64) -> Scored {
        Scored {
            id: "7".into(),
            dataset: "d".into(),
            upstream: "u".into(),
            aligner: "a".into(),
            kind: ScoreKind::Reward,
            original: -1.25,
            output,
            scorer: "s".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_no_number_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores.jsonl");
        let all = [scored(0.1), scored(2.0)];
        write(&path, &all).unwrap();
        assert_eq!(read(&path).unwrap(), all);
        let error = write(&path, &[scored(0.0), scored(f64::NAN)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("row 2") && error.contains('7'), "{error}");
        assert_eq!(read(&path).unwrap(), all, "what was there stays");
        std::fs::write(&path, "{}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("row 1"));
    }
}
