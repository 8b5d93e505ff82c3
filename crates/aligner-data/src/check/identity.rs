//! Identity: rows that teach to leave an answer alone.
//!
//! A row is an identity row when its correction is its answer. They are wanted in some measure (the warm-up of the original
//! method is made of them); where nearly all rows are, a model learns to copy. A correction *contains* its answer when the
//! answer's words, at least three, stand in it one after another and others stand around them.

use serde::Serialize;

use super::words::folded;

/// How a correction is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sameness {
    /// To the letter, blanks at the ends aside.
    Exact,
    /// Case and spacing aside.
    Folded,
    /// It is another text.
    Different,
}

impl Sameness {
    pub(super) fn of(answer: &str, correction: &str) -> Self {
        if answer.trim() == correction.trim() {
            Self::Exact
        } else if folded(answer) == folded(correction) {
            Self::Folded
        } else {
            Self::Different
        }
    }
}

/// How many corrections are, or contain, their answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct IdentityReport {
    /// Rows whose correction is the answer to the letter, blanks at the ends aside.
    pub exact: u64,
    /// Rows whose correction differs from the answer in case and spacing alone.
    pub case_or_space_only: u64,
    /// Rows whose correction is the answer with words added around it.
    pub contains_answer: u64,
    /// Rows with an empty answer.
    pub empty_answers: u64,
}

impl IdentityReport {
    pub(super) fn add(&mut self, sameness: Sameness, contains: bool, empty_answer: bool) {
        match sameness {
            Sameness::Exact => self.exact += 1,
            Sameness::Folded => self.case_or_space_only += 1,
            Sameness::Different => self.contains_answer += u64::from(contains),
        }
        self.empty_answers += u64::from(empty_answer);
    }
}

/// Words an answer must have to be looked for: "yes" stands in many a correction.
const LEAST_WORDS: usize = 3;

/// Whether the correction's words have the answer's among them, and others.
pub(super) fn contains(answer: &[u64], correction: &[u64]) -> bool {
    answer.len() >= LEAST_WORDS && correction.len() > answer.len() && stands_in(answer, correction)
}

/// Whether a sequence of at least one word stands in another, in time that grows with their lengths (Knuth, Morris, Pratt).
fn stands_in(part: &[u64], whole: &[u64]) -> bool {
    // Of each beginning of the part: how long a shorter beginning it ends with.
    let mut ends = vec![0_usize; part.len()];
    let longer = |ends: &[usize], mut matched: usize, word: u64| {
        while matched > 0 && part[matched] != word {
            matched = ends[matched - 1];
        }
        matched + usize::from(part[matched] == word)
    };
    let mut matched = 0;
    for (at, word) in part.iter().enumerate().skip(1) {
        matched = longer(&ends, matched, *word);
        ends[at] = matched;
    }
    matched = 0;
    whole.iter().any(|word| {
        matched = longer(&ends, matched, *word);
        matched == part.len()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::words::{word_hashes, words};
    use super::*;

    #[test]
    fn sameness_is_told_by_degree() {
        for (answer, correction, same) in [
            ("Yes, it is.", " Yes, it is.\n", Sameness::Exact),
            ("Yes, it is.", "yes,  it\nIS.", Sameness::Folded),
            ("Yes, it is.", "Yes it is.", Sameness::Different),
            ("", "", Sameness::Exact),
        ] {
            assert_eq!(
                Sameness::of(answer, correction),
                same,
                "{answer:?} {correction:?}"
            );
        }
    }

    #[test]
    fn a_correction_contains_whole_words_in_their_order() {
        let contains = |answer: &str, correction: &str| {
            contains(&word_hashes(&words(answer)), &word_hashes(&words(correction)))
        };
        assert!(contains("It is red.", "No: it is red, and blue."));
        assert!(!contains("It is red.", "it is reddish, and blue"));
        assert!(!contains("It is red.", "red it is, they say"));
        assert!(!contains("It is red.", "It is red!"));
        assert!(!contains("Yes.", "Yes, it is."));
        assert!(contains("a b a c", "a b a b a c d"));
        assert!(!contains("a b a c", "a b a b a a c"));
    }

    #[test]
    fn a_word_that_repeats_takes_no_longer_than_its_text() {
        let start = std::time::Instant::now();
        let (mut answer, mut correction) = (vec![1; 400_000], vec![1; 800_000]);
        answer.push(2);
        assert!(!contains(&answer, &correction));
        correction.push(2);
        assert!(contains(&answer, &correction));
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }

    proptest! {
        #[test]
        fn a_part_is_found_where_a_search_at_each_place_finds_it(
            part in prop::collection::vec(0_u64..2, 3..6), whole in prop::collection::vec(0_u64..2, 0..20),
        ) {
            let found = whole.windows(part.len()).any(|window| window == part);
            prop_assert_eq!(stands_in(&part, &whole), found);
        }
    }
}
