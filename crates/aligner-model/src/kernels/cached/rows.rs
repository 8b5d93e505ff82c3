//! What the halves of a layer do with rows between products.

use std::ops::Range;

use super::attend::Norm;
use super::forms::FORM_ROWS;
use super::layer::Layer;
use super::memory::Shared;
use super::sums::Rows;
use crate::kernels::math::vectorized;
use crate::kernels::panels::WIDTH;
use crate::kernels::rms_norm::inverse_root;

/// Rows of a piece of an adapter's first product.
const LOW_ROWS: usize = 16;

/// The norm of a piece of the rows.
///
/// # Safety
/// Nobody writes these rows of `x`, and nobody else touches those of `out`.
pub(super) unsafe fn norm_rows(
    x: Shared<'_, f32>,
    norm: Norm<'_>,
    out: Shared<'_, f32>,
    width: usize,
    piece: usize,
) {
    let Some((weight, epsilon)) = norm else { return };
    let rows = piece * FORM_ROWS * width..((piece + 1) * FORM_ROWS * width).min(x.len());
    // SAFETY: the caller's promise.
    let (x, out) = unsafe { (x.read(rows.clone()), out.write(rows)) };
    vectorized!((out: &'a mut [f32], x: &'a [f32], weight: &'a [f32], epsilon: f32) -> () {
        let width = weight.len();
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let root = inverse_root(x, epsilon);
            for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * root * weight;
            }
        }
    });
}

/// The first products of the adapters of some layers, cut by rows.
pub(super) fn low_pieces(layers: &[Layer<'_>], rows: usize) -> Vec<(usize, Range<usize>)> {
    let adapted = layers.iter().enumerate().filter(|(_, layer)| layer.rank() > 0);
    let starts = |index: usize| (0..rows).step_by(LOW_ROWS).map(move |first| (index, first));
    adapted
        .flat_map(|(index, _)| starts(index))
        .map(|(index, first)| (index, first..(first + LOW_ROWS).min(rows)))
        .collect()
}

/// `x A` of some rows.
///
/// # Safety
/// Nobody writes these rows of `x`, and nobody else touches those of `low`.
pub(super) unsafe fn low_rows(
    layer: &Layer<'_>,
    x: Shared<'_, f32>,
    low: Shared<'_, f32>,
    rows: Range<usize>,
) {
    let (width, rank) = (layer.input, layer.rank());
    // SAFETY: the caller's promise.
    let (x, low) = unsafe {
        (
            x.read(rows.start * width..rows.end * width),
            low.write(rows.start * rank..rows.end * rank),
        )
    };
    layer.low(Rows { x, stride: width }, low);
}

/// Puts a tile into rows of a layer's output, or adds it.
///
/// # Safety
/// Nobody else touches this panel's columns of these rows; what is added to is there.
pub(super) unsafe fn store_tile(
    out: Shared<'_, f32>,
    layer: &Layer<'_>,
    (panel, first): (usize, usize),
    tile: &[[f32; WIDTH]],
    add: bool,
) {
    let width = layer.width(panel);
    for (row, tile) in (first..).zip(tile) {
        let at = row * layer.output + panel * WIDTH;
        // SAFETY: the caller's promise.
        unsafe {
            if !add {
                out.put(at, tile, width);
                continue;
            }
            let out = out.write(at..at + width);
            match <&mut [f32; WIDTH]>::try_from(&mut *out) {
                Ok(out) => out.iter_mut().zip(tile).for_each(|(out, tile)| *out += tile),
                Err(_) => out.iter_mut().zip(tile).for_each(|(out, tile)| *out += tile),
            }
        }
    }
}
