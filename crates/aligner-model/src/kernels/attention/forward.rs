//! The output of the attention.

use super::super::matmul::{Matrix, matmul_into};
use super::inputs::{Inputs, Output, Scratch, Work, blocks, probabilities};

/// Writes the output, which is as long as the queries.
pub(in super::super) fn forward(work: &Work<'_>, out: &mut [f32]) {
    assert_eq!(out.len(), work.query.len(), "output");
    let output = Output(out.as_mut_ptr());
    work.for_each_head(|inputs, kv_head| {
        forward_head(&inputs, kv_head, &mut Scratch::new(&inputs), output);
    });
}

/// All query heads of one key and value head of one sequence.
fn forward_head(inputs: &Inputs<'_>, kv_head: usize, scratch: &mut Scratch, out: Output) {
    let (width, tokens) = (inputs.heads.head_dim, inputs.tokens);
    let (query_stride, key_stride) = (inputs.query_stride(), inputs.key_stride());
    let key_at = inputs.key_at(kv_head);
    inputs.rotated(&inputs.key[key_at..], key_stride, 1.0, &mut scratch.key);
    for head in kv_head * inputs.group()..(kv_head + 1) * inputs.group() {
        let query_at = inputs.query_at(head);
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
