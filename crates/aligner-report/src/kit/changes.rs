//! What a correction changed, as HTML.

use std::fmt;

use aligner_data::{Edit, EditOp, diff};

use super::text::Escaped;

/// Edits as HTML: what was taken out in `<del>`, what was put in in `<ins>`, all else as it is.
///
/// Without one kind of edit it is one side of a comparison: without [`EditOp::Insert`] the answer, without
/// [`EditOp::Delete`] the correction.
#[derive(Debug, Clone, Copy)]
pub struct Edits<'a> {
    /// What [`diff`] gave.
    pub edits: &'a [Edit],
    /// What is left out.
    pub without: Option<EditOp>,
}

impl fmt::Display for Edits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for edit in self.edits.iter().filter(|edit| Some(edit.op) != self.without) {
            let text = Escaped(&edit.text);
            match edit.op {
                EditOp::Keep => write!(f, "{text}")?,
                EditOp::Delete => write!(f, "<del>{text}</del>")?,
                EditOp::Insert => write!(f, "<ins>{text}</ins>")?,
            }
        }
        Ok(())
    }
}

/// What became of an answer, in one text with its changes.
pub fn changes(answer: &str, correction: &str) -> String {
    let edits = diff(answer, correction);
    Edits {
        edits: &edits,
        without: None,
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_has_its_own_changes_alone() {
        let edits = diff("a <b> c", "a <i> c");
        let side = |without| {
            Edits {
                edits: &edits,
                without: Some(without),
            }
            .to_string()
        };
        assert_eq!(side(EditOp::Insert), "a <del>&lt;b&gt;</del> c");
        assert_eq!(side(EditOp::Delete), "a <ins>&lt;i&gt;</ins> c");
        assert_eq!(
            changes("a <b> c", "a <i> c"),
            "a <del>&lt;b&gt;</del><ins>&lt;i&gt;</ins> c"
        );
    }
}
