//! Where the rows that a finding names stand.

use serde::Serialize;

/// A row of one of the files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RowRef {
    /// The file.
    pub file: String,
    /// The row, counted from 0 (as `data show --row` counts).
    pub row: u64,
}

impl std::fmt::Display for RowRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} row {}", self.file, self.row)
    }
}

/// A row, and the part of it that shows what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowExample {
    /// The row.
    #[serde(flatten)]
    pub place: RowRef,
    /// Of which field, and what was found in it.
    pub what: String,
    /// The text there, shortened.
    pub text: String,
}

/// Two rows that are alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairExample {
    /// The earlier row; of a leak, the training row.
    pub first: RowRef,
    /// The later row; of a leak, the validation row.
    pub second: RowRef,
    /// From 0 to 1; 1: the same words.
    pub similarity: f64,
    /// The first row's text, shortened around the first difference; empty where the file cannot be read twice (a pipe).
    pub first_text: String,
    /// The second row's text.
    pub second_text: String,
}

/// A row while checking: file and row in 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    /// Index among all files, the validation files behind the others.
    pub(super) file: u32,
    /// The row.
    pub(super) row: u32,
}

impl Place {
    pub(super) fn new(file: usize, row: u64) -> Self {
        Self {
            file: u32::try_from(file).unwrap_or(u32::MAX),
            row: u32::try_from(row).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn named(self, files: &[String]) -> RowRef {
        RowRef {
            file: files.get(self.file as usize).cloned().unwrap_or_default(),
            row: u64::from(self.row),
        }
    }
}

/// Characters shown of a text.
const SHOWN: usize = 110;

/// The text from `start` (in characters), on one line and shortened.
pub(super) fn excerpt(text: &str, start: usize) -> String {
    let mut shown = String::new();
    if start > 0 {
        shown.push('…');
    }
    let mut letters = text.chars().skip(start);
    for letter in letters.by_ref().take(SHOWN) {
        match letter {
            '\n' => shown.push('⏎'),
            // What cannot be seen, and what would change the terminal, is written out.
            _ if letter.is_control() || super::oddities::is_invisible(letter) => {
                shown.extend(letter.escape_unicode())
            }
            _ => shown.push(letter),
        }
    }
    if letters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Both texts from a little before they first differ.
pub(super) fn excerpts(first: &str, second: &str) -> (String, String) {
    let same = first
        .chars()
        .zip(second.chars())
        .take_while(|(a, b)| a == b)
        .count();
    let whole = first.chars().count().max(second.chars().count()) <= SHOWN;
    let start = if whole { 0 } else { same.saturating_sub(40) };
    (excerpt(first, start), excerpt(second, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_line_and_shows_what_cannot_be_seen() {
        assert_eq!(excerpt("a\nb\u{1b}[2J\u{202e}", 0), "a⏎b\\u{1b}[2J\\u{202e}");
        let long = excerpt(&"x".repeat(500), 3);
        assert_eq!(
            (long.chars().count(), long.starts_with('…'), long.ends_with('…')),
            (SHOWN + 2, true, true)
        );
    }

    #[test]
    fn two_texts_are_shown_where_they_differ() {
        let (a, b) = (
            format!("{}one", "x ".repeat(300)),
            format!("{}two", "x ".repeat(300)),
        );
        let (a, b) = excerpts(&a, &b);
        assert!(a.ends_with("one") && b.ends_with("two"), "{a} {b}");
        assert_eq!(excerpts("same", "same"), ("same".into(), "same".into()));
    }
}
