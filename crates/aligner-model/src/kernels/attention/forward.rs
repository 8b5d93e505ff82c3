//! The output of the attention.

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use rayon::prelude::*;

use super::super::flex::tensor;
use super::super::matmul::{Matrix, matmul_into};
use super::AttentionSettings;
use super::inputs::{Angles, Inputs, Output, Scratch, blocks, probabilities, with_inputs};

pub(super) fn forward(
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
