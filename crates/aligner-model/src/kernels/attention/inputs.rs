//! What the work of one head reads, where it lies, and the scores of a block of queries.

use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

use super::super::buffers::Buffer;
use super::super::flex::{contiguous, elements};
use super::super::math::{exp, maximum, sum2, vectorized};
use super::super::matmul::{Matrix, matmul};
use super::super::sequences::Sequences;
use super::{AttentionSettings, Heads};

/// Queries whose scores are held at once.
pub(super) const BLOCK: usize = 64;

/// The rotation of each position.
#[derive(Debug, Clone)]
pub(in super::super) struct Angles {
    cos: FloatTensor<Flex>,
    sin: FloatTensor<Flex>,
}

impl Angles {
    pub fn new(cos: FloatTensor<Flex>, sin: FloatTensor<Flex>) -> Self {
        Self {
            cos: contiguous(cos),
            sin: contiguous(sin),
        }
    }

    /// Cosines and sines.
    pub fn elements(&self) -> (&[f32], &[f32]) {
        let [cos, sin] = [&self.cos, &self.sin].map(|angles| elements(Some(angles)).unwrap_or_default());
        (cos, sin)
    }
}

/// Everything one head's work on one sequence reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub query: &'a [f32],
    pub key: &'a [f32],
    pub value: &'a [f32],
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    /// Pairs of dimensions that are rotated.
    pub half: usize,
    /// Tokens of all sequences.
    pub all_tokens: usize,
    /// First row of the sequence, and its tokens.
    pub start: usize,
    pub tokens: usize,
    pub heads: Heads,
    pub scale: f32,
    pub window: usize,
}

impl Inputs<'_> {
    /// Where the notes on a query head's tokens lie, `[heads, tokens]` of all sequences.
    pub fn notes_at(&self, head: usize) -> usize {
        head * self.all_tokens + self.start
    }

    /// Distance of a token's query from the next token's.
    pub fn query_stride(&self) -> usize {
        self.heads.heads * self.heads.head_dim
    }

    pub fn key_stride(&self) -> usize {
        self.heads.kv_heads * self.heads.head_dim
    }

    pub fn group(&self) -> usize {
        self.heads.heads / self.heads.kv_heads
    }

    /// Where a query head's elements of the sequence's first token lie; the same in the output.
    pub fn query_at(&self, head: usize) -> usize {
        self.start * self.query_stride() + head * self.heads.head_dim
    }

    pub fn key_at(&self, kv_head: usize) -> usize {
        self.start * self.key_stride() + kv_head * self.heads.head_dim
    }

    /// A head's rotated rows, times `scale`, close together.
    pub fn rotated(&self, x: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
        let (width, half) = (self.heads.head_dim, self.half);
        let angles = self.cos.chunks_exact(half).zip(self.sin.chunks_exact(half));
        for ((x, out), (cos, sin)) in x.chunks(stride).zip(out.chunks_exact_mut(width)).zip(angles) {
            vectorized!((
                x: &'a [f32], out: &'a mut [f32], cos: &'a [f32], sin: &'a [f32], scale: f32
            ) -> () {
                let half = cos.len();
                let (x, stays) = x[..out.len()].split_at(2 * half);
                let (x1, x2) = x.split_at(half);
                let (out, kept) = out.split_at_mut(2 * half);
                for (kept, x) in kept.iter_mut().zip(stays) {
                    *kept = x * scale;
                }
                let (out1, out2) = out.split_at_mut(half);
                for i in 0..half {
                    out1[i] = (x1[i] * cos[i] - x2[i] * sin[i]) * scale;
                    out2[i] = (x2[i] * cos[i] + x1[i] * sin[i]) * scale;
                }
            });
        }
    }

    /// Turns a gradient of rotated rows back: the rotation by the negative angle, times `scale`.
    pub fn unrotate(&self, x: &mut [f32], scale: f32) {
        let (width, half) = (self.heads.head_dim, self.half);
        let angles = self.cos.chunks_exact(half).zip(self.sin.chunks_exact(half));
        for (x, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
            vectorized!((x: &'a mut [f32], cos: &'a [f32], sin: &'a [f32], scale: f32) -> () {
                let half = cos.len();
                let (x, stays) = x.split_at_mut(2 * half);
                for x in stays {
                    *x *= scale;
                }
                let (x1, x2) = x.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (x1[i] * scale, x2[i] * scale);
                    x1[i] = a * cos[i] + b * sin[i];
                    x2[i] = b * cos[i] - a * sin[i];
                }
            });
        }
    }
}

/// The columns that row `index` of a block sees, whose first row is `first_row` of the sequence.
#[inline(always)]
pub(super) fn seen(first_row: usize, index: usize, window: usize) -> std::ops::Range<usize> {
    let end = first_row + index + 1;
    end.saturating_sub(window)..end
}

/// What a softmax is computed from again: the highest score, and one over the sum of `e^(score − highest)`. Their logarithmic sum
/// in one number would cost digits where scores are large.
pub(in super::super) type Note = [f32; 2];

/// Turns each row of scores into `e^(score − highest)` where it sees, and 0 elsewhere.
fn exponentials(scores: &mut [f32], columns: usize, block: Block<'_>) {
    vectorized!((scores: &'a mut [f32], columns: usize, block: Block<'a>) -> () {
        let Block { first_row, window, notes } = block;
        for ((index, row), note) in scores.chunks_exact_mut(columns).enumerate().zip(notes) {
            let seen = seen(first_row, index, window);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen];
            let highest = maximum(row);
            for x in row.iter_mut() {
                *x = exp(*x - highest);
            }
            let sum = sum2(row, row, |x, _| x);
            *note = [highest, 1.0 / sum];
        }
    });
}

/// A block of queries, and what is noted of each.
struct Block<'a> {
    first_row: usize,
    window: usize,
    notes: &'a mut [Note],
}

/// Scratch of one thread's work on one sequence.
pub(super) struct Scratch {
    pub query: Buffer,
    pub key: Buffer,
    pub scores: Buffer,
}

impl Scratch {
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let rows = inputs.tokens * inputs.heads.head_dim;
        Self {
            query: Buffer::take(rows),
            key: Buffer::take(rows),
            scores: Buffer::take(BLOCK.min(inputs.tokens) * inputs.tokens),
        }
    }
}

/// The blocks of queries of a sequence: first and one behind the last.
pub(super) fn blocks(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens)
        .step_by(BLOCK)
        .map(move |first| (first, (first + BLOCK).min(tokens)))
}

/// Scores of the queries `first..end` over the first `end` keys, into the front of `scores`.
pub(super) fn scores<'a>(
    inputs: &Inputs<'_>,
    scratch: &'a mut Scratch,
    (first, end): (usize, usize),
) -> &'a mut [f32] {
    let width = inputs.heads.head_dim;
    let scores = &mut scratch.scores[..(end - first) * end];
    let queries = Matrix::new(&scratch.query[first * width..], end - first, width, width);
    let keys = Matrix::new(&scratch.key, end, width, width);
    matmul(scores, end, queries, keys.transposed(), false);
    scores
}

/// [`scores`] as weights that are not divided by their sums yet; `notes` are those of the block.
pub(super) fn weights<'a>(
    inputs: &Inputs<'_>,
    scratch: &'a mut Scratch,
    (first, end): (usize, usize),
    notes: &mut [Note],
) -> &'a mut [f32] {
    let block = Block {
        first_row: first,
        window: inputs.window,
        notes,
    };
    let scores = scores(inputs, scratch, (first, end));
    exponentials(scores, end, block);
    scores
}

/// An output of which several threads write disjoint parts.
pub(super) struct Output<T>(pub *mut T);

impl<T> Clone for Output<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Output<T> {}

// SAFETY: every element is written by one job only, and read by none until all have ended.
unsafe impl<T: Send> Send for Output<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T> Output<T> {
    /// A pointer to element `at`, taken by a method so that closures capture the whole, which is `Send`.
    pub fn at(self, at: usize) -> *mut T {
        self.0.wrapping_add(at)
    }
}

/// Queries, keys and values of all sequences, and what is done with them.
#[derive(Clone, Copy)]
pub(in super::super) struct Work<'a> {
    pub query: &'a [f32],
    pub key: &'a [f32],
    pub value: &'a [f32],
    /// Cosines and sines of as many positions as the longest sequence has tokens.
    pub angles: (&'a [f32], &'a [f32]),
    pub sequences: &'a Sequences,
    pub settings: AttentionSettings,
}

impl<'a> Work<'a> {
    /// Notes on all tokens of all query heads.
    pub fn notes(&self) -> usize {
        self.settings.heads.heads * self.sequences.tokens()
    }

    /// One job for each sequence and key and value head; `run` gets the sequence's inputs and the head.
    pub(super) fn for_each_head(&self, run: impl Fn(Inputs<'_>, usize) + Sync) {
        let half = self.check();
        let kv_heads = self.settings.heads.kv_heads;
        let spans: Vec<(usize, usize)> = self.sequences.spans().filter(|&(_, tokens)| tokens > 0).collect();
        (0..spans.len() * kv_heads)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|job| {
                let (start, tokens) = spans[job / kv_heads];
                let (cos, sin) = self.angles;
                let inputs = Inputs {
                    query: self.query,
                    key: self.key,
                    value: self.value,
                    cos: &cos[..tokens * half],
                    sin: &sin[..tokens * half],
                    half,
                    all_tokens: self.sequences.tokens(),
                    start,
                    tokens,
                    heads: self.settings.heads,
                    scale: self.settings.scale as f32,
                    window: self.settings.window.unwrap_or(usize::MAX),
                };
                run(inputs, job % kv_heads);
            });
    }

    /// The shapes that the writes through [`Output`] rely on; returns half of the rotated dimensions.
    fn check(&self) -> usize {
        let Heads {
            heads,
            kv_heads,
            head_dim,
        } = self.settings.heads;
        assert!(
            head_dim.is_multiple_of(2) && heads.is_multiple_of(kv_heads),
            "{:?}",
            self.settings.heads
        );
        let (rows, longest) = (self.sequences.tokens(), self.sequences.longest());
        assert_eq!(self.query.len(), rows * heads * head_dim, "query");
        assert_eq!(self.key.len(), rows * kv_heads * head_dim, "key");
        assert_eq!(self.value.len(), rows * kv_heads * head_dim, "value");
        let (cos, sin) = self.angles;
        let half = cos.len() / longest.max(1);
        assert!(longest == 0 || (half > 0 && 2 * half <= head_dim), "rotary_dim");
        assert_eq!(cos.len(), longest * half, "cos");
        assert_eq!(cos.len(), sin.len(), "sin");
        half
    }
}
