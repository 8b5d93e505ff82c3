//! Which rows of a packed batch belong together.

use std::sync::Arc;

/// Sequences that lie one behind the other, without padding: a token attends to those of its own sequence alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequences {
    lengths: Arc<[usize]>,
}

impl Sequences {
    /// Sequences of these lengths, in tokens.
    pub fn new(lengths: impl Into<Arc<[usize]>>) -> Self {
        Self {
            lengths: lengths.into(),
        }
    }

    /// `batch` sequences of the same length.
    pub fn equal(batch: usize, tokens: usize) -> Self {
        Self::new(vec![tokens; batch])
    }

    /// The length of each, in tokens.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Tokens of all.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Tokens of the longest.
    pub fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// First row and length of each.
    pub fn spans(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut start = 0;
        self.lengths.iter().map(move |&length| {
            start += length;
            (start - length, length)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_each_other() {
        let sequences = Sequences::new([3, 1, 2]);
        assert_eq!(sequences.spans().collect::<Vec<_>>(), [(0, 3), (3, 1), (4, 2)]);
        assert_eq!((sequences.tokens(), sequences.longest()), (6, 3));
    }
}
