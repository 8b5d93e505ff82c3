//! Weights of linear layers in eight bits.
//!
//! The layout is that of ggml's `q8_0`: symmetric, 32 elements along the input share a scale. A block along the input lies in
//! one piece both in a model file's rows and in ours, so that a weight is quantised as it is read, without turning it; a single
//! outlier spoils no more than 31 neighbours; and the integers are those that a GGUF file of the type holds. Scales stay f32:
//! the largest weight of a block is often below 2⁻⁷, where half precision has no full mantissa left for a 127th of it.

mod linear;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use linear::int8_linear;

use super::buffers::Buffer;
use super::flex::PIECE;
use super::math::vectorized;
use super::matrix::Matrix;
use crate::error::{ModelError, Result};
use crate::weights::HostTensor;

/// Elements that share a scale.
const BLOCK: usize = 32;
/// Elements of a panel: 4 MiB of them, which the next product finds in the cache.
const PANEL: usize = 1 << 20;
/// A panel is not thinner than this, however long: a product over few inputs reads and writes its output for little.
const THINNEST: usize = 512;

/// How the weights of linear layers are held in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// Single precision.
    #[default]
    F32,
    /// [`Int8Weight`]: a bit more than a quarter of the memory. Such weights are not trained.
    Int8,
}

impl FromStr for WeightFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "int8" => Ok(Self::Int8),
            _ => Err(format!("{text:?} is no format of weights; known are f32, int8")),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        })
    }
}

impl WeightFormat {
    /// Bytes of the weight of a linear layer.
    pub fn bytes(self, input: usize, output: usize) -> usize {
        match self {
            Self::F32 => input * output * size_of::<f32>(),
            Self::Int8 => (input + input.div_ceil(BLOCK) * size_of::<f32>()) * output,
        }
    }

    /// Bytes that a product with such a weight takes for a part of it as f32.
    pub fn scratch_bytes(self, input: usize, output: usize) -> usize {
        let elements = match self {
            Self::F32 => 0,
            Self::Int8 => (width(input, output) * output).max(width(output, input) * input),
        };
        elements * size_of::<f32>()
    }
}

/// The weight of a linear layer in eight bits, which is not trained; copies share their memory.
///
/// Element `q · scale` stands for each weight `w` of a block, with `scale` the largest magnitude of the block over 127, so that
/// `|w − q · scale| ≤ scale / 2` but for the rounding of f32, which is less than `scale / 10000`. Blocks whose largest magnitude
/// is below 10⁻³⁶ become zero.
#[derive(Clone)]
pub struct Int8Weight(Arc<Stored>);

struct Stored {
    input: usize,
    output: usize,
    /// `[output, input]`
    values: Vec<i8>,
    /// `[output, input / 32]`, rounded up: the last block of a row may be short.
    scales: Vec<f32>,
}

impl fmt::Debug for Int8Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Int8Weight[{}, {}]", self.0.input, self.0.output)
    }
}

impl Int8Weight {
    /// Rounds a weight.
    ///
    /// # Shapes
    /// - `weight`: `[output, input]`, as model files have it
    ///
    /// # Errors
    /// When it is no matrix, has no elements, or one of them is not finite.
    pub fn quantize(weight: &HostTensor) -> Result<Self> {
        let [output, input] = weight.shape[..] else {
            return Err(ModelError::Quantize(format!(
                "a tensor of shape {:?} is no matrix",
                weight.shape
            )));
        };
        if weight.values.is_empty() || weight.values.len() != input * output {
            return Err(ModelError::Quantize(format!(
                "a matrix of shape {:?} with {} elements",
                weight.shape,
                weight.values.len()
            )));
        }
        if let Some(bad) = weight.values.par_iter().find_first(|value| !value.is_finite()) {
            return Err(ModelError::Quantize(format!("an element is {bad}")));
        }
        let blocks = input.div_ceil(BLOCK);
        let (mut values, mut scales) = (vec![0i8; input * output], vec![0.0f32; blocks * output]);
        let rows = rows_of_a_piece(input);
        let pieces = (
            weight.values.par_chunks(rows * input),
            values.par_chunks_mut(rows * input),
            scales.par_chunks_mut(rows * blocks),
        );
        pieces
            .into_par_iter()
            .for_each(|(weight, values, scales)| quantize_rows(weight, input, values, scales));
        Ok(Self(Arc::new(Stored {
            input,
            output,
            values,
            scales,
        })))
    }

    /// The weight that the integers stand for.
    ///
    /// # Shapes
    /// - output: `[output, input]`
    pub fn dequantize(&self) -> HostTensor {
        let [input, output] = self.dims();
        let mut values = vec![0.0; input * output];
        self.dequantize_into(0..output, 0..input, &mut values);
        HostTensor {
            shape: vec![output, input],
            values,
        }
    }

    /// Input and output width.
    pub fn dims(&self) -> [usize; 2] {
        [self.0.input, self.0.output]
    }

    /// The integers, `[output, input]`.
    pub fn values(&self) -> &[i8] {
        &self.0.values
    }

    /// The scales, `[output, input / 32]`, rounded up.
    pub fn scales(&self) -> &[f32] {
        &self.0.scales
    }

    /// The weight that the integers stand for, on a device and by Burn's own operations: for devices without a product of
    /// ours. It is as large as the weight was, and lives as long as somebody needs it; under gradients, until the backward pass.
    ///
    /// # Shapes
    /// - output: `[input, output]`
    pub fn tensor(&self, device: &Device) -> Tensor<2> {
        let [input, output] = self.dims();
        let blocks = input.div_ceil(BLOCK);
        let values = TensorData::new(self.values().to_vec(), [output, input]);
        let scales = TensorData::new(self.scales().to_vec(), [output, blocks, 1]);
        let scales = Tensor::<3>::from_data(scales, device)
            .expand([output, blocks, BLOCK])
            .reshape([output, blocks * BLOCK])
            .narrow(1, 0, input);
        let values = Tensor::<2, Int>::from_data(values, device).float();
        (values * scales).transpose()
    }

    /// Calls `each` with the weight in panels that follow each other along its inputs, each `[inputs, output]`.
    pub(super) fn by_input(&self, mut each: impl FnMut(Range<usize>, Matrix<'_>)) {
        let [input, output] = self.dims();
        let step = width(input, output);
        let mut buffer = Buffer::take(step * output);
        for start in (0..input).step_by(step) {
            let inputs = start..(start + step).min(input);
            let panel = &mut buffer[..inputs.len() * output];
            self.dequantize_into(0..output, inputs.clone(), panel);
            let panel = Matrix::new(panel, output, inputs.len(), inputs.len()).transposed();
            each(inputs, panel);
        }
    }

    /// Calls `each` with the weight's transpose in panels that follow each other along its outputs, each `[outputs, input]`.
    pub(super) fn by_output(&self, mut each: impl FnMut(Range<usize>, Matrix<'_>)) {
        let [input, output] = self.dims();
        let step = width(output, input);
        let mut buffer = Buffer::take(step * input);
        for start in (0..output).step_by(step) {
            let outputs = start..(start + step).min(output);
            let panel = &mut buffer[..outputs.len() * input];
            self.dequantize_into(outputs.clone(), 0..input, panel);
            let panel = Matrix::new(panel, outputs.len(), input, input);
            each(outputs, panel);
        }
    }

    /// The weights of one output, as many as there are inputs.
    pub(super) fn dequantize_output(&self, output: usize, out: &mut [f32]) {
        let [input, _] = self.dims();
        let blocks = input.div_ceil(BLOCK);
        let values = &self.values()[output * input..][..input];
        dequantize_row(values, &self.scales()[output * blocks..][..blocks], out);
    }

    /// A part of the weight, `[outputs, inputs]`; the inputs begin with a block.
    fn dequantize_into(&self, outputs: Range<usize>, inputs: Range<usize>, out: &mut [f32]) {
        let [input, _] = self.dims();
        let blocks = input.div_ceil(BLOCK);
        let (width, first_block) = (inputs.len(), inputs.start / BLOCK);
        let rows = rows_of_a_piece(width);
        out.par_chunks_mut(rows * width)
            .enumerate()
            .for_each(|(piece, out)| {
                let first = outputs.start + piece * rows;
                for (row, out) in (first..).zip(out.chunks_exact_mut(width)) {
                    let values = &self.values()[row * input + inputs.start..][..width];
                    let scales = &self.scales()[row * blocks + first_block..];
                    dequantize_row(values, scales, out);
                }
            });
    }
}

/// How wide panels are of a matrix that is cut along a dimension of `cut`, whole blocks of it, and is `long` in the other.
fn width(cut: usize, long: usize) -> usize {
    let fits = PANEL / long.max(1) / BLOCK * BLOCK;
    fits.max(THINNEST).min(cut)
}

fn rows_of_a_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// ggml's rounding: the scale is the largest magnitude over 127, halves go away from zero.
fn quantize_rows(weight: &[f32], input: usize, values: &mut [i8], scales: &mut [f32]) {
    vectorized!((weight: &'a [f32], input: usize, values: &'a mut [i8], scales: &'a mut [f32]) -> () {
        let rows = weight.chunks_exact(input).zip(values.chunks_exact_mut(input));
        for ((weight, values), scales) in rows.zip(scales.chunks_exact_mut(input.div_ceil(BLOCK))) {
            let blocks = weight.chunks(BLOCK).zip(values.chunks_mut(BLOCK));
            for ((weight, values), scale) in blocks.zip(scales) {
                let largest = weight.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                let inverse = 127.0 / largest;
                if inverse > 1e38 {
                    continue;
                }
                *scale = largest / 127.0;
                let inverse = 1.0 / *scale;
                for (value, weight) in values.iter_mut().zip(weight) {
                    *value = (weight * inverse).round() as i8;
                }
            }
        }
    });
}

fn dequantize_row(values: &[i8], scales: &[f32], out: &mut [f32]) {
    vectorized!((values: &'a [i8], scales: &'a [f32], out: &'a mut [f32]) -> () {
        let (blocks, rest) = values.as_chunks::<BLOCK>();
        let (out_blocks, out_rest) = out.as_chunks_mut::<BLOCK>();
        for ((out, values), scale) in out_blocks.iter_mut().zip(blocks).zip(scales) {
            for i in 0..BLOCK {
                out[i] = f32::from(values[i]) * scale;
            }
        }
        if let Some(scale) = scales.get(blocks.len()) {
            for (out, value) in out_rest.iter_mut().zip(rest) {
                *out = f32::from(*value) * scale;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;

    fn matrix(output: usize, input: usize, values: Vec<f32>) -> HostTensor {
        HostTensor {
            shape: vec![output, input],
            values,
        }
    }

    proptest! {
        #[test]
        fn no_element_is_further_off_than_half_a_scale(
            input in 1usize..200,
            exponent in -30i32..30,
            seeds in prop::collection::vec(-1.0f32..1.0, 400),
        ) {
            let output = seeds.len() / input;
            let values: Vec<f32> = seeds[..input * output].iter().map(|x| x * 2f32.powi(exponent)).collect();
            let weight = Int8Weight::quantize(&matrix(output, input, values.clone())).unwrap();
            let back = weight.dequantize();
            prop_assert_eq!(&back.shape, &[output, input]);
            let blocks = input.div_ceil(BLOCK);
            for (at, (value, back)) in values.iter().zip(&back.values).enumerate() {
                let scale = weight.scales()[at / input * blocks + at % input / BLOCK];
                prop_assert!((value - back).abs() <= scale * 0.5001, "{} {} {}", value, back, scale);
            }
        }
    }

    /// See `tests/golden/make_q8_0.py`.
    #[test]
    fn integers_are_those_of_gguf_and_scales_round_to_its() {
        let (words, _) = include_bytes!("../../../tests/golden/q8_0/values.bin").as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let (blocks, _) = include_bytes!("../../../tests/golden/q8_0/q8_0.bin").as_chunks::<34>();
        let weight = Int8Weight::quantize(&matrix(1, values.len(), values)).unwrap();
        assert_eq!(weight.scales().len(), blocks.len());
        let (ours, _) = weight.values().as_chunks::<BLOCK>();
        for ((ours, scale), block) in ours.iter().zip(weight.scales()).zip(blocks) {
            assert_eq!(f16::from_f32(*scale).to_le_bytes(), block[..2]);
            assert_eq!(ours.map(|value| value as u8), block[2..]);
        }
    }

    #[test]
    fn blocks_of_almost_nothing_become_zero() {
        for tiny in [0.0, 1e-45, 1e-37, -1e-40] {
            let weight = Int8Weight::quantize(&matrix(1, 3, vec![tiny; 3])).unwrap();
            assert_eq!(weight.dequantize().values, [0.0; 3], "{tiny}");
        }
        let weight = Int8Weight::quantize(&matrix(1, 1, vec![2e-36])).unwrap();
        assert_eq!(weight.values(), [127]);
        let weight = Int8Weight::quantize(&matrix(1, 2, vec![3e38, -1.0])).unwrap();
        assert_eq!(
            (weight.values(), weight.dequantize().values[0]),
            (&[127, 0][..], 3e38)
        );
    }

    #[test]
    fn what_is_no_matrix_of_numbers_is_refused() {
        let refused = |shape: &[usize], values: Vec<f32>| {
            let shape = shape.to_vec();
            Int8Weight::quantize(&HostTensor { shape, values })
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&[3], vec![1.0; 3]).contains("no matrix"));
        assert!(refused(&[2, 3], vec![1.0; 5]).contains("5 elements"));
        assert!(refused(&[0, 3], Vec::new()).contains("0 elements"));
        assert!(refused(&[1, 2], vec![1.0, f32::NAN]).contains("NaN"));
    }

    #[test]
    fn panels_are_the_weight_in_pieces() {
        // Larger than a panel in both directions, and its last block short.
        let (input, output) = (2 * THINNEST + 7, 2500);
        let values = (0..input * output)
            .map(|at| ((at * 7919) % 509) as f32 - 254.0)
            .collect();
        let weight = Int8Weight::quantize(&matrix(output, input, values)).unwrap();
        let whole = weight.dequantize().values;
        let mut panels = 0;
        let at = |matrix: &Matrix<'_>, i: usize, j: usize| {
            matrix.data[i * matrix.row_stride + j * matrix.column_stride]
        };
        weight.by_input(|inputs, panel| {
            panels += 1;
            assert_eq!((panel.rows, panel.columns), (inputs.len(), output));
            for (i, input_index) in inputs.enumerate() {
                for o in (0..output).step_by(97) {
                    assert_eq!(at(&panel, i, o), whole[o * input + input_index]);
                }
            }
        });
        weight.by_output(|outputs, panel| {
            panels += 1;
            assert_eq!((panel.rows, panel.columns), (outputs.len(), input));
            assert_eq!(panel.data, &whole[outputs.start * input..outputs.end * input]);
        });
        assert_eq!(panels, 3 + 3);
    }

    #[test]
    fn what_is_said_of_memory_is_what_is_held() {
        let weight = Int8Weight::quantize(&matrix(3, 65, vec![1.0; 195])).unwrap();
        let bytes = weight.values().len() + 4 * weight.scales().len();
        assert_eq!(WeightFormat::Int8.bytes(65, 3), bytes);
        assert_eq!(WeightFormat::F32.bytes(65, 3), 4 * 195);
        assert_eq!(WeightFormat::Int8.scratch_bytes(65, 3), 4 * 195);
    }
}
