//! ROUGE-L of one sentence (Lin 2004, *ROUGE: A Package for Automatic Evaluation of Summaries*, section 3.1).

use aligner_data::words;

use super::similarity::{RowScores, best_of};
use crate::row::References;

/// ROUGE-L F1, from 0 to 1: the longest common subsequence of words, as a share of the words of the one and of the other,
/// and the harmonic mean of the two (β = 1).
///
/// Words are those of [`aligner_data::words`]: for ASCII text exactly those of Google's `rouge_score` without stemming, which
/// cuts other letters out; here they are letters.
///
/// ```
/// use aligner_eval::metrics::rouge_l;
/// // "the", "cat", "mat" of 4 and of 5 words.
/// assert!((rouge_l("The cat: a mat", "the cat on the mat") - 2.0 * 3.0 / 9.0).abs() < 1e-12);
/// assert_eq!(rouge_l("", ""), 0.0);
/// ```
pub fn rouge_l(text: &str, reference: &str) -> f64 {
    f1(&words(text), &words(reference))
}

/// A text's best scores.
pub(super) fn best(text: &str, references: &References) -> Option<RowScores> {
    if references.correct.is_empty() {
        return None;
    }
    let text = words(text);
    best_of(references, |reference| f1(&text, &words(reference)))
}

fn f1(text: &[String], reference: &[String]) -> f64 {
    let common = common_subsequence(text, reference);
    if common == 0 {
        return 0.0;
    }
    // 2PR / (P + R) with P = common / text and R = common / reference.
    2.0 * common as f64 / (text.len() + reference.len()) as f64
}

/// The length of the longest common subsequence.
fn common_subsequence(a: &[String], b: &[String]) -> usize {
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (at, other) in b.iter().enumerate() {
            let above = lengths[at + 1];
            lengths[at + 1] = if word == other {
                diagonal + 1
            } else {
                above.max(lengths[at])
            };
            diagonal = above;
        }
    }
    lengths[b.len()]
}
