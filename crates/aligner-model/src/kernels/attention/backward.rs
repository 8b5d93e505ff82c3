//! Gradients of queries, keys and values.

use super::super::buffers::Buffer;
use super::super::math::{exp, sum2, vectorized};
use super::super::matmul::{Matrix, matmul};
use super::inputs::{BLOCK, Inputs, Note, Output, Scratch, Work, blocks, scores, seen};

/// What the forward pass gave, and the gradient of its output.
#[derive(Clone, Copy)]
pub(in super::super) struct Given<'a> {
    /// As long as the queries.
    pub out: &'a [f32],
    /// `[heads, tokens]`
    pub notes: &'a [Note],
    /// As long as the queries.
    pub dy: &'a [f32],
}

/// Writes the gradients of queries, keys and values.
pub(in super::super) fn backward(work: &Work<'_>, given: Given<'_>, [dq, dk, dv]: [&mut [f32]; 3]) {
    assert_eq!(given.dy.len(), work.query.len(), "gradient");
    assert_eq!(given.out.len(), work.query.len(), "output");
    assert_eq!(given.notes.len(), work.notes(), "notes");
    assert_eq!(
        (dq.len(), dk.len(), dv.len()),
        (work.query.len(), work.key.len(), work.value.len()),
        "gradients"
    );
    let outputs = [dq, dk, dv].map(|gradient| Output(gradient.as_mut_ptr()));
    work.for_each_head(|inputs, kv_head| {
        let mut gradients = HeadGradients::new(&inputs);
        backward_head(
            &inputs,
            given,
            kv_head,
            &mut Scratch::new(&inputs),
            &mut gradients,
        );
        gradients.write(&inputs, kv_head, outputs);
    });
}

/// Gradients of one key and value head and its query heads, as rows close together.
struct HeadGradients {
    /// `[group, tokens, head_dim]`
    query: Buffer,
    /// `[tokens, head_dim]`
    key: Buffer,
    /// `[tokens, head_dim]`
    value: Buffer,
    /// Gradients of a block's probabilities, then of its scores.
    scores: Buffer,
}

impl HeadGradients {
    fn new(inputs: &Inputs<'_>) -> Self {
        let rows = inputs.tokens * inputs.heads.head_dim;
        Self {
            query: Buffer::take(inputs.group() * rows),
            key: Buffer::take(rows),
            value: Buffer::take(rows),
            scores: Buffer::take(BLOCK.min(inputs.tokens) * inputs.tokens),
        }
    }

    fn write(&self, inputs: &Inputs<'_>, kv_head: usize, [dq, dk, dv]: [Output<f32>; 3]) {
        let (width, group) = (inputs.heads.head_dim, inputs.group());
        let scatter = |rows: &[f32], out: Output<f32>, at: usize, stride: usize| {
            for (index, row) in rows.chunks_exact(width).enumerate() {
                // SAFETY: `check` made sure that this row of this head lies inside the gradient, which is as long as its
                // input; no other job has this sequence and head, and `row` is scratch.
                unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), out.at(at + index * stride), width) };
            }
        };
        let key_at = inputs.key_at(kv_head);
        scatter(&self.key, dk, key_at, inputs.key_stride());
        scatter(&self.value, dv, key_at, inputs.key_stride());
        for (index, rows) in self.query.chunks_exact(inputs.tokens * width).enumerate() {
            let at = inputs.query_at(kv_head * group + index);
            scatter(rows, dq, at, inputs.query_stride());
        }
    }
}

/// With `P` the probabilities: `dV = Pᵀ dY`, `dP = dY Vᵀ`, `dS = P ∘ (dP − rowsum(dY ∘ Y))`, `dQ = dS K`, `dK = dSᵀ Q`.
///
/// `P` comes from the notes; `rowsum(P ∘ dP) = rowsum(dY ∘ Y)` is a sum over a head's width instead of over all keys (Dao 2023,
/// arXiv 2307.08691, algorithm 2).
fn backward_head(
    inputs: &Inputs<'_>,
    given: Given<'_>,
    kv_head: usize,
    scratch: &mut Scratch,
    grads: &mut HeadGradients,
) {
    let (width, tokens, group) = (inputs.heads.head_dim, inputs.tokens, inputs.group());
    let (query_stride, key_stride) = (inputs.query_stride(), inputs.key_stride());
    let key_at = inputs.key_at(kv_head);
    inputs.rotated(&inputs.key[key_at..], key_stride, 1.0, &mut scratch.key);
    grads.key.fill(0.0);
    grads.value.fill(0.0);
    let mut means = [0.0f32; BLOCK];
    for (index, dq) in grads.query.chunks_exact_mut(tokens * width).enumerate() {
        let head = kv_head * group + index;
        let query_at = inputs.query_at(head);
        let notes = &given.notes[inputs.notes_at(head)..][..tokens];
        inputs.rotated(
            &inputs.query[query_at..],
            query_stride,
            inputs.scale,
            &mut scratch.query,
        );
        for (first, end) in blocks(tokens) {
            let rows = end - first;
            let at = query_at + first * query_stride;
            let [dy, out] = [given.dy, given.out].map(|x| Matrix::new(&x[at..], rows, width, query_stride));
            row_dots(dy, out, &mut means[..rows]);
            let weights = scores(inputs, scratch, (first, end));
            let values = Matrix::new(&inputs.value[key_at..], end, width, key_stride);
            let gradients = &mut grads.scores[..rows * end];
            matmul(gradients, end, dy, values.transposed(), false);
            let block = Block {
                first_row: first,
                window: inputs.window,
                notes: &notes[first..end],
                means: &means[..rows],
            };
            softmax_backward(gradients, weights, end, block);
            matmul(
                &mut grads.value,
                width,
                Matrix::new(weights, rows, end, end).transposed(),
                dy,
                true,
            );
            let gradients = Matrix::new(gradients, rows, end, end);
            matmul(
                &mut dq[first * width..],
                width,
                gradients,
                Matrix::new(&scratch.key, end, width, width),
                false,
            );
            let queries = Matrix::new(&scratch.query[first * width..], rows, width, width);
            matmul(&mut grads.key, width, gradients.transposed(), queries, true);
        }
        inputs.unrotate(dq, inputs.scale);
    }
    inputs.unrotate(&mut grads.key, 1.0);
}

/// The dot product of each row of `a` with that of `b`.
fn row_dots(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    vectorized!((a: Matrix<'a>, b: Matrix<'a>, out: &'a mut [f32]) -> () {
        for (row, out) in out.iter_mut().enumerate() {
            let row = |x: &Matrix<'a>| &x.data[row * x.row_stride..][..x.columns];
            *out = sum2(row(&a), row(&b), |a, b| a * b);
        }
    });
}

/// What is known of the rows of a block.
struct Block<'a> {
    first_row: usize,
    window: usize,
    notes: &'a [Note],
    /// `rowsum(dY ∘ Y)`
    means: &'a [f32],
}

/// Turns scores into probabilities, and gradients of probabilities into those of scores, both in place.
fn softmax_backward(gradient: &mut [f32], scores: &mut [f32], columns: usize, block: Block<'_>) {
    vectorized!((gradient: &'a mut [f32], scores: &'a mut [f32], columns: usize, block: Block<'a>) -> () {
        let Block { first_row, window, notes, means } = block;
        let rows = gradient.chunks_exact_mut(columns).zip(scores.chunks_exact_mut(columns)).enumerate();
        for (index, (gradient, scores)) in rows {
            let seen = seen(first_row, index, window);
            for row in [&mut *gradient, &mut *scores] {
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
            }
            let ([highest, inverse_sum], mean) = (notes[index], means[index]);
            for (gradient, score) in gradient[seen.clone()].iter_mut().zip(&mut scores[seen]) {
                *score = exp(*score - highest) * inverse_sum;
                *gradient = *score * (*gradient - mean);
            }
        }
    });
}
