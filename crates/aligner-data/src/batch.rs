//! Rows that go through a model at once.

use crate::encode::Example;

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
}
