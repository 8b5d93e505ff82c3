//! What both halves of a layer do: the norm, and the rows that its linear layers multiply.

use std::ops::Range;

use super::attend::Norm;
use super::forms::{FORM_ROWS, Forms};
use super::layer::{Input, Layer};
use super::memory::Shared;
use super::rows::{low_pieces, low_rows, norm_rows};
use super::sums::Rows;

/// Layers that read the normed input, and a last one behind them that reads what they gave.
pub(super) struct Half<'a> {
    pub rows: usize,
    /// The input; in the last phase, the output.
    pub x: Shared<'a, f32>,
    /// The normed input, where there is a norm.
    pub normed: Shared<'a, f32>,
    /// What the last layer reads.
    pub inner: Shared<'a, f32>,
    pub norm: Norm<'a>,
    pub layers: &'a [Layer<'a>],
    /// `x A` of each layer.
    pub low: Vec<Shared<'a, f32>>,
    /// Those of the normed input and of the inner rows.
    pub forms: [Forms<'a>; 2],
}

/// A layer's adapter and some of its rows.
pub(super) type LowPiece = (usize, Range<usize>);

impl<'a> Half<'a> {
    /// The forms of rows that these layers need.
    pub fn forms(layers: &[Layer<'a>], rows: usize) -> [Forms<'a>; 2] {
        let (first, last) = layers.split_at(layers.len() - 1);
        [Forms::new(first, rows), Forms::new(last, rows)]
    }

    /// Index of the last layer.
    fn last(&self) -> usize {
        self.layers.len() - 1
    }

    /// Pieces of [`begin`](Self::begin).
    pub fn pieces(&self) -> usize {
        match self.norm {
            Some(_) => self.rows.div_ceil(FORM_ROWS),
            None => self.forms[0].pieces(),
        }
    }

    /// The adapters' first products of the layers before the last one, and of the last one.
    pub fn low_pieces(&self) -> [Vec<LowPiece>; 2] {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for piece in low_pieces(self.layers, self.rows) {
            if piece.0 == self.last() {
                &mut last
            } else {
                &mut first
            }
            .push(piece);
        }
        [first, last]
    }

    /// Norm and forms of a piece of the input.
    ///
    /// # Safety
    /// Nobody writes these rows of the input, and nobody else touches the normed ones.
    pub unsafe fn begin(&self, piece: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            norm_rows(self.x, self.norm, self.normed, self.layers[0].input, piece);
            if piece < self.forms[0].pieces() {
                self.forms[0].make(self.source(0), piece);
            }
        }
    }

    /// What lies between: an adapter's first product of the last layer, or behind those a form of the inner rows.
    ///
    /// # Safety
    /// The phase that writes the inner rows has ended, and nobody else has this piece.
    pub unsafe fn between(&self, low: &[LowPiece], piece: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match low.get(piece) {
                Some(piece) => self.low(piece.clone()),
                None => self.forms[1].make(self.inner, piece - low.len()),
            }
        }
    }

    /// # Safety
    /// As [`input`](Self::input), and nobody else writes these rows.
    pub unsafe fn low(&self, (layer, rows): LowPiece) {
        // SAFETY: the caller's promise.
        unsafe { low_rows(&self.layers[layer], self.source(layer), self.low[layer], rows) };
    }

    /// Where the rows lie that a layer multiplies.
    fn source(&self, layer: usize) -> Shared<'a, f32> {
        match self.norm {
            _ if layer == self.last() => self.inner,
            Some(_) => self.normed,
            None => self.x,
        }
    }

    /// What a layer multiplies.
    ///
    /// # Safety
    /// The phase that writes it has ended.
    pub unsafe fn input(&self, layer: usize) -> Input<'_> {
        let (memory, low) = (self.source(layer), &self.low[layer]);
        // SAFETY: the caller's promise.
        let (x, low) = unsafe { (memory.read(0..memory.len()), low.read(0..low.len())) };
        Input {
            rows: Rows {
                x,
                stride: self.layers[layer].input,
            },
            count: self.rows,
            first: 0,
            low,
            forms: &self.forms[usize::from(layer == self.last())],
        }
    }
}
