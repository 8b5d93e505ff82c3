//! What the work of one head reads, and where it lies.

use burn::backend::{Flex, tensor::FloatTensor};
use rayon::prelude::*;

use super::super::flex::{contiguous, elements};
use super::super::panels::Form;
use super::super::rotary::{rotate, rotate_back};
use super::super::sequences::Sequences;
use super::head::Rows;
use super::{AttentionSettings, Heads};

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
    /// What products read.
    pub form: Form,
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

    fn group(&self) -> usize {
        self.heads.heads / self.heads.kv_heads
    }

    /// The query heads that share a key and value head.
    pub fn queries_of(&self, kv_head: usize) -> std::ops::Range<usize> {
        let group = self.group();
        kv_head * group..(kv_head + 1) * group
    }

    /// Where a query head's elements of the sequence's first token lie; the same in the output.
    pub fn query_at(&self, head: usize) -> usize {
        self.start * self.query_stride() + head * self.heads.head_dim
    }

    pub fn key_at(&self, kv_head: usize) -> usize {
        self.start * self.key_stride() + kv_head * self.heads.head_dim
    }

    /// Cosines and sines of a row's position.
    fn angles(&self, row: usize) -> (&[f32], &[f32]) {
        let at = row * self.half..(row + 1) * self.half;
        (&self.cos[at.clone()], &self.sin[at])
    }

    /// Rotated queries or keys of a head, times `scale`.
    pub fn rotated(&self, x: &[f32], stride: usize, scale: f32) -> Rows {
        Rows::of(x, stride, (self.tokens, self.heads.head_dim), |row, x, out| {
            out.copy_from_slice(x);
            rotate(out, self.angles(row), scale);
        })
    }

    /// Turns the gradient of a rotated row back, times `scale`.
    pub fn unrotate(&self, row: usize, x: &mut [f32], scale: f32) {
        rotate_back(x, self.angles(row), scale);
    }
}

/// What a softmax is computed from again: the highest score, and one over the sum of `e^(score − highest)`. Their logarithmic sum
/// in one number would cost digits where scores are large.
pub(in super::super) type Note = [f32; 2];

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
    pub form: Form,
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
                    form: self.form,
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
