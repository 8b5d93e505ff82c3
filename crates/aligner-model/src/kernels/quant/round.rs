//! Rounding: weights once, when a model is read, and activations before every product.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::layout::{BLOCK, in_fours};
use super::tile::Isa;
use crate::kernels::math::vectorized;

/// 1.5 · 2²³: added to a small number, it leaves the nearest whole one in the lowest bits, of two the even one.
const ROUND: f32 = 12_582_912.0;
/// Sums that are added up side by side.
const LANES: usize = 8;
/// Magnitudes below this become zero: a 127th of them has no inverse.
const SMALLEST: f32 = 1e-35;
const SIGN: u32 = 0x8000_0000;
const INFINITE: u32 = 0x7f80_0000;

/// The nearest number of bf16, of two the even one; what is beyond the largest becomes that.
#[inline(always)]
pub(super) fn round_bf16(value: f32) -> u16 {
    let rounded = nearest_bf16(value);
    if rounded & 0x7f80 == 0x7f80 {
        return ((value.to_bits() & SIGN) >> 16) as u16 | 0x7f7f;
    }
    rounded
}

/// The nearest number of bf16, of two the even one; what is not finite, or beyond the largest, is not finite.
#[inline(always)]
pub(super) fn nearest_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Rounding may turn a NaN into infinity or zero.
    let quiet = (bits >> 16) | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

#[inline(always)]
fn from_bf16(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// Integers from −127 to 127 and their scale in bf16.
///
/// The integers are rounded for the scale as it is stored, so that none of it is lost: `|w − q · scale| ≤ scale / 2`. (A scale
/// that was rounded down by all of 2⁻⁹ makes the largest element 127.25.)
#[inline(always)]
pub(super) fn round_q8(weights: &[f32; BLOCK]) -> ([i8; BLOCK], u16) {
    let largest = weights
        .iter()
        .fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    if largest < SMALLEST {
        return ([0; BLOCK], 0);
    }
    let scale = round_bf16(largest / 127.0);
    let inverse = 1.0 / from_bf16(scale);
    let value = |weight: f32| (weight * inverse + ROUND - ROUND).clamp(-127.0, 127.0) as i8;
    (std::array::from_fn(|i| value(weights[i])), scale)
}

/// Integers from −8 to 7 and their scale in bf16, whose sign may be either.
///
/// The scale is the best of eight: for each guess the integers are rounded, the scale that suits these integers best (by least
/// squares) is rounded to bf16, and the integers once more for that. Guesses put the largest element between 7 and 8.5 steps from
/// zero, on either side, as only one side has an eighth.
#[inline(always)]
pub(super) fn round_q4(weights: &[f32; BLOCK]) -> ([i8; BLOCK], u16) {
    const GUESSES: [f32; 8] = [-7.0, 7.0, -7.5, 7.5, -8.0, 8.0, -8.5, 8.5];
    let largest = weights.iter().fold(0.0f32, |largest, &weight| {
        if weight.abs() > largest.abs() {
            weight
        } else {
            largest
        }
    });
    if largest.abs() < SMALLEST {
        return ([0; BLOCK], 0);
    }
    let mut best = (f32::INFINITY, 0u16);
    for steps in GUESSES {
        let inverse = steps / largest;
        let scale = round_bf16(suited(weights, inverse) / inverse);
        let error = error_of(weights, from_bf16(scale), largest);
        if error < best.0 {
            best = (error, scale);
        }
    }
    let inverse = 1.0 / from_bf16(best.1);
    (
        std::array::from_fn(|i| nearest(weights[i] * inverse) as i8),
        best.1,
    )
}

/// The nearest whole number from −8 to 7.
#[inline(always)]
fn nearest(value: f32) -> f32 {
    (value + ROUND - ROUND).clamp(-8.0, 7.0)
}

/// What the integers that a block is rounded to, once multiplied by `inverse`, are to be multiplied by to be nearest to it.
#[inline(always)]
fn suited(weights: &[f32; BLOCK], inverse: f32) -> f32 {
    let (mut products, mut squares) = ([0.0f32; LANES], [0.0f32; LANES]);
    for weights in weights.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            let exact = weights[i] * inverse;
            let rounded = nearest(exact);
            products[i] += exact * rounded;
            squares[i] += rounded * rounded;
        }
    }
    products.iter().sum::<f32>() / squares.iter().sum::<f32>()
}

/// Sum of the squares that a block is off by with a scale, over the square of its largest element.
#[inline(always)]
fn error_of(weights: &[f32; BLOCK], scale: f32, largest: f32) -> f32 {
    let inverse = 1.0 / scale;
    let mut squares = [0.0f32; LANES];
    for weights in weights.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            let exact = weights[i] * inverse;
            let off = exact - nearest(exact);
            squares[i] += off * off;
        }
    }
    squares.iter().sum::<f32>() * (scale / largest).powi(2)
}

/// Where a row of rounded activations goes.
pub(super) struct Row<'a, T> {
    /// `[blocks · 32]`
    pub values: &'a mut [T],
    /// `[blocks]`
    pub scales: &'a mut [f32],
    /// `[blocks]`: `−bias` times the sum of a block's integers.
    pub offsets: &'a mut [i32],
}

/// Rounds a row of activations to integers from −127 to 127, with a scale for each block.
///
/// A block with an element that is not finite gets NaN as its scale, so that the product is none either.
///
/// # Shapes
/// - `x`: `[input]`
pub(super) fn round_wide(x: &[f32], bias: i32, row: Row<'_, i16>) {
    let Row {
        values,
        scales,
        offsets,
    } = row;
    vectorized!((x: &'a [f32], bias: i32, values: &'a mut [i16], scales: &'a mut [f32], offsets: &'a mut [i32]) -> () {
        let out = values.as_chunks_mut::<BLOCK>().0.iter_mut();
        for ((index, values), (scale, offset)) in out.enumerate().zip(scales.iter_mut().zip(offsets)) {
            *scale = round_block(&block_of(x, index), values);
            *offset = -bias * sum(values);
        }
    });
}

/// [`round_wide`] in eight bits, the inputs of four in the order of the weights.
pub(super) fn round_narrow(isa: Isa, x: &[f32], bias: i32, row: Row<'_, i8>) {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx512 | Isa::Avx512Vnni | Isa::Avx512Bf16) {
        // SAFETY: the machine has AVX-512 F.
        return unsafe { avx512::round_narrow(x, bias, row) };
    }
    let _ = isa;
    let Row {
        values,
        scales,
        offsets,
    } = row;
    vectorized!((x: &'a [f32], bias: i32, values: &'a mut [i8], scales: &'a mut [f32], offsets: &'a mut [i32]) -> () {
        let out = values.as_chunks_mut::<BLOCK>().0.iter_mut();
        for ((index, values), (scale, offset)) in out.enumerate().zip(scales.iter_mut().zip(offsets)) {
            let mut wide = [0; BLOCK];
            *scale = round_block(&block_of(x, index), &mut wide);
            *offset = -bias * sum(&wide);
            *values = std::array::from_fn(|place| wide[in_fours(place)] as i8);
        }
    });
}

/// A block of a row, with zeros behind its end.
#[inline(always)]
fn block_of(x: &[f32], index: usize) -> [f32; BLOCK] {
    let x = &x[(index * BLOCK).min(x.len())..];
    if let Some(block) = x.first_chunk() {
        return *block;
    }
    let mut block = [0.0; BLOCK];
    block[..x.len()].copy_from_slice(x);
    block
}

#[inline(always)]
fn sum(values: &[i16; BLOCK]) -> i32 {
    // No sum of 32 integers of eight bits is beyond 16.
    i32::from(values.iter().sum::<i16>())
}

#[inline(always)]
fn round_block(block: &[f32; BLOCK], values: &mut [i16; BLOCK]) -> f32 {
    // The bits of magnitudes are in the order of the magnitudes, and those that are not finite the highest.
    let mut largest = 0u32;
    for value in block {
        largest = largest.max(value.to_bits() & !SIGN);
    }
    let magnitude = f32::from_bits(largest);
    if largest >= INFINITE || magnitude < SMALLEST {
        *values = [0; BLOCK];
        return if largest >= INFINITE { f32::NAN } else { 0.0 };
    }
    let inverse = 127.0 / magnitude;
    for (value, x) in values.iter_mut().zip(block) {
        // The difference is at most 127 either way, whatever a wrapped subtraction is.
        *value = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i16;
    }
    magnitude / 127.0
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    fn block() -> impl Strategy<Value = [f32; BLOCK]> {
        (prop::collection::vec(-1.0f32..1.0, BLOCK), -30i32..30)
            .prop_map(|(values, exponent)| std::array::from_fn(|i| values[i].powi(3) * 2f32.powi(exponent)))
    }

    fn squares(weights: &[f32; BLOCK], values: [i8; BLOCK], scale: f32) -> f64 {
        let off = |(weight, value): (&f32, i8)| f64::from(*weight) - f64::from(value) * f64::from(scale);
        weights.iter().zip(values).map(off).map(|off| off * off).sum()
    }

    proptest! {
        #[test]
        fn bf16_is_the_nearest(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            let want = bf16::from_f32(value);
            let want = if want.is_finite() { want.to_bits() } else { bf16::MAX.to_bits() | (bits >> 16) as u16 & 0x8000 };
            prop_assert_eq!(round_bf16(value), want);
        }

        #[test]
        fn eight_bits_are_off_by_half_a_scale_at_most(weights in block()) {
            let (values, scale) = round_q8(&weights);
            let scale = from_bf16(scale);
            for (weight, value) in weights.iter().zip(values) {
                prop_assert!((weight - f32::from(value) * scale).abs() <= scale * 0.5001);
            }
        }

        #[test]
        fn four_bits_are_nearer_than_those_of_ggml(weights in block()) {
            let (values, scale) = round_q4(&weights);
            prop_assert!(values.iter().all(|value| (-8..8).contains(value)));
            let largest = weights.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
            let theirs = largest / -8.0;
            let as_ggml = weights.map(|weight| (weight / theirs + 8.5).floor().clamp(0.0, 15.0) as i8 - 8);
            // Its scale is half precision, which this leaves out in its favour; the bf16 of ours is what may lose a little.
            let (ours, theirs) = (squares(&weights, values, from_bf16(scale)), squares(&weights, as_ggml, theirs));
            prop_assert!(ours <= 1.02 * theirs, "{} {}", ours, theirs);
        }

        #[test]
        fn activations_are_off_by_half_a_scale_at_most(x in prop::collection::vec(-1.0f32..1.0, 1..100), exponent in -30i32..30) {
            let x: Vec<f32> = x.iter().map(|x| x * 2f32.powi(exponent)).collect();
            let blocks = x.len().div_ceil(BLOCK);
            let (mut values, mut scales, mut offsets) = (vec![99; blocks * BLOCK], vec![f32::NAN; blocks], vec![0; blocks]);
            round_wide(&x, 8, Row { values: &mut values, scales: &mut scales, offsets: &mut offsets });
            prop_assert!(values[x.len()..].iter().all(|&value| value == 0));
            for (values, offset) in values.chunks(BLOCK).zip(&offsets) {
                prop_assert_eq!(*offset, -8 * values.iter().map(|&value| i32::from(value)).sum::<i32>());
            }
            for isa in Isa::EVERY.iter().copied().filter(|isa| isa.is_here()) {
                let (mut narrow, mut narrow_scales, mut narrow_offsets) =
                    (vec![99; blocks * BLOCK], vec![f32::NAN; blocks], vec![0; blocks]);
                let row = Row { values: &mut narrow, scales: &mut narrow_scales, offsets: &mut narrow_offsets };
                round_narrow(isa, &x, 8, row);
                for (place, &value) in narrow.iter().enumerate() {
                    prop_assert_eq!(i16::from(value), values[in_fours(place)]);
                }
                prop_assert_eq!(&narrow_scales, &scales);
                prop_assert_eq!(&narrow_offsets, &offsets);
            }
            for (at, (x, value)) in x.iter().zip(values).enumerate() {
                let scale = scales[at / BLOCK];
                prop_assert!(value.abs() <= 127);
                prop_assert!((x - f32::from(value) * scale).abs() <= scale * 0.5001, "{} {} {}", x, value, scale);
            }
        }
    }

    /// What every way to round gives: integers in their order, scales and offsets.
    fn every_way(x: &[f32]) -> Vec<(Vec<i16>, Vec<f32>, Vec<i32>)> {
        let blocks = x.len().div_ceil(BLOCK);
        let (mut scales, mut offsets) = (vec![1.0; blocks], vec![1; blocks]);
        let mut wide = vec![1; blocks * BLOCK];
        let row = Row {
            values: &mut wide,
            scales: &mut scales,
            offsets: &mut offsets,
        };
        round_wide(x, 128, row);
        let mut all = vec![(wide, scales.clone(), offsets.clone())];
        for isa in Isa::EVERY.iter().copied().filter(|isa| isa.is_here()) {
            let mut narrow = vec![1; blocks * BLOCK];
            let row = Row {
                values: &mut narrow,
                scales: &mut scales,
                offsets: &mut offsets,
            };
            round_narrow(isa, x, 128, row);
            let values = (0..narrow.len()).map(|input| i16::from(narrow[in_fours(input)]));
            all.push((values.collect(), scales.clone(), offsets.clone()));
        }
        all
    }

    #[test]
    fn what_is_not_finite_stays_so_and_almost_nothing_becomes_zero() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 70];
            x[40] = bad;
            for (_, scales, offsets) in every_way(&x) {
                assert!(scales[1].is_nan() && scales[0] == 1.0 / 127.0 && scales[2] > 0.0);
                assert_eq!(offsets, [-128 * 127 * 32, 0, -128 * 127 * 6]);
            }
        }
        for tiny in [0.0, -0.0, 1e-45, 1e-37, -1e-40] {
            assert_eq!(round_q8(&[tiny; BLOCK]), ([0; BLOCK], 0));
            assert_eq!(round_q4(&[tiny; BLOCK]), ([0; BLOCK], 0));
            for way in every_way(&[tiny; BLOCK]) {
                assert_eq!(way, (vec![0; BLOCK], vec![0.0], vec![0]));
            }
        }
    }

    #[test]
    fn the_largest_numbers_are_kept() {
        let mut weights = [0.0; BLOCK];
        weights[3] = -3e38;
        let (values, scale) = round_q8(&weights);
        assert!((f32::from(values[3]) * from_bf16(scale) / -3e38 - 1.0).abs() < 5e-3);
        let (values, scale) = round_q4(&weights);
        assert!((f32::from(values[3]) * from_bf16(scale) / -3e38 - 1.0).abs() < 5e-3);
    }
}
