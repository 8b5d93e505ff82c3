//! The output of the attention.

use super::super::math::vectorized;
use super::super::matmul::{Matrix, matmul_into};
use super::inputs::{BLOCK, Inputs, Output, Scratch, Work, blocks, weights};

/// Writes the output, which is as long as the queries, and the logarithm of each softmax's denominator, `[heads, tokens]`.
pub(in super::super) fn forward(work: &Work<'_>, out: &mut [f32], log_sums: &mut [f32]) {
    assert_eq!(out.len(), work.query.len(), "output");
    assert_eq!(log_sums.len(), work.notes(), "log sums");
    let outputs = [out, log_sums].map(|output| Output(output.as_mut_ptr()));
    work.for_each_head(|inputs, kv_head| {
        forward_head(&inputs, kv_head, &mut Scratch::new(&inputs), outputs);
    });
}

/// All query heads of one key and value head of one sequence.
fn forward_head(inputs: &Inputs<'_>, kv_head: usize, scratch: &mut Scratch, [out, log_sums]: [Output; 2]) {
    let (width, tokens) = (inputs.heads.head_dim, inputs.tokens);
    let (query_stride, key_stride) = (inputs.query_stride(), inputs.key_stride());
    let key_at = inputs.key_at(kv_head);
    inputs.rotated(&inputs.key[key_at..], key_stride, 1.0, &mut scratch.key);
    let (mut block_sums, mut inverse_sums) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
    for head in kv_head * inputs.group()..(kv_head + 1) * inputs.group() {
        let query_at = inputs.query_at(head);
        inputs.rotated(
            &inputs.query[query_at..],
            query_stride,
            inputs.scale,
            &mut scratch.query,
        );
        for (first, end) in blocks(tokens) {
            let rows = end - first;
            let weights = weights(
                inputs,
                scratch,
                (first, end),
                [&mut block_sums, &mut inverse_sums],
            );
            let weights = Matrix::new(weights, rows, end, end);
            let values = Matrix::new(&inputs.value[key_at..], end, width, key_stride);
            let place = out.at(query_at + first * query_stride);
            // SAFETY: `check` made sure that these rows of this head lie inside the output, which is as long as the
            // queries, and `forward` that the notes do; no other job has this sequence and head.
            unsafe {
                matmul_into(place, query_stride, weights, values, false);
                for (row, &inverse) in inverse_sums[..rows].iter().enumerate() {
                    scale(
                        std::slice::from_raw_parts_mut(place.add(row * query_stride), width),
                        inverse,
                    );
                }
                let notes = log_sums.at(inputs.notes_at(head) + first);
                std::ptr::copy_nonoverlapping(block_sums.as_ptr(), notes, rows);
            };
        }
    }
}

fn scale(row: &mut [f32], factor: f32) {
    vectorized!((row: &'a mut [f32], factor: f32) -> () {
        for x in row {
            *x *= factor;
        }
    });
}
