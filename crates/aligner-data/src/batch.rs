//! Rows that go through a model at once.

use crate::encode::Example;
use crate::format::Safety;

/// Rows of token ids, packed: one behind the other, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    /// Prompt length and length of each row, in tokens.
    spans: Vec<(usize, usize)>,
}

impl Batch {
    /// A batch of these rows.
    pub fn new<'a>(examples: impl IntoIterator<Item = Example<'a>>) -> Self {
        let mut batch = Self::default();
        for example in examples {
            batch.ids.extend_from_slice(example.ids);
            batch.spans.push((example.prompt_len, example.ids.len()));
        }
        batch
    }

    /// Token ids of all rows.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.spans.len()
    }

    /// The length of each row, in tokens.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.spans.iter().map(|&(_, len)| len)
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens that carry loss.
    pub fn target_tokens(&self) -> usize {
        self.spans.iter().map(|(prompt, len)| len - prompt).sum()
    }

    /// For each token that carries loss: the position that predicts it (the one before it), and its id.
    pub fn targets(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let starts = self.spans.iter().scan(0, |start, &(_, len)| {
            *start += len;
            Some(*start - len)
        });
        self.spans
            .iter()
            .zip(starts)
            .flat_map(move |(&(prompt, len), start)| {
                (start + prompt..start + len).map(move |at| ((at - 1) as u32, self.ids[at]))
            })
    }
}

/// Two answers to one question, as a row of a batch holds them: the chosen conversation and, behind it, the rejected one,
/// each whole. [`Target::Preference`](crate::Target::Preference) and
/// [`Target::CompletionPair`](crate::Target::CompletionPair) make such rows, and their "prompt" is the chosen one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairRow<'a> {
    /// The conversation with the better answer.
    pub chosen: &'a [u32],
    /// The one with the worse answer.
    pub rejected: &'a [u32],
}

impl PairRow<'_> {
    /// Tokens that both begin with: the prompt, and what the answers share of their beginning.
    ///
    /// At least one token of each is left, so that there is something to be predicted.
    pub fn shared(&self) -> usize {
        let most = self.chosen.len().min(self.rejected.len()).saturating_sub(1);
        let same = self.chosen.iter().zip(self.rejected).take_while(|(a, b)| a == b);
        same.count().min(most)
    }
}

impl Batch {
    /// The rows of a batch of pairs.
    pub fn pairs(&self) -> impl Iterator<Item = PairRow<'_>> {
        let mut start = 0;
        self.spans.iter().map(move |&(split, len)| {
            let ids = &self.ids[start..start + len];
            start += len;
            let (chosen, rejected) = ids.split_at(split);
            PairRow { chosen, rejected }
        })
    }

    /// The rows of a batch of pairs with labels, which [`Target::LabelledPreference`](crate::Target::LabelledPreference) makes:
    /// each with whether the chosen and the rejected answer is safe.
    pub fn labelled_pairs(&self) -> impl Iterator<Item = (PairRow<'_>, [Safety; 2])> {
        self.pairs().map(|PairRow { chosen, rejected }| {
            let (rejected, labels) = rejected.split_at(rejected.len().saturating_sub(2));
            let label = |at: usize| labels.get(at).copied().map_or(Safety::Unknown, Safety::from_id);
            (PairRow { chosen, rejected }, [label(0), label(1)])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_targets_carry_loss_and_each_is_predicted_by_the_token_before_it() {
        let batch = Batch::new([
            Example {
                ids: &[5, 6, 7, 8],
                prompt_len: 2,
            },
            Example {
                ids: &[9, 4, 3],
                prompt_len: 2,
            },
        ]);
        assert_eq!(batch.ids(), [5, 6, 7, 8, 9, 4, 3]);
        assert_eq!((batch.rows(), batch.tokens(), batch.target_tokens()), (2, 7, 3));
        assert_eq!(batch.lengths().collect::<Vec<_>>(), [4, 3]);
        assert_eq!(batch.targets().collect::<Vec<_>>(), [(1, 7), (2, 8), (5, 3)]);
    }

    #[test]
    fn a_pair_is_cut_where_its_prompt_ends() {
        let batch = Batch::new([
            Example {
                ids: &[1, 2, 3, 9, 1, 2, 4, 9],
                prompt_len: 4,
            },
            Example {
                ids: &[1, 2, 1, 2],
                prompt_len: 2,
            },
        ]);
        let pairs: Vec<PairRow<'_>> = batch.pairs().collect();
        assert_eq!(
            (pairs[0].chosen, pairs[0].rejected),
            (&[1, 2, 3, 9][..], &[1, 2, 4, 9][..])
        );
        // Equal ones keep a token to be predicted.
        assert_eq!((pairs[0].shared(), pairs[1].shared()), (2, 1));
    }
}
