//! Rows that go through a model at once.

use crate::encode::Example;

/// Rows of token ids, padded on the right to the longest.
///
/// Padding is id 0: a causal model's tokens never see what comes after them, and padding carries no loss.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    ids: Vec<u32>,
    width: usize,
    /// Prompt length and length of each row, in tokens.
    spans: Vec<(usize, usize)>,
}

impl Batch {
    /// A batch of these rows.
    pub fn new<'a>(examples: impl IntoIterator<Item = Example<'a>>) -> Self {
        let examples: Vec<Example<'a>> = examples.into_iter().collect();
        let width = examples
            .iter()
            .map(|example| example.ids.len())
            .max()
            .unwrap_or(0);
        let mut ids = Vec::with_capacity(width * examples.len());
        for example in &examples {
            ids.extend_from_slice(example.ids);
            ids.resize(ids.len() + width - example.ids.len(), 0);
        }
        let spans = examples
            .iter()
            .map(|example| (example.prompt_len, example.ids.len()))
            .collect();
        Self { ids, width, spans }
    }

    /// Token ids, row-major `[rows, width]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.spans.len()
    }

    /// Tokens of the longest row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|(_, len)| len).sum()
    }

    /// Tokens that carry loss.
    pub fn target_tokens(&self) -> usize {
        self.spans.iter().map(|(prompt, len)| len - prompt).sum()
    }

    /// For each token that carries loss: the flat position that predicts it (the one before it), and its id.
    pub fn targets(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.spans
            .iter()
            .enumerate()
            .flat_map(move |(row, &(prompt, len))| {
                let start = row * self.width;
                (prompt..len).map(move |at| ((start + at - 1) as u32, self.ids[start + at]))
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
        assert_eq!(batch.ids(), [5, 6, 7, 8, 9, 4, 3, 0]);
        assert_eq!(
            (batch.rows(), batch.width(), batch.tokens(), batch.target_tokens()),
            (2, 4, 7, 3)
        );
        assert_eq!(batch.targets().collect::<Vec<_>>(), [(1, 7), (2, 8), (5, 3)]);
    }
}
