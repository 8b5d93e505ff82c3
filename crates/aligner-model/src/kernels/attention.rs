//! Causal self-attention with rotary positions in one operation, forward and backward.
//!
//! Scores exist for [`BLOCK`] queries of one head at a time, never for the whole sequence: memory grows with its length and
//! not with the square. The backward pass computes them again instead of keeping them, as FlashAttention does (Dao et al.
//! 2022, arXiv 2205.14135).

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::{tensor, with_slice};
use super::math::{exp, sum2, vectorized};
use super::matmul::{Matrix, matmul, matmul_into};
use super::{reference, runs_fused};

/// Queries whose scores are held at once.
const BLOCK: usize = 64;

/// How the width of queries, keys and values is cut into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, each shared by `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
}

/// What an attention layer does besides its shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSettings {
    /// The heads.
    pub heads: Heads,
    /// What scores are multiplied by: usually `head_dim^-½`.
    pub scale: f64,
    /// Tokens that a token sees, itself included; all before it when absent.
    pub window: Option<usize>,
    /// `cap · tanh(score / cap)` of every score; not fused.
    pub softcap: Option<f64>,
}

/// `softmax(scale · rotate(q) rotate(k)ᵀ) v`, each token attending to itself and the tokens before it.
///
/// # Shapes
/// - `query`: `[batch, tokens, heads · head_dim]`
/// - `key`, `value`: `[batch, tokens, kv_heads · head_dim]`
/// - `cos`, `sin`: `[tokens, rotary_dim / 2]`, of which no gradient is taken; the dimensions behind `rotary_dim` stay
/// - output: as `query`
pub fn causal_attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    (cos, sin): (Tensor<2>, Tensor<2>),
    settings: AttentionSettings,
) -> Tensor<3> {
    if settings.softcap.is_some() || ![&query, &key, &value].into_iter().all(runs_fused) {
        return reference::causal_attention(query, key, value, (cos, sin), settings);
    }
    let out = <Dispatch as AttentionOps>::causal_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        settings,
    );
    Tensor::from_dispatch(out)
}

/// The operation as an extension of a backend.
#[backend_extension(Flex, Autodiff)]
pub trait AttentionOps: Backend {
    /// See [`causal_attention`].
    fn causal_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        settings: AttentionSettings,
    ) -> FloatTensor<Self>;
}

impl AttentionOps for Flex {
    fn causal_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        settings: AttentionSettings,
    ) -> FloatTensor<Self> {
        forward(&query, &key, &value, &Angles { cos, sin }, settings)
    }
}

/// The rotation of each position.
#[derive(Debug, Clone)]
struct Angles {
    cos: FloatTensor<Flex>,
    sin: FloatTensor<Flex>,
}

/// Everything one head's work reads.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    tokens: usize,
    heads: Heads,
    scale: f32,
    window: usize,
}

impl Inputs<'_> {
    /// Distance of a token's query from the next token's.
    fn query_stride(&self) -> usize {
        self.heads.heads * self.heads.head_dim
    }

    fn key_stride(&self) -> usize {
        self.heads.kv_heads * self.heads.head_dim
    }

    fn group(&self) -> usize {
        self.heads.heads / self.heads.kv_heads
    }

    /// Pairs of dimensions that are rotated.
    fn half(&self) -> usize {
        self.cos.len() / self.tokens.max(1)
    }

    /// Where a query head's first element lies; the same in the output.
    fn query_at(&self, batch: usize, head: usize) -> usize {
        batch * self.tokens * self.query_stride() + head * self.heads.head_dim
    }

    fn key_at(&self, batch: usize, kv_head: usize) -> usize {
        batch * self.tokens * self.key_stride() + kv_head * self.heads.head_dim
    }

    /// A head's rotated rows, times `scale`, close together.
    fn rotated(&self, x: &[f32], stride: usize, scale: f32, out: &mut [f32]) {
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
    fn unrotate(&self, x: &mut [f32], scale: f32) {
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
struct Scratch {
    query: Vec<f32>,
    key: Vec<f32>,
    scores: Vec<f32>,
}

impl Scratch {
    fn new(inputs: &Inputs<'_>) -> Self {
        let rows = inputs.tokens * inputs.heads.head_dim;
        Self {
            query: vec![0.0; rows],
            key: vec![0.0; rows],
            scores: vec![0.0; BLOCK.min(inputs.tokens) * inputs.tokens],
        }
    }
}

/// The blocks of queries of a sequence: first and one behind the last.
fn blocks(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens)
        .step_by(BLOCK)
        .map(move |first| (first, (first + BLOCK).min(tokens)))
}

/// Probabilities of the queries `first..end` over the first `end` keys, into the front of `scores`.
fn probabilities<'a>(
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
struct Output(*mut f32);

// SAFETY: every element is written by one job only, and read by none until all have ended.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// A pointer to element `at`, taken by a method so that closures capture the whole, which is `Send`.
    fn at(self, at: usize) -> *mut f32 {
        self.0.wrapping_add(at)
    }
}

fn with_inputs<R>(
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

fn forward(
    query: &FloatTensor<Flex>,
    key: &FloatTensor<Flex>,
    value: &FloatTensor<Flex>,
    angles: &Angles,
    settings: AttentionSettings,
) -> FloatTensor<Flex> {
    let (shape, batch, heads) = (query.shape(), query.shape()[0], settings.heads);
    let out = with_inputs([query, key, value], angles, settings, |inputs| {
        let mut out = vec![0.0; inputs.query.len()];
        let output = Output(out.as_mut_ptr());
        (0..batch * heads.kv_heads).into_par_iter().for_each_init(
            || Scratch::new(&inputs),
            |scratch, job| {
                forward_head(
                    &inputs,
                    (job / heads.kv_heads, job % heads.kv_heads),
                    scratch,
                    output,
                )
            },
        );
        out
    });
    tensor(out, shape)
}

/// All query heads of one key and value head of one sequence.
fn forward_head(inputs: &Inputs<'_>, (batch, kv_head): (usize, usize), scratch: &mut Scratch, out: Output) {
    let (width, tokens) = (inputs.heads.head_dim, inputs.tokens);
    let (query_stride, key_stride) = (inputs.query_stride(), inputs.key_stride());
    let key_at = inputs.key_at(batch, kv_head);
    inputs.rotated(&inputs.key[key_at..], key_stride, 1.0, &mut scratch.key);
    for head in kv_head * inputs.group()..(kv_head + 1) * inputs.group() {
        let query_at = inputs.query_at(batch, head);
        inputs.rotated(
            &inputs.query[query_at..],
            query_stride,
            inputs.scale,
            &mut scratch.query,
        );
        for (first, end) in blocks(tokens) {
            let weights = probabilities(inputs, scratch, (first, end));
            let weights = Matrix::new(weights, end - first, end, end);
            let values = Matrix::new(&inputs.value[key_at..], end, width, key_stride);
            // SAFETY: `check` made sure that these rows of this head lie inside the output, which is as long as the
            // queries; no other job has this sequence and head.
            unsafe {
                matmul_into(
                    out.at(query_at + first * query_stride),
                    query_stride,
                    weights,
                    values,
                    false,
                )
            };
        }
    }
}

/// Gradients of query, key and value.
fn backward(
    query: &FloatTensor<Flex>,
    key: &FloatTensor<Flex>,
    value: &FloatTensor<Flex>,
    (angles, settings): (&Angles, AttentionSettings),
    dy: &FloatTensor<Flex>,
) -> [FloatTensor<Flex>; 3] {
    let (query_shape, key_shape, batch) = (query.shape(), key.shape(), query.shape()[0]);
    let heads = settings.heads;
    let [dq, dk, dv] = with_slice(dy, |dy| {
        with_inputs([query, key, value], angles, settings, |inputs| {
            assert_eq!(dy.len(), inputs.query.len(), "gradient");
            let mut grads =
                [inputs.query.len(), inputs.key.len(), inputs.key.len()].map(|len| vec![0.0; len]);
            let outputs = grads.each_mut().map(|grad| Output(grad.as_mut_ptr()));
            (0..batch * heads.kv_heads).into_par_iter().for_each_init(
                || (Scratch::new(&inputs), HeadGradients::new(&inputs)),
                |(scratch, grads), job| {
                    let job = (job / heads.kv_heads, job % heads.kv_heads);
                    backward_head(&inputs, dy, job, scratch, grads);
                    grads.write(&inputs, job, outputs);
                },
            );
            grads
        })
    });
    [
        tensor(dq, query_shape),
        tensor(dk, key_shape.clone()),
        tensor(dv, key_shape),
    ]
}

/// Gradients of one key and value head and its query heads, as rows close together.
struct HeadGradients {
    /// `[group, tokens, head_dim]`
    query: Vec<f32>,
    /// `[tokens, head_dim]`
    key: Vec<f32>,
    /// `[tokens, head_dim]`
    value: Vec<f32>,
    /// Gradients of a block's probabilities, then of its scores.
    scores: Vec<f32>,
}

impl HeadGradients {
    fn new(inputs: &Inputs<'_>) -> Self {
        let rows = inputs.tokens * inputs.heads.head_dim;
        Self {
            query: vec![0.0; inputs.group() * rows],
            key: vec![0.0; rows],
            value: vec![0.0; rows],
            scores: vec![0.0; BLOCK.min(inputs.tokens) * inputs.tokens],
        }
    }

    fn write(&self, inputs: &Inputs<'_>, (batch, kv_head): (usize, usize), [dq, dk, dv]: [Output; 3]) {
        let (width, group) = (inputs.heads.head_dim, inputs.group());
        let scatter = |rows: &[f32], out: Output, at: usize, stride: usize| {
            for (index, row) in rows.chunks_exact(width).enumerate() {
                // SAFETY: `check` made sure that this row of this head lies inside the gradient, which is as long as its
                // input; no other job has this sequence and head, and `row` is scratch.
                unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), out.at(at + index * stride), width) };
            }
        };
        let key_at = inputs.key_at(batch, kv_head);
        scatter(&self.key, dk, key_at, inputs.key_stride());
        scatter(&self.value, dv, key_at, inputs.key_stride());
        for (index, rows) in self.query.chunks_exact(inputs.tokens * width).enumerate() {
            let at = inputs.query_at(batch, kv_head * group + index);
            scatter(rows, dq, at, inputs.query_stride());
        }
    }
}

/// With `P` the probabilities: `dV = Pᵀ dY`, `dP = dY Vᵀ`, `dS = P ∘ (dP − rowsum(P ∘ dP))`, `dQ = dS K`, `dK = dSᵀ Q`.
fn backward_head(
    inputs: &Inputs<'_>,
    dy: &[f32],
    (batch, kv_head): (usize, usize),
    scratch: &mut Scratch,
    grads: &mut HeadGradients,
) {
    let (width, tokens, group) = (inputs.heads.head_dim, inputs.tokens, inputs.group());
    let (query_stride, key_stride) = (inputs.query_stride(), inputs.key_stride());
    let key_at = inputs.key_at(batch, kv_head);
    inputs.rotated(&inputs.key[key_at..], key_stride, 1.0, &mut scratch.key);
    grads.key.fill(0.0);
    grads.value.fill(0.0);
    for (index, dq) in grads.query.chunks_exact_mut(tokens * width).enumerate() {
        let query_at = inputs.query_at(batch, kv_head * group + index);
        inputs.rotated(
            &inputs.query[query_at..],
            query_stride,
            inputs.scale,
            &mut scratch.query,
        );
        for (first, end) in blocks(tokens) {
            let rows = end - first;
            probabilities(inputs, scratch, (first, end));
            let weights = &scratch.scores[..rows * end];
            let dy = Matrix::new(&dy[query_at + first * query_stride..], rows, width, query_stride);
            matmul(
                &mut grads.value,
                width,
                Matrix::new(weights, rows, end, end).transposed(),
                dy,
                true,
            );
            let values = Matrix::new(&inputs.value[key_at..], end, width, key_stride);
            let scores = &mut grads.scores[..rows * end];
            matmul(scores, end, dy, values.transposed(), false);
            softmax_backward(scores, weights, end);
            let scores = Matrix::new(scores, rows, end, end);
            matmul(
                &mut dq[first * width..],
                width,
                scores,
                Matrix::new(&scratch.key, end, width, width),
                false,
            );
            let queries = Matrix::new(&scratch.query[first * width..], rows, width, width);
            matmul(&mut grads.key, width, scores.transposed(), queries, true);
        }
        inputs.unrotate(dq, inputs.scale);
    }
    inputs.unrotate(&mut grads.key, 1.0);
}

/// Turns gradients of probabilities into gradients of scores, in place.
fn softmax_backward(gradient: &mut [f32], weights: &[f32], columns: usize) {
    vectorized!((gradient: &'a mut [f32], weights: &'a [f32], columns: usize) -> () {
        for (gradient, weights) in gradient.chunks_exact_mut(columns).zip(weights.chunks_exact(columns)) {
            let mean = sum2(gradient, weights, |g, w| g * w);
            for (gradient, &weight) in gradient.iter_mut().zip(weights) {
                *gradient = weight * (*gradient - mean);
            }
        }
    });
}

#[derive(Debug)]
struct AttentionBackward;

impl Backward<Flex, 3> for AttentionBackward {
    type State = ([NodeId; 3], Angles, AttentionSettings);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let (nodes, angles, settings) = ops.state;
        let [query, key, value]: [FloatTensor<Flex>; 3] =
            nodes.map(|node| checkpointer.retrieve_node_output(node));
        let gradients = backward(&query, &key, &value, (&angles, settings), &dy);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> AttentionOps for Autodiff<Flex, C> {
    fn causal_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        settings: AttentionSettings,
    ) -> FloatTensor<Self> {
        let angles = Angles {
            cos: cos.into_primitive(),
            sin: sin.into_primitive(),
        };
        let run =
            |query: FloatTensor<Self>, key: FloatTensor<Self>, value: FloatTensor<Self>, angles: &Angles| {
                forward(
                    &query.into_primitive(),
                    &key.into_primitive(),
                    &value.into_primitive(),
                    angles,
                    settings,
                )
            };
        match AttentionBackward
            .prepare::<C>([query.node(), key.node(), value.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let nodes = [&query, &key, &value].map(|tensor| prep.checkpoint(tensor));
                let out = run(query, key, value, &angles);
                prep.finish((nodes, angles, settings), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(run(query, key, value, &angles)),
        }
    }
}
