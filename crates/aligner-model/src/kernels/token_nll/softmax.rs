//! The softmax over the vocabulary, of logits that come block by block: `[vocab, targets]`, a lane for each target.

use std::ops::Range;

use super::super::math::{exp, vectorized};
use super::super::panels::{WIDTH, panels_mut};

/// What is known of a block of logits, whose place `e^(logit − highest)` has taken.
pub(super) struct Part {
    /// Tokens of the vocabulary.
    rows: Range<usize>,
    /// Of each target.
    highest: Vec<f32>,
    /// Sum of the exponentials, of each target.
    sums: Vec<f32>,
    /// Targets whose ids lie in the block, and their logits.
    targets: Vec<(usize, f32)>,
}

/// Where the logit of a row and a target lies in a block.
fn at(rows: usize, row: usize, target: usize) -> usize {
    (target / WIDTH * rows + row) * WIDTH + target % WIDTH
}

impl Part {
    /// Turns a block of logits into exponentials.
    pub fn new(logits: &mut [f32], rows: Range<usize>, ids: &[u32]) -> Self {
        let targets = ids.iter().enumerate().filter_map(|(target, &id)| {
            let row = (id as usize).checked_sub(rows.start)?;
            (row < rows.len()).then(|| (target, logits[at(rows.len(), row, target)]))
        });
        let targets = targets.collect();
        let lanes = ids.len().next_multiple_of(WIDTH);
        let (mut highest, mut sums) = (vec![f32::NEG_INFINITY; lanes], vec![0.0f32; lanes]);
        let parts = highest.chunks_exact_mut(WIDTH).zip(sums.chunks_exact_mut(WIDTH));
        for (panel, (highest, sums)) in panels_mut(logits, rows.len(), ids.len()).zip(parts) {
            vectorized!((panel: &'a mut [f32], highest: &'a mut [f32], sums: &'a mut [f32]) -> () {
                let (rows, _) = panel.as_chunks_mut::<WIDTH>();
                let (mut most, mut total) = ([f32::NEG_INFINITY; WIDTH], [0.0f32; WIDTH]);
                for row in rows.iter() {
                    for (most, &logit) in most.iter_mut().zip(row) {
                        *most = if logit <= *most { *most } else { logit };
                    }
                }
                for row in rows {
                    for lane in 0..WIDTH {
                        row[lane] = exp(row[lane] - most[lane]);
                        total[lane] += row[lane];
                    }
                }
                highest.copy_from_slice(&most);
                sums.copy_from_slice(&total);
            });
        }
        Self {
            rows,
            highest,
            sums,
            targets,
        }
    }

    /// Turns the block's exponentials into the gradient of the loss, `softmax − one_hot(id)`.
    pub fn gradient(&self, exponentials: &mut [f32], wholes: &[Whole]) {
        let panels = panels_mut(exponentials, self.rows.len(), wholes.len());
        for (panel, (wholes, highest)) in panels.zip(wholes.chunks(WIDTH).zip(self.highest.chunks(WIDTH))) {
            let mut all = [0.0f32; WIDTH];
            for ((factor, whole), &highest) in all.iter_mut().zip(wholes).zip(highest) {
                *factor = ((f64::from(highest) - whole.highest).exp() / whole.sum) as f32;
            }
            let factors = &all;
            vectorized!((panel: &'a mut [f32], factors: &'a [f32; WIDTH]) -> () {
                for row in panel.as_chunks_mut::<WIDTH>().0 {
                    row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
                }
            });
        }
        for &(target, _) in &self.targets {
            let row = wholes[target].id as usize - self.rows.start;
            exponentials[at(self.rows.len(), row, target)] -= 1.0;
        }
    }
}

/// A target's softmax over the whole vocabulary.
pub(super) struct Whole {
    id: u32,
    highest: f64,
    /// Sum of `e^(logit − highest)`.
    sum: f64,
    /// `−log softmax[id]`, in nats.
    pub loss: f64,
}

impl Whole {
    /// Of each target, from all parts.
    pub fn of(parts: &[Part], ids: &[u32]) -> Vec<Self> {
        let mut logits = vec![f64::NAN; ids.len()];
        for &(target, logit) in parts.iter().flat_map(|part| &part.targets) {
            logits[target] = f64::from(logit);
        }
        let one = |((target, &id), logit): ((usize, &u32), f64)| {
            let each = || {
                parts
                    .iter()
                    .map(|part| (f64::from(part.highest[target]), part.sums[target]))
            };
            let highest = each().fold(f64::NEG_INFINITY, |most, (highest, _)| most.max(highest));
            let sum = each()
                .map(|(part, sum)| f64::from(sum) * (part - highest).exp())
                .sum::<f64>();
            Self {
                id,
                highest,
                sum,
                loss: sum.ln() + highest - logit,
            }
        };
        ids.iter().enumerate().zip(logits).map(one).collect()
    }
}
