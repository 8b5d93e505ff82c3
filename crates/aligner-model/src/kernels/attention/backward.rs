//! Gradients of queries, keys and values.

use super::super::buffers::Buffer;
use super::super::math::{exp, sum2, vectorized};
use super::super::matmul::{Matrix, matmul};
use super::inputs::{BLOCK, Inputs, Output, Scratch, Work, blocks, scores, seen};

/// What the forward pass gave, and the gradient of its output.
#[derive(Clone, Copy)]
pub(in super::super) struct Given<'a> {
    /// As long as the queries.
    pub out: &'a [f32],
    /// `[heads, tokens]`
    pub log_sums: &'a [f32],
    /// As long as the queries.
    pub dy: &'a [f32],
}

/// Writes the gradients of queries, keys and values.
pub(in super::super) fn backward(work: &Work<'_>, given: Given<'_>, [dq, dk, dv]: [&mut [f32]; 3]) {
    assert_eq!(given.dy.len(), work.query.len(), "gradient");
    assert_eq!(given.out.len(), work.query.len(), "output");
    assert_eq!(given.log_sums.len(), work.notes(), "log sums");
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

    fn write(&self, inputs: &Inputs<'_>, kv_head: usize, [dq, dk, dv]: [Output; 3]) {
        let (width, group) = (inputs.heads.head_dim, inputs.group());
        let scatter = |rows: &[f32], out: Output, at: usize, stride: usize| {
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
/// `P = e^(S − log_sums)` needs neither the highest score nor the sum of a row; `rowsum(P ∘ dP) = rowsum(dY ∘ Y)` is a sum
/// over a head's width instead of over all keys (Dao 2023, arXiv 2307.08691, algorithm 2).
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
        let log_sums = &given.log_sums[inputs.notes_at(head)..][..tokens];
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
            let notes = Notes {
                first_row: first,
                window: inputs.window,
                log_sums: &log_sums[first..end],
                means: &means[..rows],
            };
            softmax_backward(gradients, weights, end, notes);
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
struct Notes<'a> {
    first_row: usize,
    window: usize,
    log_sums: &'a [f32],
    /// `rowsum(dY ∘ Y)`
    means: &'a [f32],
}

/// Turns scores into probabilities, and gradients of probabilities into those of scores, both in place.
fn softmax_backward(gradient: &mut [f32], scores: &mut [f32], columns: usize, notes: Notes<'_>) {
    vectorized!((gradient: &'a mut [f32], scores: &'a mut [f32], columns: usize, notes: Notes<'a>) -> () {
        let Notes { first_row, window, log_sums, means } = notes;
        let rows = gradient.chunks_exact_mut(columns).zip(scores.chunks_exact_mut(columns)).enumerate();
        for (index, (gradient, scores)) in rows {
            let seen = seen(first_row, index, window);
            for row in [&mut *gradient, &mut *scores] {
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
            }
            let (log_sum, mean) = (log_sums[index], means[index]);
            for (gradient, score) in gradient[seen.clone()].iter_mut().zip(&mut scores[seen]) {
                *score = exp(*score - log_sum);
                *gradient = *score * (*gradient - mean);
            }
        }
    });
}
