//! `scores.jsonl`: what reward and cost models said.

use std::path::Path;

use crate::error::{EvalError, Result};
use crate::files::{kept, read_rows_hashed, write_rows};
use crate::row::{Outcome, Scored};

/// What a row is.
const WHAT: &str = "score";

/// Writes all scores, whole or not at all.
///
/// # Errors
/// When a score is no number, which names its row, or the file cannot be written.
pub fn write(path: &Path, scored: &[Scored]) -> Result<()> {
    check(path, scored)?;
    write_rows(path, scored)
}

/// Writes scores in place of those of their kinds; those of the other kind stay, where they are of these outcomes. Returns all.
///
/// # Errors
/// As [`read`] and [`write()`].
pub fn update(path: &Path, outcomes: &[Outcome], scored: &[Scored]) -> Result<Vec<Scored>> {
    let is_anew = |row: &Scored| scored.iter().any(|anew| anew.kind == row.kind);
    let mut all = kept(path, WHAT, outcomes, is_anew)?;
    all.extend_from_slice(scored);
    all.sort_by_key(|row| row.kind);
    write(path, &all)?;
    Ok(all)
}

/// Reads all scores.
///
/// # Errors
/// When the file cannot be read, or a row is no score.
pub fn read(path: &Path) -> Result<Vec<Scored>> {
    Ok(read_hashed(path)?.0)
}

/// Reads all scores, and gives `sha256:` and the hash of the bytes that were read.
///
/// # Errors
/// As [`read`].
pub fn read_hashed(path: &Path) -> Result<(Vec<Scored>, String)> {
    let (scored, hash) = read_rows_hashed(path, WHAT)?;
    check(path, &scored)?;
    Ok((scored, hash))
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
            fingerprint: String::new(),
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
    #[test]
    fn costs_come_beside_rewards_and_scores_of_other_texts_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores.jsonl");
        let item = crate::Item {
            id: "7".into(),
            ..crate::Item::default()
        };
        let mut outcomes = [Outcome {
            item,
            output: "c".into(),
            ..Outcome::default()
        }];
        let of = |outcome: &Outcome, kind| Scored {
            id: "7".into(),
            dataset: String::new(),
            upstream: String::new(),
            aligner: String::new(),
            fingerprint: outcome.fingerprint(),
            kind,
            ..scored(1.0)
        };
        let cost = of(&outcomes[0], ScoreKind::Cost);
        update(&path, &outcomes, std::slice::from_ref(&cost)).unwrap();
        let reward = of(&outcomes[0], ScoreKind::Reward);
        let all = update(&path, &outcomes, std::slice::from_ref(&reward)).unwrap();
        assert_eq!(all, [reward, cost.clone()]);
        assert_eq!(read(&path).unwrap(), all);
        // The correction is another one now: the reward of the old one is of no use.
        outcomes[0].output = "d".into();
        let cost = of(&outcomes[0], ScoreKind::Cost);
        assert_eq!(
            update(&path, &outcomes, std::slice::from_ref(&cost)).unwrap(),
            [cost]
        );
    }
}
