//! What the work of one head reads, where it lies, and the scores of a block of queries.

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};

use super::super::flex::with_slice;
use super::super::math::{exp, sum2, vectorized};
use super::super::matmul::{Matrix, matmul};
use super::{AttentionSettings, Heads};

/// Queries whose scores are held at once.
pub(super) const BLOCK: usize = 64;

/// The rotation of each position.
#[derive(Debug, Clone)]
pub(super) struct Angles {
    pub cos: FloatTensor<Flex>,
    pub sin: FloatTensor<Flex>,
}

/// Everything one head's work reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub query: &'a [f32],
    pub key: &'a [f32],
    pub value: &'a [f32],
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub tokens: usize,
    pub heads: Heads,
    pub scale: f32,
    pub window: usize,
}

impl Inputs<'_> {
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

    /// Pairs of dimensions that are rotated.
    fn half(&self) -> usize {
        self.cos.len() / self.tokens.max(1)
    }

    /// Where a query head's first element lies; the same in the output.
    pub fn query_at(&self, batch: usize, head: usize) -> usize {
        batch * self.tokens * self.query_stride() + head * self.heads.head_dim
    }

    pub fn key_at(&self, batch: usize, kv_head: usize) -> usize {
        batch * self.tokens * self.key_stride() + kv_head * self.heads.head_dim
    }

    /// A head's rotated rows, times `scale`, close together.
    pub fn rotated(&self, x: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
        let (width, half) = (self.heads.head_dim, self.half());
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
        let (width, half) = (self.heads.head_dim, self.half());
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

/// Turns each row of scores into probabilities; row `i` sees the last `window` of the first `first_row + i + 1` columns,
/// the others become 0.
fn causal_softmax(scores: &mut [f32], columns: usize, first_row: usize, window: usize) {
    vectorized!((scores: &'a mut [f32], columns: usize, first_row: usize, window: usize) -> () {
        for (index, row) in scores.chunks_exact_mut(columns).enumerate() {
            let (seen, hidden) = row.split_at_mut(first_row + index + 1);
            let (past, seen) = seen.split_at_mut(seen.len().saturating_sub(window));
            past.fill(0.0);
            let highest = maximum(seen);
            for x in seen.iter_mut() {
                *x = exp(*x - highest);
            }
            let inverse = 1.0 / sum2(seen, seen, |x, _| x);
            for x in seen.iter_mut() {
                *x *= inverse;
            }
            hidden.fill(0.0);
        }
    });
}

/// The highest element; NaN when there is one, so that a damaged model does not pass for a sound one.
#[inline(always)]
fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for lane in 0..16 {
            // Not `max`: it would drop a NaN.
            lanes[lane] = if chunk[lane] <= lanes[lane] {
                lanes[lane]
            } else {
                chunk[lane]
            };
        }
    }
    let pick = |highest: f32, &x: &f32| if x <= highest { highest } else { x };
    let highest = lanes.iter().fold(f32::NEG_INFINITY, pick);
    rest.iter().fold(highest, pick)
}

/// Scratch of one thread's work.
pub(super) struct Scratch {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub scores: Vec<f32>,
}

impl Scratch {
    pub fn new(inputs: &Inputs<'_>) -> Self {
        let rows = inputs.tokens * inputs.heads.head_dim;
        Self {
            query: vec![0.0; rows],
            key: vec![0.0; rows],
            scores: vec![0.0; BLOCK.min(inputs.tokens) * inputs.tokens],
        }
    }
}

/// The blocks of queries of a sequence: first and one behind the last.
pub(super) fn blocks(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens)
        .step_by(BLOCK)
        .map(move |first| (first, (first + BLOCK).min(tokens)))
}

/// Probabilities of the queries `first..end` over the first `end` keys, into the front of `scores`.
pub(super) fn probabilities<'a>(
    inputs: &Inputs<'_>,
    scratch: &'a mut Scratch,
    (first, end): (usize, usize),
) -> &'a mut [f32] {
    let width = inputs.heads.head_dim;
    let scores = &mut scratch.scores[..(end - first) * end];
    let queries = Matrix::new(&scratch.query[first * width..], end - first, width, width);
    let keys = Matrix::new(&scratch.key, end, width, width);
    matmul(scores, end, queries, keys.transposed(), false);
    causal_softmax(scores, end, first, inputs.window);
    scores
}

/// An output of which several threads write disjoint parts.
#[derive(Clone, Copy)]
pub(super) struct Output(pub *mut f32);

// SAFETY: every element is written by one job only, and read by none until all have ended.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// A pointer to element `at`, taken by a method so that closures capture the whole, which is `Send`.
    pub fn at(self, at: usize) -> *mut f32 {
        self.0.wrapping_add(at)
    }
}

pub(super) fn with_inputs<R>(
    [query, key, value]: [&FloatTensor<Flex>; 3],
    angles: &Angles,
    settings: AttentionSettings,
    run: impl FnOnce(Inputs<'_>) -> R,
) -> R {
    let tokens = query.shape()[1];
    with_slice(query, |query| {
        with_slice(key, |key| {
            with_slice(value, |value| {
                with_slice(&angles.cos, |cos| {
                    with_slice(&angles.sin, |sin| {
                        let inputs = Inputs {
                            query,
                            key,
                            value,
                            cos,
                            sin,
                            tokens,
                            heads: settings.heads,
                            scale: settings.scale as f32,
                            window: settings.window.unwrap_or(usize::MAX),
                        };
                        check(&inputs);
                        run(inputs)
                    })
                })
            })
        })
    })
}

/// The shapes that the writes through [`Output`] rely on.
fn check(inputs: &Inputs<'_>) {
    let Heads {
        heads,
        kv_heads,
        head_dim,
    } = inputs.heads;
    assert!(
        head_dim.is_multiple_of(2) && heads.is_multiple_of(kv_heads),
        "{:?}",
        inputs.heads
    );
    let rows = inputs.query.len() / (heads * head_dim);
    assert_eq!(inputs.query.len(), rows * heads * head_dim, "query");
    assert!(rows.is_multiple_of(inputs.tokens.max(1)), "query");
    assert_eq!(inputs.key.len(), rows * kv_heads * head_dim, "key");
    assert_eq!(inputs.value.len(), rows * kv_heads * head_dim, "value");
    assert!(inputs.half() > 0 && 2 * inputs.half() <= head_dim, "rotary_dim");
    assert_eq!(inputs.cos.len(), inputs.tokens * inputs.half(), "cos");
    assert_eq!(inputs.cos.len(), inputs.sin.len(), "sin");
}
