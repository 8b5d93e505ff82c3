//! Gradients of queries, keys and values.

use super::super::buffers::Buffer;
use super::super::math::{sum2, vectorized};
use super::super::matmul::{Matrix, matmul};
use super::inputs::{BLOCK, Inputs, Output, Scratch, Work, blocks, probabilities};

/// Writes the gradients of queries, keys and values, given that of the output.
pub(in super::super) fn backward(work: &Work<'_>, dy: &[f32], [dq, dk, dv]: [&mut [f32]; 3]) {
    assert_eq!(dy.len(), work.query.len(), "gradient");
    assert_eq!(
        (dq.len(), dk.len(), dv.len()),
        (work.query.len(), work.key.len(), work.value.len()),
        "gradients"
    );
    let outputs = [dq, dk, dv].map(|gradient| Output(gradient.as_mut_ptr()));
    work.for_each_head(|inputs, kv_head| {
        let mut gradients = HeadGradients::new(&inputs);
        backward_head(&inputs, dy, kv_head, &mut Scratch::new(&inputs), &mut gradients);
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

/// With `P` the probabilities: `dV = Pᵀ dY`, `dP = dY Vᵀ`, `dS = P ∘ (dP − rowsum(P ∘ dP))`, `dQ = dS K`, `dK = dSᵀ Q`.
fn backward_head(
    inputs: &Inputs<'_>,
    dy: &[f32],
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
    for (index, dq) in grads.query.chunks_exact_mut(tokens * width).enumerate() {
        let query_at = inputs.query_at(kv_head * group + index);
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
