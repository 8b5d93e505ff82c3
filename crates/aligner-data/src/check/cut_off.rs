//! Texts that end unfinished, as generation does that ran into its limit.
//!
//! A text is taken for unfinished when its last line
//! - ends with a comma (behind more than three words; "Kind regards," is an end), with an opening bracket, or with a word
//!   that needs another (the, and, your, because …), or
//! - lacks the full stop that the rest has: the text has at least 40 words, most of its lines of prose end with punctuation,
//!   and the last one, prose too and of at least three words, does not, or
//! - stands in a code block (three backticks) that is not closed.
//!
//! Lists, headings, tables and code end without a full stop; so do the short texts of a data set that writes none. Neither
//! is counted, and a cut that falls behind a full stop cannot be seen. A model that forgets its last full stop is.

/// Words that do not end a sentence.
const NEEDS_ANOTHER: [&str; 19] = [
    "a", "an", "the", "and", "or", "but", "nor", "because", "although", "your", "their", "our", "my", "its",
    "every", "whose", "than", "into", "if",
];
/// Words of a text from which on a missing full stop says something.
const LONG: usize = 40;

/// Whether a text ends unfinished.
pub(super) fn ends_unfinished(text: &str) -> bool {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let Some((last, before)) = lines.split_last() else {
        return false;
    };
    if text.matches("```").count() % 2 == 1 {
        return !last.ends_with(['.', '!', '?', '`']);
    }
    let line = last.trim_end_matches(['*', '_', '`', '"', '\'', '”', '’', '»']);
    if !is_prose(line) {
        return false;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    match line.chars().next_back() {
        Some(',') => words.len() > 3,
        Some('(' | '[' | '{') => true,
        Some(end) if end.is_alphanumeric() => {
            let word = words.last().map(|word| word.to_lowercase()).unwrap_or_default();
            words.len() > 1 && NEEDS_ANOTHER.contains(&word.as_str())
                || words.len() >= 3
                    && text.split_whitespace().nth(LONG - 1).is_some()
                    && punctuated(before, line)
        }
        _ => false,
    }
}

/// Whether this text writes full stops: most lines of prose end with one, or there is one within the last line.
fn punctuated(before: &[&str], last: &str) -> bool {
    let prose: Vec<&&str> = before
        .iter()
        .filter(|line| is_prose(line) && line.contains(' '))
        .collect();
    let ended = prose
        .iter()
        .filter(|line| !line.ends_with(char::is_alphanumeric))
        .count();
    if prose.is_empty() {
        return [". ", "! ", "? "].iter().any(|end| last.contains(end));
    }
    2 * ended > prose.len()
}

/// Whether a line is no list item, heading, table row, quotation, code or address.
fn is_prose(line: &str) -> bool {
    let marked = line.starts_with([
        '-', '*', '•', '#', '|', '>', '+', '–', '—', '`', '<', '$', '\\', '{', '}', '(', '[',
    ]);
    let number = line.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let numbered = number.len() < line.len() && number.starts_with(['.', ')', ':']);
    let last = line.split_whitespace().next_back().unwrap_or_default();
    let address = last.contains("://") || last.contains('@') || last.starts_with(['#', '/']);
    let labelled = line
        .split_once(':')
        .is_some_and(|(label, _)| label.split_whitespace().count() <= 3);
    let code = ["//", "();", "</", " = ", "=>", "::"]
        .iter()
        .any(|sign| line.contains(sign));
    !(marked || numbered || address || labelled || code || line.ends_with(';'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_texts_are_found() {
        let long = "This is a sentence of eight whole words. ".repeat(6);
        for text in [
            "He went to the shop and bought the".to_string(),
            "First we boil the water, then we add the eggs,".to_string(),
            "There are several ways (".to_string(),
            "Here it is:\n```rust\nfn main() {".to_string(),
            format!("{long}And then he went to see whether"),
            format!("{long}\n\n{long}\n\nAnd then he went to see whether"),
        ] {
            assert!(ends_unfinished(&text), "{text}");
        }
    }

    #[test]
    fn texts_that_end_in_their_way_are_not() {
        let long = "This is a sentence of eight whole words. ".repeat(6);
        for text in [
            "",
            "  \n",
            "The watermelon seeds pass through your digestive system",
            "It is over.",
            "It is over.\"",
            "It is *over.*",
            "Kind regards,",
            "```\ncode\n```",
            "Write ``` before it, as I did.",
            &format!("{long}\n\nlet x = call(y) // and the"),
            "What else?\n- one\n- two and the",
            &format!("{long}\n\n- the last item of a list"),
            &format!("{long}\n\n3. the last item of a list"),
            &format!("{long}\n\nName: the last line of a form"),
            &format!("{long}\n\nBest regards"),
            &format!("{long} See https://example.org/the"),
            &"a text that never writes a full stop ".repeat(8),
            &"a poem has its lines and ends them bare\n".repeat(8),
        ] {
            assert!(!ends_unfinished(text), "{text}");
        }
    }
}
