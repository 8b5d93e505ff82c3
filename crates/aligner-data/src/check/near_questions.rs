//! Near-duplicates among questions alone, for whoever drops all but one of each.

use rayon::prelude::*;

use super::look::{asked, hashes};
use super::near::Joins;
use super::sketch::{KEPT, Sketch, bands, question_shingles};
use super::words::words;
use crate::record::Turn;

/// For each question, with its earlier turns, the first one of its cluster of near-duplicates: its own place where it is that
/// one or stands alone.
///
/// What a near-duplicate is, is what [`check_files`](super::check_files) counts as one, and equal questions are too.
/// [`CheckOptions::NEAR_THRESHOLD`](super::CheckOptions::NEAR_THRESHOLD) is the usual threshold.
///
/// ```
/// use aligner_data::near_questions;
/// let asked = [
///     "What happens if you eat watermelon seeds?",
///     "Who wrote Emma?",
///     "what happens to you if you eat watermelon seeds",
/// ];
/// assert_eq!(near_questions(&asked.map(|question| (&[][..], question)), 0.8), [0, 1, 0]);
/// ```
pub fn near_questions(questions: &[(&[Turn], &str)], threshold: f64) -> Vec<usize> {
    let looks: Vec<_> = questions
        .par_iter()
        .map(|(chat_history, question)| {
            let asked = asked(chat_history, question);
            let words = words(&asked);
            let shingles = question_shingles(&words, &hashes(&asked, &words));
            (bands(&shingles), Sketch::of(&shingles, KEPT))
        })
        .collect();
    let (bands, sketches): (Vec<_>, Vec<_>) = looks.into_iter().unzip();
    Joins::find(&bands, threshold, |a, b| {
        sketches[a].similarity(&sketches[b], KEPT)
    })
    .firsts()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_turns_are_part_of_the_question() {
        let turn = |question: &str| {
            vec![Turn {
                question: question.into(),
                answer: "Yes.".into(),
            }]
        };
        let histories = [
            turn("Do cats purr when they are ill?"),
            Vec::new(),
            turn("Do cats PURR, when they are ill?"),
        ];
        let asked: Vec<(&[Turn], &str)> = histories.iter().map(|turns| (&**turns, "Why?")).collect();
        assert_eq!(near_questions(&asked, 0.8), [0, 1, 0]);
    }

    #[test]
    fn texts_without_words_are_alike_only_when_they_are_equal() {
        let asked = ["?!", "…", "?!", "", ""].map(|question| (&[][..], question));
        assert_eq!(near_questions(&asked, 0.8), [0, 1, 0, 3, 3]);
        assert!(near_questions(&[], 0.8).is_empty());
    }

    #[test]
    fn a_cluster_of_many_has_one_first() {
        let questions: Vec<String> = (0..300)
            .map(|_| "How do bees find their way home?".to_string())
            .collect();
        let asked: Vec<(&[Turn], &str)> = questions.iter().map(|question| (&[][..], &**question)).collect();
        assert!(near_questions(&asked, 0.8).iter().all(|first| *first == 0));
    }
}
