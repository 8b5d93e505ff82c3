//! A text that grows, cut into sentences as they end.

/// Characters of a sentence at least: an abbreviation or a number is none, and a few words give an Aligner nothing to go by.
const SHORTEST: usize = 24;

/// What may end a sentence.
const ENDS: [char; 8] = ['.', '!', '?', '\n', '。', '！', '？', '…'];

/// A stretch of the text: what may be corrected, and white space behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub text: String,
    pub gap: String,
    /// Whether it is code between fences, which is not corrected.
    pub is_code: bool,
}

/// Cuts a growing text.
#[derive(Debug, Default)]
pub(crate) struct Segmenter {
    rest: String,
    /// Bytes of the rest in which no end was found.
    looked: usize,
}

impl Segmenter {
    /// More text; gives what has ended with it.
    pub fn push(&mut self, text: &str) -> Vec<Segment> {
        self.rest.push_str(text);
        let mut ended = Vec::new();
        while let Some(end) = self.end() {
            let behind = self.rest.split_off(end);
            ended.extend(segment(&std::mem::replace(&mut self.rest, behind)));
            self.looked = 0;
        }
        ended
    }

    /// What is left at the end.
    pub fn finish(self) -> Option<Segment> {
        segment(&self.rest)
    }

    /// Where the first sentence ends, white space behind it included, once something follows it.
    fn end(&mut self) -> Option<usize> {
        let text = &self.rest;
        if text.trim_start().starts_with("```") {
            let start = text.len() - text.trim_start().len() + 3;
            let fence = start + text[start..].find("\n```")? + 4;
            // Until the line of the closing fence has ended.
            return text[fence..].find('\n').map(|line| fence + line + 1);
        }
        let begin = text.len() - text.trim_start().len();
        let mut at = self.looked.max(begin);
        while let Some(found) = text[at..].find(ENDS) {
            let place = at + found;
            let letter = text[place..].chars().next()?;
            let mut end = place + letter.len_utf8();
            let closers = |letter: char| {
                matches!(
                    letter,
                    '"' | '\'' | ')' | ']' | '”' | '’' | '»' | '.' | '!' | '?' | '*'
                )
            };
            end += text[end..]
                .chars()
                .take_while(|&letter| closers(letter))
                .map(char::len_utf8)
                .sum::<usize>();
            let space = text[end..].len() - text[end..].trim_start().len();
            let follows = end + space < text.len();
            let is_wide = matches!(letter, '。' | '！' | '？');
            let is_break = letter == '\n' || is_wide || space > 0;
            let before = &text[begin..place];
            let is_long = before.chars().count() >= if is_wide { SHORTEST / 3 } else { SHORTEST };
            let at_fence = text[end..].trim_start().starts_with("```");
            if is_break && follows && (is_long || at_fence && !before.trim().is_empty()) {
                return Some(end + space);
            }
            if !follows {
                // Whether it is an end is known when something follows.
                self.looked = place;
                return None;
            }
            at = end;
        }
        self.looked = text.len();
        None
    }
}

fn segment(text: &str) -> Option<Segment> {
    let trimmed = text.trim_end();
    (!text.is_empty()).then(|| Segment {
        text: trimmed.to_string(),
        gap: text[trimmed.len()..].to_string(),
        is_code: trimmed.trim_start().starts_with("```") || trimmed.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&str]) -> Vec<Segment> {
        let mut segmenter = Segmenter::default();
        let mut all: Vec<Segment> = pieces.iter().flat_map(|piece| segmenter.push(piece)).collect();
        all.extend(segmenter.finish());
        all
    }

    fn texts(pieces: &[&str]) -> Vec<String> {
        cut(pieces).into_iter().map(|segment| segment.text).collect()
    }

    #[test]
    fn sentences_end_where_one_would_say_so() {
        assert_eq!(
            texts(&[
                "The sun is a star, e.g. like 3.14 others. It is quite",
                " hot at the surface! Yes. And so on"
            ]),
            [
                "The sun is a star, e.g. like 3.14 others.",
                "It is quite hot at the surface!",
                "Yes. And so on"
            ]
        );
        assert_eq!(
            texts(&["太阳是一颗恒星，它非常热。它离我们很远很远。"]),
            ["太阳是一颗恒星，它非常热。", "它离我们很远很远。"]
        );
        assert_eq!(
            texts(&["- the first item of a list\n- the second item of it\n"]),
            ["- the first item of a list", "- the second item of it"]
        );
    }

    #[test]
    fn code_between_fences_is_one_stretch() {
        let all = cut(&[
            "This lists what is there:\n```sh\nls. And more.\n\ncd x\n",
            "```\nThen go on with the rest of it.",
        ]);
        let kinds: Vec<_> = all.iter().map(|segment| segment.is_code).collect();
        assert_eq!(kinds, [false, true, false], "{all:?}");
        assert_eq!(all[1].text, "```sh\nls. And more.\n\ncd x\n```");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_where_the_text_was_cut_does_not_matter(
            text in "([a-z]{1,9}[ .!?\n]{0,2}|```\n?|。|ü){0,60}",
            cut_at in 0usize..400,
        ) {
            let mut cut_at = cut_at.min(text.len());
            while !text.is_char_boundary(cut_at) { cut_at -= 1; }
            let whole = cut(&[&text]);
            let joined: String = whole.iter().map(|segment| format!("{}{}", segment.text, segment.gap)).collect();
            prop_assert_eq!(&joined, &text);
            let parts = cut(&[&text[..cut_at], &text[cut_at..]]);
            let joined: String = parts.iter().map(|segment| format!("{}{}", segment.text, segment.gap)).collect();
            prop_assert_eq!(&joined, &text);
        }
    }
}
