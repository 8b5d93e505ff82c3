//! Gradients of queries, keys and values.

use super::super::buffers::Buffer;
use super::super::math::{exp, sum2, vectorized};
use super::super::output::Output;
use super::super::panels::{Form, TILE, WIDTH};
use super::block::{BLOCK, Block, lanes};
use super::head::{Columns, Rows};
use super::inputs::{Inputs, Note, Work};

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
    let outputs = [dq, dk, dv].map(Output::new);
    work.for_each_head(|inputs, kv_head| backward_head(&inputs, given, kv_head, outputs));
}

/// What all query heads of one key and value head read, as products do.
struct Keys {
    rows: Rows,
    columns: Columns,
    values: Columns,
}

/// What is a factor of scores and of a sum over tokens, as products read either; not made where they read the rows as they are.
struct Sides {
    rows: Rows,
    scores: Option<Rows>,
    tokens: Option<Rows>,
}

impl Sides {
    fn of(rows: Rows, form: Form) -> Self {
        Self {
            scores: rows.over_columns(form),
            tokens: rows.over_tokens(form),
            rows,
        }
    }

    fn of_scores(&self) -> &Rows {
        self.scores.as_ref().unwrap_or(&self.rows)
    }

    fn of_tokens(&self) -> &Rows {
        self.tokens.as_ref().unwrap_or(&self.rows)
    }
}

/// Scratch of one block.
struct Scratch {
    /// Scores, then probabilities.
    weights: Buffer,
    /// Gradients of probabilities, then of scores.
    gradients: Buffer,
}

/// Gradients of one key and value head.
struct KeyGradients {
    keys: Rows,
    values: Rows,
}

fn backward_head(inputs: &Inputs<'_>, given: Given<'_>, kv_head: usize, [dq, dk, dv]: [Output<f32>; 3]) {
    let (width, tokens, key_stride) = (inputs.heads.head_dim, inputs.tokens, inputs.key_stride());
    let key_at = inputs.key_at(kv_head);
    let form = inputs.form;
    let rows = inputs.rotated(&inputs.key[key_at..], key_stride, 1.0);
    let keys = Keys {
        columns: Columns::of(&rows).over_columns(form),
        rows: rows.over_tokens(form).unwrap_or(rows),
        values: Columns::of(&Rows::copied(
            &inputs.value[key_at..],
            key_stride,
            (tokens, width),
        ))
        .over_columns(form),
    };
    let mut scratch = {
        let len = Block::scores_len(tokens);
        Scratch {
            weights: Buffer::take(len),
            gradients: Buffer::take(len),
        }
    };
    let mut grads = KeyGradients {
        keys: Rows::zeros(tokens, width),
        values: Rows::zeros(tokens, width),
    };
    for head in inputs.queries_of(kv_head) {
        query_head(inputs, given, head, &keys, &mut scratch, (dq, &mut grads));
    }
    for row in 0..tokens {
        let at = key_at + row * key_stride;
        // SAFETY: `check` made sure that this row of this head lies inside both gradients, which are as long as their inputs; no
        // other job has this sequence and head.
        let (dk, dv) = unsafe { (dk.part(at, width), dv.part(at, width)) };
        grads.keys.read(row, dk);
        inputs.unrotate(row, dk, 1.0);
        grads.values.read(row, dv);
    }
}

/// With `P` the probabilities: `dV = Pᵀ dY`, `dP = dY Vᵀ`, `dS = P ∘ (dP − rowsum(dY ∘ Y))`, `dQ = dS K`, `dK = dSᵀ Q`.
///
/// `P` comes from the notes; `rowsum(P ∘ dP) = rowsum(dY ∘ Y)` is a sum over a head's width instead of over all keys (Dao 2023,
/// arXiv 2307.08691, algorithm 2).
fn query_head(
    inputs: &Inputs<'_>,
    given: Given<'_>,
    head: usize,
    keys: &Keys,
    scratch: &mut Scratch,
    (dq, grads): (Output<f32>, &mut KeyGradients),
) {
    let (width, stride, at) = (
        inputs.heads.head_dim,
        inputs.query_stride(),
        inputs.query_at(head),
    );
    let form = inputs.form;
    let queries = Sides::of(inputs.rotated(&inputs.query[at..], stride, inputs.scale), form);
    let dy = Sides::of(
        Rows::copied(&given.dy[at..], stride, (inputs.tokens, width)),
        form,
    );
    let notes = &given.notes[inputs.notes_at(head)..][..inputs.tokens];
    let Scratch { weights, gradients } = scratch;
    let mut means = [0.0f32; BLOCK];
    for block in Block::all(inputs.tokens, inputs.window) {
        let means = &mut means[..block.rows()];
        for (row, mean) in (block.first()..).zip(&mut *means) {
            let [dy, out] = [given.dy, given.out].map(|x| &x[at + row * stride..][..width]);
            *mean = dot(dy, out);
        }
        block.scores(form, queries.of_scores(), &keys.columns, weights);
        block.scores(form, dy.of_scores(), &keys.values, gradients);
        let notes = &notes[block.first()..][..block.rows()];
        softmax_backward(gradients, weights, block, (notes, means));
        block.add_transposed(form, weights, dy.of_tokens(), &mut grads.values);
        block.add_transposed(form, gradients, queries.of_tokens(), &mut grads.keys);
        // SAFETY: `check` made sure that these elements of a row of this head lie inside the gradient, which is as long as the
        // queries; no other job has this sequence and head.
        let row_of = |row: usize, first: usize, len: usize| unsafe {
            dq.part(at + (block.first() + row) * stride + first, len)
        };
        block.weighted(form, gradients, &keys.rows, |row, panel, sums| {
            let columns = WIDTH.min(width - panel * WIDTH);
            for (row, sums) in (row..).zip(sums) {
                row_of(row, panel * WIDTH, columns).copy_from_slice(&sums[..columns]);
            }
        });
        for row in 0..block.rows() {
            inputs.unrotate(block.first() + row, row_of(row, 0, width), inputs.scale);
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    vectorized!((a: &'a [f32], b: &'a [f32]) -> f32 { sum2(a, b, |a, b| a * b) })
}

/// Turns scores into probabilities, and gradients of probabilities into those of scores, both in place.
///
/// `means` are `rowsum(dY ∘ Y)`.
fn softmax_backward(
    gradients: &mut [f32],
    scores: &mut [f32],
    block: Block,
    (notes, means): (&[Note], &[f32]),
) {
    vectorized!((
        gradients: &'a mut [f32], scores: &'a mut [f32], block: Block, notes: &'a [Note], means: &'a [f32]
    ) -> () {
        for (row, (&[highest, inverse_sum], &mean)) in notes.iter().zip(means).enumerate() {
            let seen = block.seen(row);
            for panel in block.panels_of(row / TILE) {
                let at = block.at(row, panel);
                let (gradients, scores) = (&mut gradients[at..][..WIDTH], &mut scores[at..][..WIDTH]);
                for (gradient, score) in gradients.iter_mut().zip(&mut *scores) {
                    *score = exp(*score - highest) * inverse_sum;
                    *gradient = *score * (*gradient - mean);
                }
                let lanes = lanes(&seen, panel);
                if lanes != (0..WIDTH) {
                    for part in [gradients, scores] {
                        part[..lanes.start].fill(0.0);
                        part[lanes.end..].fill(0.0);
                    }
                }
            }
        }
    });
}
