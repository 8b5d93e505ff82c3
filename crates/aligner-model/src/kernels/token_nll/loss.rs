//! The loss and its gradients, some hundred targets at a time.
//!
//! Logits lie the other way round, `[vocab, targets]`, in blocks of about a hundred tokens of the vocabulary: so all three products read
//! the weight a block at a time, which is rearranged right before them, and no large copy of it is made. A block goes through product
//! and softmax, and later through its gradient's two products, while it is in the processor's cache.

use std::ops::Range;

use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use rayon::prelude::*;

use super::super::buffers::Buffer;
use super::super::flex::{elements, tensor};
use super::super::matrix::Matrix;
use super::super::output::Output;
use super::super::panels::{
    Block, Form, Grid, OwnBlock, Packed, Panels, Run, Start, Term, WIDTH, column_tile, multiply,
    multiply_into,
};
use super::softmax::{Part, Whole};
use super::{HeadLayout, Plan};

/// Logits that exist at once: 64 MiB of them.
const LOGITS: usize = 1 << 24;
/// Elements of the partial sums of the rows' gradients, up to which there are more of them.
const SUMS: usize = 1 << 22;

/// Gradients of rows and weight for a gradient of 1 of the loss.
pub(super) type HeadGradients = [Option<Vec<f32>>; 2];

/// The loss, and the gradients that are `wanted`.
pub(super) fn loss(
    rows: &FloatTensor<Flex>,
    weight: &FloatTensor<Flex>,
    (layout, ids, precision): &Plan,
    wanted: [bool; 2],
) -> (FloatTensor<Flex>, HeadGradients) {
    let shape = weight.shape();
    let (vocab, hidden) = match layout {
        HeadLayout::ByToken => (shape[0], shape[1]),
        HeadLayout::ByInput => (shape[1], shape[0]),
    };
    assert!(
        ids.iter().all(|&id| (id as usize) < vocab),
        "an id beyond the vocabulary"
    );
    let rows = elements(Some(rows)).unwrap_or_default();
    assert_eq!(rows.len(), ids.len() * hidden, "a row for each id");
    let head = Head {
        weight: elements(Some(weight)).unwrap_or_default(),
        layout: *layout,
        hidden,
        grid: Grid::new(vocab),
        form: Form::of(*precision),
    };
    assert_eq!(head.weight.len(), vocab * hidden, "output projection");
    let mut d_rows = wanted[0].then(|| vec![0.0; rows.len()]);
    let mut d_weight = wanted[1].then(|| vec![0.0; head.weight.len()]);
    let mut total = 0.0f64;
    let chunk = targets_at_once(ids.len(), vocab);
    for (index, ids) in ids.chunks(chunk).enumerate() {
        let range = index * chunk * hidden..(index * chunk + ids.len()) * hidden;
        let targets = Matrix::new(&rows[range.clone()], ids.len(), hidden, hidden);
        let mut logits = Panels::new(&head.grid, ids.len());
        let (parts, wholes) = head.softmax(targets, ids, &mut logits);
        total += wholes.iter().map(|whole| whole.loss).sum::<f64>();
        if wanted == [false; 2] {
            continue;
        }
        let gradient = Gradient {
            parts: &parts,
            wholes: &wholes,
            targets,
        };
        let d_rows = d_rows.as_mut().map(|all| &mut all[range]);
        let d_weight = d_weight.as_mut().map(|all| (Output::new(all), index > 0));
        head.gradients(logits, gradient, d_rows, d_weight);
    }
    (tensor(vec![total as f32], [1].into()), [d_rows, d_weight])
}

/// Targets whose logits exist at once: about equally many each time, in whole panels.
fn targets_at_once(targets: usize, vocab: usize) -> usize {
    let most = (LOGITS / vocab.max(1) / WIDTH).max(1) * WIDTH;
    let times = targets.div_ceil(most).max(1);
    targets.div_ceil(times).next_multiple_of(WIDTH).max(WIDTH)
}

/// The output projection.
struct Head<'a> {
    weight: &'a [f32],
    layout: HeadLayout,
    hidden: usize,
    /// The vocabulary in blocks.
    grid: Grid,
    form: Form,
}

/// What the gradient of the logits is made of.
#[derive(Clone, Copy)]
struct Gradient<'a> {
    parts: &'a [Part],
    wholes: &'a [Whole],
    /// `[targets, hidden]`
    targets: Matrix<'a>,
}

impl Head<'_> {
    /// Some tokens of the vocabulary, `[tokens, hidden]`.
    fn block(&self, tokens: Range<usize>) -> OwnBlock {
        let (vocab, hidden) = (self.grid.rows(), self.hidden);
        OwnBlock::of(match self.layout {
            HeadLayout::ByToken => Matrix::new(
                &self.weight[tokens.start * hidden..],
                tokens.len(),
                hidden,
                hidden,
            ),
            HeadLayout::ByInput => {
                Matrix::new(&self.weight[tokens.start..], hidden, tokens.len(), vocab).transposed()
            }
        })
    }

    /// Writes the exponentials of the logits.
    fn softmax(&self, targets: Matrix<'_>, ids: &[u32], logits: &mut Panels) -> (Vec<Part>, Vec<Whole>) {
        let columns = Packed::new(self.form, targets.transposed(), 1.0);
        let parts: Vec<Part> = logits
            .blocks_mut()
            .into_par_iter()
            .enumerate()
            .map(|(index, logits)| {
                let tokens = self.grid.block(index);
                let weight = self.block(tokens.clone()).over_columns(self.form);
                let term = Term {
                    block: weight.block(),
                    weights: &columns,
                };
                multiply_into(&[term], logits);
                Part::new(logits, tokens, ids)
            })
            .collect();
        let wholes = Whole::of(&parts, ids);
        (parts, wholes)
    }

    /// Sets the gradient of the rows, and sets that of the weight or adds to it.
    fn gradients(
        &self,
        mut logits: Panels,
        gradient: Gradient<'_>,
        d_rows: Option<&mut [f32]>,
        d_weight: Option<(Output<f32>, bool)>,
    ) {
        let rows = d_weight.map(|_| Packed::new(self.form, gradient.targets, 1.0));
        let mut blocks: Vec<_> = logits.blocks_mut().into_iter().enumerate().collect();
        // How many partial sums there are depends on shapes alone, and so does what comes out.
        let sums = Sums::len(gradient.targets);
        let slices = (SUMS / sums.max(1)).clamp(8, 32);
        let sums: Vec<Option<Sums>> = blocks
            .par_chunks_mut(self.grid.blocks().div_ceil(slices).max(1))
            .map(|blocks| {
                let mut sums = d_rows.as_ref().map(|_| Sums::new(gradient.targets));
                for (index, logits) in blocks {
                    let tokens = self.grid.block(*index);
                    gradient.parts[*index].gradient(logits, gradient.wholes);
                    let logits = Block::new(logits, tokens.len(), gradient.targets.rows);
                    if let Some(sums) = &mut sums {
                        let weight = self.block(tokens.clone());
                        sums.add(self.form, logits, weight.block());
                    }
                    if let (Some((out, add)), Some(rows)) = (d_weight, &rows) {
                        // SAFETY: the output is as large as the weight, and no other job has these tokens.
                        unsafe { self.weight_gradient(logits, rows, tokens.start, (out, add)) };
                    }
                }
                sums
            })
            .collect();
        if let Some(d_rows) = d_rows {
            Sums::total(
                &sums.into_iter().flatten().collect::<Vec<_>>(),
                d_rows,
                self.hidden,
            );
        }
    }

    /// The gradient of some tokens' weights.
    ///
    /// # Safety
    /// `out` is as large as the weight, and nobody else touches what belongs to the tokens from `first` on.
    unsafe fn weight_gradient(
        &self,
        logits: Block<'_>,
        rows: &Packed,
        first: usize,
        (out, add): (Output<f32>, bool),
    ) {
        let store = |at: usize, values: &[f32]| {
            // SAFETY: elements of these tokens, as the caller promises.
            let out = unsafe { out.part(at, values.len()) };
            match add {
                true => out.iter_mut().zip(values).for_each(|(out, value)| *out += value),
                false => out.copy_from_slice(values),
            }
        };
        let logits = logits.over_columns(self.form);
        for panel in 0..rows.panels() {
            let column = panel * WIDTH;
            let width = WIDTH.min(self.hidden - column);
            multiply(
                &[Term {
                    block: logits.block(),
                    weights: rows,
                }],
                panel,
                |row, tile| match self.layout {
                    HeadLayout::ByToken => {
                        for (row, tile) in (first + row..).zip(tile) {
                            store(row * self.hidden + column, &tile[..width]);
                        }
                    }
                    HeadLayout::ByInput => {
                        let mut values = [0.0; WIDTH];
                        for column in 0..width {
                            let values = &mut values[..tile.len()];
                            values
                                .iter_mut()
                                .zip(&*tile)
                                .for_each(|(value, row)| *value = row[column]);
                            store((panel * WIDTH + column) * self.grid.rows() + first + row, values);
                        }
                    }
                },
            );
        }
    }
}

/// A sum of products for the gradient of the rows, in squares: `[panels of targets][panels of hidden][WIDTH][WIDTH]`.
struct Sums {
    memory: Buffer,
    panels: [usize; 2],
}

impl Sums {
    fn len(targets: Matrix<'_>) -> usize {
        targets.rows.next_multiple_of(WIDTH) * targets.columns.next_multiple_of(WIDTH)
    }

    fn new(targets: Matrix<'_>) -> Self {
        let mut memory = Buffer::take(Self::len(targets));
        memory.fill(0.0);
        Self {
            memory,
            panels: [targets.rows, targets.columns].map(|len| len.div_ceil(WIDTH)),
        }
    }

    /// Adds `logitsᵀ · weight`.
    fn add(&mut self, form: Form, logits: Block<'_>, weight: Block<'_>) {
        let (isa, [_, columns]) = (form.isa(), self.panels);
        let (logits, weight) = (logits.over_rows(form), weight.over_rows(form));
        let (logits, weight) = (logits.block(), weight.block());
        for (index, square) in self.memory.chunks_exact_mut(WIDTH * WIDTH).enumerate() {
            let (rows, _) = square.as_chunks_mut::<WIDTH>();
            if let Some(out) = rows.first_chunk_mut::<WIDTH>() {
                let run = Run::single(
                    logits.panel(index / columns),
                    weight.panel(index % columns),
                    logits.rows(),
                );
                column_tile(isa, &[run], Start::Held, out, WIDTH);
            }
        }
    }

    /// The sum of all, as rows.
    fn total(all: &[Self], out: &mut [f32], hidden: usize) {
        out.par_chunks_mut(hidden.max(1))
            .enumerate()
            .for_each(|(row, out)| {
                for (panel, out) in out.chunks_mut(WIDTH).enumerate() {
                    for sums in all {
                        let square = row / WIDTH * sums.panels[1] + panel;
                        let values = &sums.memory[(square * WIDTH + row % WIDTH) * WIDTH..][..WIDTH];
                        out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
                    }
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shared_out_evenly_in_whole_panels() {
        assert_eq!(targets_at_once(0, 49152), 32);
        assert_eq!(targets_at_once(20, 49152), 32);
        assert_eq!(targets_at_once(320, 49152), 320);
        assert_eq!(targets_at_once(400, 49152), 224);
        assert_eq!(targets_at_once(1000, 1 << 30), 32);
    }
}
