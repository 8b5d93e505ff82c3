//! `scores.jsonl`: what reward and cost models said.

use std::path::Path;

use crate::error::{EvalError, Result};
use crate::files::{read_rows, write_rows};
use crate::row::Scored;

/// Writes all scores, whole or not at all.
///
/// # Errors
/// When a score is no number, which names its row, or the file cannot be written.
pub fn write(path: &Path, scored: &[Scored]) -> Result<()> {
    check(path, scored)?;
    write_rows(path, scored)
}

/// Reads all scores.
///
/// # Errors
/// When the file cannot be read, or a row is no score.
pub fn read(path: &Path) -> Result<Vec<Scored>> {
    let scored = read_rows(path, "score")?;
    check(path, &scored)?;
    Ok(scored)
}

fn check(path: &Path, scored: &[Scored]) -> Result<()> {
    let is_bad = |scored: &Scored| !(scored.original.is_finite() && scored.output.is_finite());
    match (1..).zip(scored).find(|(_, scored)| is_bad(scored)) {
        None => Ok(()),
        Some((row, scored)) => {
            let reason = format!("the scores of {} are no finite numbers", scored.id);
            Err(EvalError::row(path, row, reason))
        }
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
