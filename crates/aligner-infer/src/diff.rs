//! What a correction changed, by words.

use serde::{Deserialize, Serialize};
use similar::{Algorithm, ChangeTag, TextDiff};

/// What happened to a stretch of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EditOp {
    /// In both.
    Keep,
    /// In the answer only.
    Delete,
    /// In the correction only.
    Insert,
}

/// A stretch of text and what happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// What happened.
    pub op: EditOp,
    /// The text.
    pub text: String,
}

/// The edits that turn `answer` into `correction`, by words and the white space between them.
///
/// Nothing is lost: kept and deleted stretches joined are the answer, kept and inserted ones the correction.
///
/// ```
/// use aligner_infer::{EditOp, diff};
/// let edits = diff("two plus two is five", "two plus two is four");
/// assert_eq!(edits[0].text, "two plus two is ");
/// assert_eq!((edits[1].op, edits[1].text.as_str()), (EditOp::Delete, "five"));
/// ```
pub fn diff(answer: &str, correction: &str) -> Vec<Edit> {
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .diff_words(answer, correction);
    let mut edits: Vec<Edit> = Vec::new();
    for change in diff.iter_all_changes() {
        let op = match change.tag() {
            ChangeTag::Equal => EditOp::Keep,
            ChangeTag::Delete => EditOp::Delete,
            ChangeTag::Insert => EditOp::Insert,
        };
        match edits.last_mut() {
            Some(last) if last.op == op => last.text.push_str(change.value()),
            _ => edits.push(Edit {
                op,
                text: change.value().to_string(),
            }),
        }
    }
    edits
}

/// How much was changed: 0 for a copy, 1 when no word was kept.
///
/// `1 − 2·kept / (words of the answer + words of the correction)`; white space does not count.
pub fn edit_ratio(edits: &[Edit]) -> f64 {
    let (mut kept, mut changed) = (0usize, 0usize);
    for edit in edits {
        let words = edit.text.split_whitespace().count();
        match edit.op {
            EditOp::Keep => kept += words,
            EditOp::Delete | EditOp::Insert => changed += words,
        }
    }
    if kept + changed == 0 {
        0.0
    } else {
        changed as f64 / (2 * kept + changed) as f64
    }
}

/// Whether the correction is the answer, white space at the ends aside.
pub fn is_copy(answer: &str, correction: &str) -> bool {
    answer.trim() == correction.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(edits: &[Edit], without: EditOp) -> String {
        edits
            .iter()
            .filter(|edit| edit.op != without)
            .map(|edit| edit.text.as_str())
            .collect()
    }

    #[test]
    fn nothing_is_lost() {
        for (answer, correction) in [
            ("a b  c\n", "a  x c"),
            ("", "new"),
            ("gone", ""),
            ("Grüße, 世界", "Grüße, 🦀"),
            ("", ""),
            (" ", "  "),
        ] {
            let edits = diff(answer, correction);
            assert_eq!(joined(&edits, EditOp::Insert), answer);
            assert_eq!(joined(&edits, EditOp::Delete), correction);
        }
    }

    #[test]
    fn the_ratio_is_the_share_of_changed_words() {
        let ratio = |answer, correction| edit_ratio(&diff(answer, correction));
        assert_eq!(ratio("a b c d", "a b c d"), 0.0);
        assert_eq!(ratio("a b", "c d"), 1.0);
        assert_eq!(ratio("a b c d", "a b c x"), 0.25);
        assert_eq!(ratio("", ""), 0.0);
        assert_eq!(ratio("", "new words"), 1.0);
    }

    #[test]
    fn white_space_at_the_ends_does_not_make_a_change() {
        assert!(is_copy("same\n", " same"));
        assert!(!is_copy("same", "Same"));
    }
}
