//! What a correction changed, by words.

use serde::{Deserialize, Serialize};
use similar::{Algorithm, DiffTag, capture_diff_slices};

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
/// use aligner_data::{EditOp, diff};
/// let edits = diff("two plus two is five", "two plus two is four");
/// assert_eq!(edits[0].text, "two plus two is ");
/// assert_eq!((edits[1].op, edits[1].text.as_str()), (EditOp::Delete, "five"));
/// ```
pub fn diff(answer: &str, correction: &str) -> Vec<Edit> {
    let (old, new) = (words(answer), words(correction));
    let texts = |words: &[Word<'_>]| words.iter().map(|word| word.text.to_string()).collect::<Vec<_>>();
    let mut edits = Edits::default();
    for op in capture_diff_slices(Algorithm::Myers, &texts(&old.0), &texts(&new.0)) {
        let (tag, from, to) = op.as_tag_tuple();
        let (from, to) = (&old.0[from], &new.0[to]);
        if tag == DiffTag::Equal {
            for (from, to) in from.iter().zip(to) {
                edits.gap(from.gap, to.gap);
                edits.keep(from.text);
            }
            continue;
        }
        match (from.first(), to.first()) {
            (Some(from), Some(to)) => edits.gap(from.gap, to.gap),
            (from, to) => {
                edits.deleted.push_str(from.map_or("", |word| word.gap));
                edits.inserted.push_str(to.map_or("", |word| word.gap));
            }
        }
        write_words(from, &mut edits.deleted);
        write_words(to, &mut edits.inserted);
    }
    edits.gap(old.1, new.1);
    edits.finish()
}

/// A run of characters that are not white space, and the white space before it.
struct Word<'a> {
    gap: &'a str,
    text: &'a str,
}

/// The words of a text and the white space behind the last one.
fn words(mut text: &str) -> (Vec<Word<'_>>, &str) {
    let mut words = Vec::new();
    loop {
        let start = text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len());
        let (gap, rest) = text.split_at(start);
        if rest.is_empty() {
            return (words, gap);
        }
        let (word, rest) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
        words.push(Word { gap, text: word });
        text = rest;
    }
}

/// The words with the white space between them.
fn write_words(words: &[Word<'_>], out: &mut String) {
    for (index, word) in words.iter().enumerate() {
        out.push_str(if index == 0 { "" } else { word.gap });
        out.push_str(word.text);
    }
}

/// Edits as they are written: at most one deletion and one insertion between two stretches that are kept.
#[derive(Default)]
struct Edits {
    done: Vec<Edit>,
    deleted: String,
    inserted: String,
}

impl Edits {
    fn push(&mut self, op: EditOp, text: &str) {
        match self.done.last_mut() {
            _ if text.is_empty() => {}
            Some(last) if last.op == op => last.text.push_str(text),
            _ => self.done.push(Edit {
                op,
                text: text.to_string(),
            }),
        }
    }

    fn keep(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let (deleted, inserted) = (
            std::mem::take(&mut self.deleted),
            std::mem::take(&mut self.inserted),
        );
        self.push(EditOp::Delete, &deleted);
        self.push(EditOp::Insert, &inserted);
        self.push(EditOp::Keep, text);
    }

    fn gap(&mut self, from: &str, to: &str) {
        if from == to {
            return self.keep(from);
        }
        self.deleted.push_str(from);
        self.inserted.push_str(to);
    }

    fn finish(mut self) -> Vec<Edit> {
        let (deleted, inserted) = (
            std::mem::take(&mut self.deleted),
            std::mem::take(&mut self.inserted),
        );
        self.push(EditOp::Delete, &deleted);
        self.push(EditOp::Insert, &inserted);
        self.done
    }
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
