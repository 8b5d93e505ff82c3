//! The output of the attention.

use super::super::math::vectorized;
use super::super::matmul::{Matrix, matmul_into};
use super::inputs::{BLOCK, Inputs, Note, Output, Scratch, Work, blocks, weights};

/// Writes the output, which is as long as the queries, and the notes on each softmax, `[heads, tokens]`.
pub(in super::super) fn forward(work: &Work<'_>, out: &mut [f32], notes: &mut [Note]) {
    assert_eq!(out.len(), work.query.len(), "output");
    assert_eq!(notes.len(), work.notes(), "notes");
    let outputs = (Output(out.as_mut_ptr()), Output(notes.as_mut_ptr()));
    work.for_each_head(|inputs, kv_head| {
        forward_head(&inputs, kv_head, &mut Scratch::new(&inputs), outputs);
    });
}

/// All query heads of one key and value head of one sequence.
fn forward_head(
    inputs: &Inputs<'_>,
    kv_head: usize,
    scratch: &mut Scratch,
    (out, notes): (Output<f32>, Output<Note>),
) {
    let (width, tokens) = (inputs.heads.head_dim, inputs.tokens);
    let (query_stride, key_stride) = (inputs.query_stride(), inputs.key_stride());
    let key_at = inputs.key_at(kv_head);
    inputs.rotated(&inputs.key[key_at..], key_stride, 1.0, &mut scratch.key);
    let mut block_notes = [Note::default(); BLOCK];
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
            let weights = weights(inputs, scratch, (first, end), &mut block_notes[..rows]);
            let weights = Matrix::new(weights, rows, end, end);
            let values = Matrix::new(&inputs.value[key_at..], end, width, key_stride);
            let place = out.at(query_at + first * query_stride);
            // SAFETY: `check` made sure that these rows of this head lie inside the output, which is as long as the
            // queries, and `forward` that the notes do; no other job has this sequence and head.
            unsafe {
                matmul_into(place, query_stride, weights, values, false);
                for (row, &[_, inverse]) in block_notes[..rows].iter().enumerate() {
                    scale(
                        std::slice::from_raw_parts_mut(place.add(row * query_stride), width),
                        inverse,
                    );
                }
                let notes = notes.at(inputs.notes_at(head) + first);
                std::ptr::copy_nonoverlapping(block_notes.as_ptr(), notes, rows);
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
