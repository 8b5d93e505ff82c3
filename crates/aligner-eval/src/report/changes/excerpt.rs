//! Long texts, shortened to what was changed and what is around it.

use aligner_data::{Edit, EditOp};
use aligner_report::kit::shortened;

/// Characters of what stayed that are shown before and behind a change.
const AROUND: usize = 160;
/// Characters of one stretch that was taken out or put in.
const CHANGED: usize = 1200;
/// Characters of an answer and its correction together, after which only the number of the rest is told.
const MOST: usize = 5000;
/// How far a cut moves to fall between words.
const WORD: usize = 24;
/// Fewer characters than this are not worth a gap.
const LEAST_GAP: usize = 80;

/// A piece of a text that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Piece {
    /// Text.
    Text(Edit),
    /// What is left out.
    Gap { op: EditOp, chars: usize },
}

/// The beginning of a text, cut between words where there are any.
pub(super) fn beginning(text: &str, most_chars: usize) -> &str {
    let (cut, more) = shortened(text, most_chars);
    if more {
        &text[..boundary(text, cut.len())]
    } else {
        text
    }
}

/// The end of a text, cut likewise.
fn ending(text: &str, most_chars: usize) -> &str {
    let start = text.char_indices().rev().nth(most_chars.saturating_sub(1));
    start.map_or(text, |(start, _)| &text[boundary(text, start)..])
}

/// A place to cut near `at`, not behind it: before white space or, where there is none, not inside of what is one sign.
fn boundary(text: &str, at: usize) -> usize {
    let before = text[..at].char_indices().rev().take(WORD);
    if let Some((place, _)) = before.clone().find(|(_, c)| c.is_whitespace()) {
        return place;
    }
    let mut place = at;
    for (start, c) in before {
        let joins = text[place..].chars().next().is_some_and(joins) || c == '\u{200d}';
        if !joins {
            return place;
        }
        place = start;
    }
    place
}

/// Whether a character belongs to the one before it: marks, variants, skin tones, what joins emoji.
fn joins(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}' | '\u{610}'..='\u{61a}'
        | '\u{64b}'..='\u{65f}' | '\u{900}'..='\u{903}' | '\u{93a}'..='\u{94f}' | '\u{e31}' | '\u{e34}'..='\u{e3a}'
        | '\u{e47}'..='\u{e4e}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{200d}'
        | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{fe20}'..='\u{fe2f}' | '\u{1f3fb}'..='\u{1f3ff}'
        | '\u{e0020}'..='\u{e007f}' | '\u{e0100}'..='\u{e01ef}')
}

/// The edits, shortened.
pub(super) fn pieces(edits: &[Edit]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut left = MOST;
    let mut rest = [(EditOp::Keep, 0), (EditOp::Delete, 0), (EditOp::Insert, 0)];
    for (index, edit) in edits.iter().enumerate() {
        if left == 0 {
            let rest = rest.iter_mut().find(|(op, _)| *op == edit.op);
            rest.into_iter()
                .for_each(|(_, chars)| *chars += edit.text.chars().count());
            continue;
        }
        let (head, tail) = match edit.op {
            EditOp::Keep => (
                if index == 0 { 0 } else { AROUND },
                if index + 1 == edits.len() { 0 } else { AROUND },
            ),
            EditOp::Delete | EditOp::Insert => (CHANGED.min(left.max(AROUND)), 0),
        };
        left = left.saturating_sub(fold(edit, head, tail, &mut pieces));
    }
    let gaps = rest.into_iter().filter(|(_, chars)| *chars > 0);
    pieces.extend(gaps.map(|(op, chars)| Piece::Gap { op, chars }));
    pieces
}

/// An edit with its beginning and its end, and a gap between them; gives the characters that are shown.
fn fold(edit: &Edit, head: usize, tail: usize, pieces: &mut Vec<Piece>) -> usize {
    let chars = edit.text.chars().count();
    if chars <= head + tail + LEAST_GAP {
        pieces.push(Piece::Text(edit.clone()));
        return chars;
    }
    let first = if head == 0 {
        ""
    } else {
        beginning(&edit.text, head)
    };
    let last = if tail == 0 { "" } else { ending(&edit.text, tail) };
    let (first_chars, last_chars) = (first.chars().count(), last.chars().count());
    let text = |text: &str| {
        Piece::Text(Edit {
            op: edit.op,
            text: text.to_string(),
        })
    };
    if !first.is_empty() {
        pieces.push(text(first));
    }
    pieces.push(Piece::Gap {
        op: edit.op,
        chars: chars.saturating_sub(first_chars + last_chars),
    });
    if !last.is_empty() {
        pieces.push(text(last));
    }
    first_chars + last_chars
}

#[cfg(test)]
mod tests {
    use super::*;
    use aligner_data::diff;

    fn shown(pieces: &[Piece]) -> (usize, usize) {
        pieces.iter().fold((0, 0), |(text, gap), piece| match piece {
            Piece::Text(edit) => (text + edit.text.chars().count(), gap),
            Piece::Gap { chars, .. } => (text, gap + chars),
        })
    }

    #[test]
    fn a_small_change_in_a_long_text_is_shown_with_what_is_around_it() {
        let words = "lorem ipsum ".repeat(500);
        let edits = diff(&format!("{words}old {words}"), &format!("{words}new {words}"));
        let pieces = pieces(&edits);
        let (text, gap) = shown(&pieces);
        assert!((200..600).contains(&text), "{text}");
        assert_eq!(text + gap, 12_000 + "old".len() + "new".len() + 1);
        assert!(matches!(&pieces[0], Piece::Gap { op: EditOp::Keep, .. }));
        assert!(
            pieces
                .iter()
                .any(|piece| matches!(piece, Piece::Text(edit) if edit.text.contains("new")))
        );
    }

    #[test]
    fn a_rewritten_text_is_shown_up_to_a_limit_and_nothing_is_lost_from_the_count() {
        let old: String = (0..9000).map(|n| format!("o{n} ")).collect();
        let new: String = (0..9000)
            .map(|n| {
                if n % 9 == 0 {
                    format!("o{n} ")
                } else {
                    format!("n{n} ")
                }
            })
            .collect();
        let edits = diff(&old, &new);
        let whole: usize = edits.iter().map(|edit| edit.text.chars().count()).sum();
        let (text, gap) = shown(&pieces(&edits));
        assert!(text < MOST + CHANGED + AROUND, "{text}");
        assert_eq!(text + gap, whole);
    }

    #[test]
    fn a_cut_leaves_signs_whole() {
        let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
        assert_eq!(beginning(&format!("xx{family}"), 5), "xx");
        assert_eq!(beginning("aae\u{301}b", 3), "aa");
        assert_eq!(beginning("one two three", 9), "one two");
        assert_eq!(beginning("one", 9), "one");
        assert_eq!(ending("one two three", 4), " three");
        assert_eq!(ending("one", 4), "one");
    }
}
