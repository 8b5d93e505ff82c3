//! Where a long text is best cut: behind a paragraph, before a list item, behind a sentence, between words.
//!
//! The rules are simple on purpose: a wrong cut costs a window some context and nothing else.

/// Kinds of places to cut at; the later, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// White space in code, the first and the last line of a block of code.
    CodeWord,
    /// White space.
    Word,
    /// A line's end, in code too.
    Line,
    /// A sentence's end; a blank line in code.
    Sentence,
    /// Before a list item, a heading, a row of a table, and around a block of code.
    Block,
    /// A blank line.
    Paragraph,
}

/// Where to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes before the cut; white space stands behind it, if any.
    pub end: usize,
    /// Whether the cut is inside a fenced block of code.
    pub in_code: bool,
}

/// The best place in the second half of the first `reach` bytes of a text, of the places that are as good the last.
///
/// `text` neither begins nor ends with white space, `reach` is at least its first character and between two characters; `in_code` says
/// whether it begins inside a fenced block of code.
pub(crate) fn last_cut(text: &str, reach: usize, in_code: bool) -> Cut {
    let mut scan = Scan {
        text,
        reach,
        best: None,
        in_code,
        line: LineKind::Plain,
    };
    scan.begin_line(0);
    let mut chars = text.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        if at > reach {
            break;
        }
        if !char.is_whitespace() {
            if is_wide_end(char) && !scan.in_code {
                scan.offer(behind_closers(text, at + char.len_utf8()), Place::Sentence);
            }
            continue;
        }
        let mut behind = at + char.len_utf8();
        while let Some((next, space)) = chars.next_if(|(_, next)| next.is_whitespace()) {
            behind = next + space.len_utf8();
        }
        scan.white_space(at, behind);
    }
    if reach == text.len() {
        scan.offer(reach, Place::Paragraph);
    }
    match scan.best {
        Some((_, cut)) => cut,
        None => Cut {
            end: text[..character_cut(text, reach)].trim_end().len(),
            in_code: scan.in_code,
        },
    }
}

/// Characters that a rule looks ahead: a text of full stops alone must not be read to its end at each of them.
const LOOK_AHEAD: usize = 64;

/// What a line is to the blocks of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineKind {
    Plain,
    OpensCode,
    ClosesCode,
}

struct Scan<'a> {
    text: &'a str,
    reach: usize,
    best: Option<(Place, Cut)>,
    in_code: bool,
    line: LineKind,
}

impl Scan<'_> {
    fn offer(&mut self, end: usize, place: Place) {
        let is_near = end > self.reach / 2 && end <= self.reach;
        if is_near && self.best.is_none_or(|(best, _)| place >= best) {
            let in_code = self.in_code;
            self.best = Some((place, Cut { end, in_code }));
        }
    }

    /// Looks at a run of white space, the places between two words.
    fn white_space(&mut self, start: usize, behind: usize) {
        let space = &self.text[start..behind];
        let lines = space.matches('\n').count();
        let place = match lines {
            0 if self.in_code => Place::CodeWord,
            0 if ends_sentence(&self.text[..start], &self.text[behind..]) => Place::Sentence,
            0 => Place::Word,
            _ => self.line_end(start, behind, lines > 1),
        };
        self.offer(start, place);
        if lines > 0 {
            self.begin_line(behind);
        }
    }

    fn line_end(&self, start: usize, behind: usize, is_blank: bool) -> Place {
        let next = &self.text[behind..];
        match (self.in_code, is_blank) {
            (true, _) if self.line == LineKind::OpensCode || is_fence(next) => Place::CodeWord,
            (true, true) => Place::Sentence,
            (true, false) => Place::Line,
            (false, true) => Place::Paragraph,
            _ if self.line == LineKind::ClosesCode || is_fence(next) || is_block(next) => Place::Block,
            _ if ends_sentence(&self.text[..start], next) => Place::Sentence,
            _ => Place::Line,
        }
    }

    fn begin_line(&mut self, at: usize) {
        self.line = match (is_fence(&self.text[at..]), self.in_code) {
            (false, _) => LineKind::Plain,
            (true, false) => LineKind::OpensCode,
            (true, true) => LineKind::ClosesCode,
        };
        self.in_code = match self.line {
            LineKind::Plain => self.in_code,
            LineKind::OpensCode => true,
            LineKind::ClosesCode => false,
        };
    }
}

fn is_fence(line: &str) -> bool {
    line.starts_with("```") || line.starts_with("~~~")
}

/// Whether a line begins a list item, a heading, a quotation or a row of a table.
fn is_block(line: &str) -> bool {
    let marked = ["- ", "* ", "+ ", "• ", "#", ">", "|"];
    if marked.iter().any(|mark| line.starts_with(mark)) {
        return true;
    }
    let number = line.bytes().take(4).take_while(u8::is_ascii_digit).count();
    number > 0 && (line[number..].starts_with(". ") || line[number..].starts_with(") "))
}

/// Marks that end a sentence without white space behind them.
fn is_wide_end(char: char) -> bool {
    matches!(char, '。' | '｡' | '！' | '？' | '．')
}

fn is_closer(char: char) -> bool {
    matches!(
        char,
        '"' | '\'' | ')' | ']' | '}' | '*' | '_' | '»' | '”' | '’' | '」' | '』' | '）' | '】' | '》'
    )
}

/// The place behind the quotation marks and brackets that close at `at`, and further ends of the same sentence.
fn behind_closers(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    let closers = rest
        .chars()
        .take(LOOK_AHEAD)
        .take_while(|&char| is_closer(char) || is_wide_end(char));
    at + closers.map(char::len_utf8).sum::<usize>()
}

/// Whether a sentence ends between `before` and `after`, which white space parts.
fn ends_sentence(before: &str, after: &str) -> bool {
    let bare = before.trim_end_matches(is_closer);
    match bare.chars().next_back() {
        Some('!' | '?' | '…' | '؟' | '।' | '۔') => {}
        Some('.') if !is_abbreviated(bare) => {}
        Some(char) if is_wide_end(char) => return true,
        _ => return false,
    }
    // "… and so on." she said.
    let next = after.chars().take(LOOK_AHEAD).find(|char| char.is_alphanumeric());
    !next.is_some_and(char::is_lowercase)
}

/// Whether the full stop at the end of `text` belongs to its last word: `Dr.`, `e.g.`, `J.`, and `3.` before a list item.
fn is_abbreviated(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let start = text.rfind(|char: char| char.is_whitespace() || matches!(char, '(' | '[' | '"' | '“'));
    let word = &text[start.map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8))..];
    let line = text[..text.len() - word.len()].trim_end_matches([' ', '\t']);
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return line.is_empty() || line.ends_with('\n');
    }
    let mut letters = word.chars();
    let is_initial = letters.next().is_some_and(char::is_uppercase) && letters.next().is_none();
    is_initial || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

/// Abbreviations that a capital letter may follow inside a sentence, without their last full stop.
const ABBREVIATIONS: &[&str] = &[
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "rev", "hon", "gen", "col", "capt", "lt", "sgt",
    "gov", "sen", "rep", "mt", "ft", "nr", "vol", "fig", "eq", "sec", "ch", "pp", "ed", "eds", "cf", "vs",
    "viz", "approx", "e.g", "i.e", "z.b", "u.s", "a.m", "p.m",
];

/// The last place up to `reach` that does not part a character from what is drawn over or joined to it.
fn character_cut(text: &str, reach: usize) -> usize {
    let belongs_together =
        |at: usize| text[at..].chars().next().is_some_and(is_mark) || text[..at].ends_with('\u{200d}');
    let mut at = reach;
    // A "character" of dozens of marks is cut all the same.
    for _ in 0..32 {
        if !belongs_together(at) {
            return at;
        }
        match text[..at].chars().next_back() {
            Some(last) if at > last.len_utf8() => at -= last.len_utf8(),
            _ => break,
        }
    }
    reach
}

/// Accents, joiners, variation selectors and skin tones: they change the character before them.
fn is_mark(char: char) -> bool {
    matches!(
        char,
        '\u{300}'..='\u{36f}' | '\u{200d}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text before the best cut in the whole text but its last character.
    fn before_cut(text: &str) -> &str {
        let reach = text.char_indices().next_back().unwrap().0;
        &text[..last_cut(text, reach, false).end]
    }

    #[test]
    fn a_sentence_ends_where_a_reader_would_say() {
        for (text, want) in [
            ("One two three. Four five six", "One two three."),
            (
                "He asked Dr. Smith about it. Then he went",
                "He asked Dr. Smith about it.",
            ),
            (
                "So it all ends right now! \"Really?\" she asked",
                "So it all ends right now!",
            ),
            (
                "It was J. R. R. Tolkien who wrote it, you know",
                "It was J. R. R. Tolkien who wrote it, you",
            ),
            (
                "Pi is 3.14159 and e is 2.71828 and that is it",
                "Pi is 3.14159 and e is 2.71828 and that is",
            ),
            (
                "They came at 5 p.m. Monday. Nobody waited there",
                "They came at 5 p.m. Monday.",
            ),
            (
                "He said (and meant it.) That was that, then",
                "He said (and meant it.)",
            ),
            ("今日は晴れです。明日は雨でしょう", "今日は晴れです。"),
            ("他说:「好的。」然后他走了出去", "他说:「好的。」"),
            (
                "It was in the year 2001. Then came the rest",
                "It was in the year 2001.",
            ),
        ] {
            assert_eq!(before_cut(text), want);
        }
    }

    #[test]
    fn larger_units_are_kept_whole_where_they_can_be() {
        for (text, want) in [
            (
                "First part. More of it.\n\nSecond part. Some of",
                "First part. More of it.",
            ),
            (
                "Do this:\n1. Wash it well.\n2. Dry it. Then",
                "Do this:\n1. Wash it well.",
            ),
            (
                "- one thing that is here\n- two things. Now",
                "- one thing that is here",
            ),
            (
                "Some text that comes first.\n```\nlet a. B = 1;\n\nlet c",
                "Some text that comes first.",
            ),
            (
                "```\nx = 1\ny = 2\n```\nThat was it. And",
                "```\nx = 1\ny = 2\n```",
            ),
        ] {
            assert_eq!(before_cut(text), want);
        }
    }

    #[test]
    fn code_is_cut_between_lines_and_known_to_be_code() {
        let text = "```\nlet a = \"One. Two\";\nlet b = 2;\nlet cc";
        let cut = last_cut(text, text.len() - 1, false);
        assert_eq!(&text[..cut.end], "```\nlet a = \"One. Two\";\nlet b = 2;");
        assert!(cut.in_code);
        // The next window begins inside the block, so the fence that follows closes it.
        let rest = "let cc = 3;\n```\nDone. And more";
        let cut = last_cut(rest, rest.len() - 1, true);
        assert_eq!((&rest[..cut.end], cut.in_code), ("let cc = 3;\n```", false));
    }

    #[test]
    fn a_word_without_end_is_cut_between_characters() {
        assert_eq!(last_cut("aaaaaaaaaa", 5, false).end, 5);
        let family = "👩\u{200d}👩\u{200d}👧";
        let text = format!("xx{family}yy");
        assert_eq!(last_cut(&text, 2 + 4 + 3, false).end, 2, "not inside the family");
        let accents = format!("e{}", "\u{301}".repeat(60));
        let end = last_cut(&accents, 101, false).end;
        assert!(end > 1 && end <= 101, "{end}");
    }
}
