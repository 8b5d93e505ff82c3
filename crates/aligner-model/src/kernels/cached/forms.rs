//! Rows in the forms that rounded weights multiply.

use std::sync::OnceLock;

use super::layer::Layer;
use super::memory::Shared;
use crate::kernels::quant::{Prepared, QuantizedWeight};

/// Rows that are brought into a form together: two tiles of the products with them.
pub(super) const FORM_ROWS: usize = 12;

/// The rows that some layers read, in the form of each format that those have: made once for all of them, block by block.
#[derive(Debug)]
pub(super) struct Forms<'a> {
    /// A weight of each format.
    weights: Vec<&'a QuantizedWeight>,
    blocks: Vec<OnceLock<Vec<Prepared>>>,
    rows: usize,
    width: usize,
}

impl<'a> Forms<'a> {
    /// What the layers need of so many rows; nothing is made yet.
    pub fn new(layers: &[Layer<'a>], rows: usize) -> Self {
        let mut weights: Vec<&QuantizedWeight> = Vec::new();
        for weight in layers.iter().filter_map(Layer::quantized) {
            if weights.iter().all(|known| known.format() != weight.format()) {
                weights.push(weight);
            }
        }
        let blocks = if weights.is_empty() {
            0
        } else {
            rows.div_ceil(FORM_ROWS)
        };
        Self {
            weights,
            blocks: (0..blocks).map(|_| OnceLock::new()).collect(),
            rows,
            width: layers.first().map_or(0, |layer| layer.input),
        }
    }

    /// Blocks that are to be made.
    pub fn pieces(&self) -> usize {
        self.blocks.len()
    }

    /// Makes a block.
    ///
    /// # Safety
    /// Nobody writes the rows meanwhile.
    pub unsafe fn make(&self, x: Shared<'_, f32>, block: usize) {
        let rows = block * FORM_ROWS..((block + 1) * FORM_ROWS).min(self.rows);
        // SAFETY: the caller's promise.
        let x = unsafe { x.read(rows.start * self.width..rows.end * self.width) };
        let prepare = |weight: &&QuantizedWeight| weight.prepare(x, rows.len());
        self.blocks[block].get_or_init(|| self.weights.iter().map(prepare).collect());
    }

    /// The rows of a block as `weight` multiplies them.
    ///
    /// # Panics
    /// When the block was not made, or not for such a weight.
    #[expect(
        clippy::expect_used,
        reason = "a phase makes all blocks of all formats before another reads them"
    )]
    pub fn block(&self, block: usize, weight: &QuantizedWeight) -> &Prepared {
        let at = self
            .weights
            .iter()
            .position(|known| known.format() == weight.format());
        let forms = self.blocks.get(block).and_then(OnceLock::get);
        forms
            .zip(at)
            .map(|(forms, at)| &forms[at])
            .expect("rows in the form of the weight")
    }
}
