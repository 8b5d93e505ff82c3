//! The output of the attention.

use super::super::buffers::Buffer;
use super::super::math::{exp, maximum, sum2, vectorized};
use super::super::output::Output;
use super::super::panels::{TILE, WIDTH};
use super::block::{BLOCK, Block, lanes};
use super::head::{Columns, Rows};
use super::inputs::{Inputs, Note, Work};

/// Writes the output, which is as long as the queries, and the notes on each softmax, `[heads, tokens]`.
pub(in super::super) fn forward(work: &Work<'_>, out: &mut [f32], notes: &mut [Note]) {
    assert_eq!(out.len(), work.query.len(), "output");
    assert_eq!(notes.len(), work.notes(), "notes");
    let outputs = (Output::new(out), Output::new(notes));
    work.for_each_head(|inputs, kv_head| forward_head(&inputs, kv_head, outputs));
}

/// All query heads of one key and value head of one sequence.
fn forward_head(inputs: &Inputs<'_>, kv_head: usize, (out, notes): (Output<f32>, Output<Note>)) {
    let (width, tokens) = (inputs.heads.head_dim, inputs.tokens);
    let (query_stride, key_stride) = (inputs.query_stride(), inputs.key_stride());
    let key_at = inputs.key_at(kv_head);
    let form = inputs.form;
    let keys = Columns::of(&inputs.rotated(&inputs.key[key_at..], key_stride, 1.0)).over_columns(form);
    let values = Rows::copied(&inputs.value[key_at..], key_stride, (tokens, width));
    let values = values.over_tokens(form).unwrap_or(values);
    let mut scores = Buffer::take(Block::scores_len(tokens));
    let mut block_notes = [Note::default(); BLOCK];
    for head in inputs.queries_of(kv_head) {
        let query_at = inputs.query_at(head);
        let queries = inputs.rotated(&inputs.query[query_at..], query_stride, inputs.scale);
        let queries = queries.over_columns(form).unwrap_or(queries);
        for block in Block::all(tokens, inputs.window) {
            let block_notes = &mut block_notes[..block.rows()];
            block.scores(form, &queries, &keys, &mut scores);
            exponentials(&mut scores, block, block_notes);
            block.weighted(form, &scores, &values, |row, panel, sums| {
                let columns = WIDTH.min(width - panel * WIDTH);
                for (row, sums) in (row..).zip(sums) {
                    let at = query_at + (block.first() + row) * query_stride + panel * WIDTH;
                    let [_, inverse] = block_notes[row];
                    // SAFETY: `check` made sure that these elements of a row of this head lie inside the output, which is as long
                    // as the queries; no other job has this sequence and head.
                    let out = unsafe { out.part(at, columns) };
                    out.iter_mut()
                        .zip(sums)
                        .for_each(|(out, sum)| *out = sum * inverse);
                }
            });
            // SAFETY: `forward` made sure that the notes are there; no other job has this sequence and head.
            let notes = unsafe { notes.part(inputs.notes_at(head) + block.first(), block.rows()) };
            notes.copy_from_slice(block_notes);
        }
    }
}

/// Turns scores into `e^(score − highest)` where a query sees, and 0 elsewhere.
fn exponentials(scores: &mut [f32], block: Block, notes: &mut [Note]) {
    vectorized!((scores: &'a mut [f32], block: Block, notes: &'a mut [Note]) -> () {
        for (row, note) in notes.iter_mut().enumerate() {
            let (seen, panels) = (block.seen(row), block.panels_of(row / TILE));
            let mut highest = [f32::NEG_INFINITY; WIDTH];
            for panel in panels.clone() {
                let scores = &mut scores[block.at(row, panel)..][..WIDTH];
                let lanes = lanes(&seen, panel);
                if lanes != (0..WIDTH) {
                    scores[..lanes.start].fill(f32::NEG_INFINITY);
                    scores[lanes.end..].fill(f32::NEG_INFINITY);
                }
                for (highest, &score) in highest.iter_mut().zip(&*scores) {
                    *highest = if score <= *highest { *highest } else { score };
                }
            }
            let highest = maximum(&highest);
            let mut sums = [0.0f32; WIDTH];
            for panel in panels {
                let scores = &mut scores[block.at(row, panel)..][..WIDTH];
                for score in scores.iter_mut() {
                    *score = exp(*score - highest);
                }
                let lanes = lanes(&seen, panel);
                if lanes != (0..WIDTH) {
                    scores[..lanes.start].fill(0.0);
                    scores[lanes.end..].fill(0.0);
                }
                sums.iter_mut().zip(&*scores).for_each(|(sum, score)| *sum += score);
            }
            *note = [highest, 1.0 / sum2(&sums, &sums, |sum, _| sum)];
        }
    });
}
