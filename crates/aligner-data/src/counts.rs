//! How the tokens of a row are counted.

use crate::batch::PairRow;
use crate::encode::{Example, Target};

/// Tokens of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Those that go through a model.
    pub tokens: usize,
    /// Those of them that carry loss: the text that is written and its end, or, of a pair, those of both answers behind what
    /// the two begin with.
    pub targets: usize,
}

impl Target {
    /// What is stored behind the tokens of a row: whether each of its answers is safe.
    fn labels(self) -> usize {
        match self {
            Self::LabelledPreference => 2,
            _ => 0,
        }
    }

    /// Tokens of so many rows, of all that is stored of them.
    pub(crate) fn tokens_of(self, rows: u64, stored: u64) -> u64 {
        stored.saturating_sub(rows.saturating_mul(self.labels() as u64))
    }

    /// Counts the tokens of a row of this kind.
    pub fn counts(self, row: Example<'_>) -> TokenCounts {
        let tokens = row.ids.len().saturating_sub(self.labels());
        let targets = match self.is_pair() {
            false => tokens.saturating_sub(row.prompt_len),
            true => {
                let (chosen, rejected) = row.ids[..tokens].split_at(row.prompt_len.min(tokens));
                let shared = PairRow { chosen, rejected }.shared();
                tokens.saturating_sub(2 * shared)
            }
        };
        TokenCounts { tokens, targets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_pair_both_answers_are_counted_and_labels_are_no_tokens() {
        let counts = |target: Target, ids: &[u32], prompt_len| {
            let TokenCounts { tokens, targets } = target.counts(Example { ids, prompt_len });
            (tokens, targets)
        };
        // A prompt of two tokens with answers of two and of one, each with its end.
        let pair = [1, 2, 5, 6, 9, 1, 2, 7, 9];
        assert_eq!(counts(Target::Preference, &pair, 5), (9, 5));
        assert_eq!(counts(Target::CompletionPair, &pair, 5), (9, 5));
        let labelled = [&pair[..], &[1, 2]].concat();
        assert_eq!(counts(Target::LabelledPreference, &labelled, 5), (9, 5));
        assert_eq!(counts(Target::Completion, &pair, 5), (9, 4));
        assert_eq!(counts(Target::Preference, &[], 0), (0, 0));
    }
}
