//! Refusals: texts that begin by declining.
//!
//! A text refuses when a phrase of `refusal_phrases` begins within its first 200 characters, at the beginning of the text or
//! of a clause. The list is made for precision: "I'm sorry to hear that", "I'm not sure", "I don't know" and advice against
//! something ("I wouldn't recommend it") are no refusals, nor are a quotation and a text that begins with "yes" or "sure".
//! Refusals that paraphrase or are not English are not found, so a share is a lower bound. Why a text declines, because it
//! should not or because it cannot, is not told apart.

use serde::Serialize;

use super::place::RowExample;
use super::refusal_phrases::{ACTS, COMPLIES, FILLERS, LEADS, NOT, STARTS, WHOLE};

/// Characters in which a refusal must begin.
const BEGINNING: usize = 200;
/// Characters that are read for the phrase itself.
const READ: usize = BEGINNING + 80;

/// Refusals among answers and corrections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RefusalReport {
    /// Answers that refuse.
    pub answers: u64,
    /// Corrections that refuse.
    pub corrections: u64,
    /// Answer and correction refuse.
    pub kept: u64,
    /// The answer refuses, the correction does not.
    pub removed: u64,
    /// The correction refuses, the answer does not.
    pub added: u64,
    /// Neither refuses.
    pub none: u64,
    /// Some of the rows in which either refuses.
    pub examples: Vec<RowExample>,
}

impl RefusalReport {
    pub(super) fn add(&mut self, refuses: [bool; 2]) {
        let [answer, correction] = refuses;
        self.answers += u64::from(answer);
        self.corrections += u64::from(correction);
        *match refuses {
            [true, true] => &mut self.kept,
            [true, false] => &mut self.removed,
            [false, true] => &mut self.added,
            [false, false] => &mut self.none,
        } += 1;
    }
}

/// Whether a text begins by declining. Made for precision: refusals that paraphrase, or are not in English, are not found.
///
/// ```
/// assert!(aligner_data::refuses("I'm sorry, but I can't help with that."));
/// assert!(!aligner_data::refuses("I'm sorry to hear that."));
/// ```
pub fn refuses(text: &str) -> bool {
    let text = straightened(text);
    let begins_with = |phrase: &&str| after_phrase(text.trim_start_matches('"'), phrase).is_some();
    if COMPLIES.iter().any(begins_with) {
        return false;
    }
    // A quotation says what somebody else says; not the one with which the text begins.
    let (mut quoted, mut own) = (false, text.starts_with('"'));
    for (start, letter) in text.char_indices().take(BEGINNING) {
        if (own || !quoted) && begins_clause(&text[..start]) && declines(&text[start..]) {
            return true;
        }
        if letter == '"' {
            own &= !quoted;
            quoted = !quoted;
        }
    }
    false
}

/// The beginning of a text in lower case, with straight apostrophes and single blanks; line ends become full stops.
fn straightened(text: &str) -> String {
    let mut straight = String::new();
    for letter in text.trim_start().chars().take(READ) {
        match letter {
            '’' | '‘' | '`' | '´' => straight.push('\''),
            '\n' if straight.ends_with(|last: char| last.is_alphanumeric()) => straight.push_str(". "),
            _ if letter.is_whitespace() => {
                if !straight.ends_with(' ') {
                    straight.push(' ');
                }
            }
            '“' | '”' => straight.push('"'),
            '*' | '_' => {}
            _ => straight.extend(letter.to_lowercase()),
        }
    }
    straight
}

/// Whether a clause may begin behind this text.
fn begins_clause(before: &str) -> bool {
    let trimmed = before.trim_end();
    match trimmed.chars().next_back() {
        None => true,
        Some('"') if trimmed.len() == 1 => true,
        Some(_) if trimmed.len() == before.len() => false,
        Some(last) if last.is_alphanumeric() => LEADS.iter().any(|lead| {
            trimmed
                .strip_suffix(lead)
                .is_some_and(|rest| !rest.ends_with(char::is_alphanumeric))
        }),
        Some(last) => last != '\'',
    }
}

fn declines(text: &str) -> bool {
    if WHOLE.iter().any(|phrase| text.starts_with(phrase)) {
        return true;
    }
    STARTS
        .iter()
        .filter_map(|start| after_phrase(text, start))
        .any(|mut rest| {
            for _ in 0..=3 {
                if NOT.iter().any(|phrase| after_phrase(rest, phrase).is_some()) {
                    return false;
                }
                if ACTS.iter().any(|act| after_phrase(rest, act).is_some()) {
                    return true;
                }
                let filler = FILLERS.iter().find_map(|filler| after_phrase(rest, filler));
                let Some(next) = filler else { return false };
                rest = next;
            }
            false
        })
}

/// What follows a phrase of whole words, blanks and commas left out.
fn after_phrase<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(phrase)?;
    (!rest.starts_with(|next: char| next.is_alphanumeric() || next == '\''))
        .then(|| rest.trim_start_matches([' ', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_found() {
        for text in [
            "I can't help you with that.",
            "I’m sorry, but I cannot assist with that request.",
            "As an AI language model, I cannot provide personal opinions.",
            "Sorry, I'm not able to do that.",
            "I'm afraid I can't do that, Dave.",
            "Hmm. That sounds illegal, and I won't help you hurt anyone.",
            "I cannot, in good conscience, recommend ways to do this.",
            "**I'm unable to provide** medical advice.",
            "I'd rather not say.",
            "I'm sorry that I can't really help you there.",
            "I don't feel comfortable writing that.",
            "Oh no\nI won't do that",
            "I'm not going to tell you how to do it.",
            "\"I'm sorry, I can't help you.\"",
            "“Stop” is a word that I like, but I can't help you.",
        ] {
            assert!(refuses(text), "{text}");
        }
    }

    #[test]
    fn what_only_sounds_like_a_refusal_is_none() {
        for text in [
            "",
            "I'm sorry to hear that. You could talk to a friend.",
            "I can't help but notice how well you write.",
            "I can't recommend it enough!",
            "I cannot tell you how happy I am.",
            "I'm not sure what you mean.",
            "I don't know.",
            "You cannot provide water to a fire of oil.",
            "She said I can't help you, so I asked another one.",
            "I cannot tell a lie",
            "I can't helpfully number the stars.",
            "I will not be there on Monday.",
            "I'm not going to the party.",
            "You shouldn't do that, it is dangerous.",
            "Hawaii can't help you.",
            "That is pretty wrong, and I wouldn't recommend it.",
            "I'm sorry I couldn't help you find it.",
            "Yes, it will. I will not share any information about you.",
            "Sure, here they are. I can't provide links.",
            "Dorothy says, \"I'm sorry, Toto, but I'm afraid I can't help you.\"",
            "As of 2023, I can't provide real-time rankings, but I can share a list.",
        ] {
            assert!(!refuses(text), "{text}");
        }
        // Behind the first 200 characters a text has begun with something else.
        assert!(!refuses(&format!(
            "{} I can't help you.",
            "A long story. ".repeat(20)
        )));
    }

    #[test]
    fn the_table_counts_transitions() {
        let mut report = RefusalReport::default();
        for refuses in [
            [true, true],
            [true, false],
            [true, false],
            [false, true],
            [false, false],
        ] {
            report.add(refuses);
        }
        assert_eq!((report.answers, report.corrections), (3, 2));
        assert_eq!(
            (report.kept, report.removed, report.added, report.none),
            (1, 2, 1, 1)
        );
    }
}
