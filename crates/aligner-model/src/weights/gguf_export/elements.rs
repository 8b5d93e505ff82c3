//! The element types that are written, and how numbers become them.

use std::str::FromStr;

use half::f16;
use rayon::prelude::*;

use crate::error::{ModelError, Result};
use crate::weights::WeightDtype;
use crate::weights::dtype::out_of_range;

/// Elements of a block of [`GgufDtype::Q8_0`].
const BLOCK: usize = 32;
/// Elements that one task converts.
const TASK_ELEMENTS: usize = 1 << 16;

/// How elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufDtype {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Eight bits and a scale in half precision for 32 elements of a row.
    Q8_0,
}

impl GgufDtype {
    /// ggml's number of the type.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
            Self::Bf16 => 30,
        }
    }

    /// llama.cpp's number of a file whose matrices are of the type.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
        }
    }

    /// Bytes of so many elements, whole blocks of them.
    pub(super) fn bytes(self, elements: usize) -> u64 {
        let elements = elements as u64;
        match self {
            Self::F32 => elements * 4,
            Self::F16 | Self::Bf16 => elements * 2,
            Self::Q8_0 => elements / BLOCK as u64 * (2 + BLOCK as u64),
        }
    }

    /// What a tensor of this shape becomes in a file of this type, as llama.cpp's converter decides: a vector stays in
    /// single precision, and rows that are no whole blocks are written in half precision.
    pub(super) fn of_tensor(self, shape: &[usize]) -> Self {
        match (self, shape) {
            (_, [] | [_]) => Self::F32,
            (Self::Q8_0, [.., width]) if !width.is_multiple_of(BLOCK) => Self::F16,
            _ => self,
        }
    }

    /// The bytes of `values`; `tensor` is for messages.
    pub(super) fn encode(self, tensor: &str, values: &[f32]) -> Result<Vec<u8>> {
        let encode = |part: &[f32]| match self {
            Self::F32 => WeightDtype::F32.encode(tensor, part),
            Self::F16 => WeightDtype::F16.encode(tensor, part),
            Self::Bf16 => WeightDtype::Bf16.encode(tensor, part),
            Self::Q8_0 => q8_0(tensor, part),
        };
        let parts: Result<Vec<Vec<u8>>> = values.par_chunks(TASK_ELEMENTS).map(encode).collect();
        Ok(parts?.concat())
    }
}

impl FromStr for GgufDtype {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "q8_0" => Ok(Self::Q8_0),
            _ => Err(ModelError::Export(format!(
                "{text:?} is no type that is written into GGUF; there are f32, bf16, f16, q8_0"
            ))),
        }
    }
}

/// ggml's reference quantisation: the scale is the largest magnitude over 127, rounded to half precision only when it is
/// stored; halves round away from zero.
fn q8_0(tensor: &str, values: &[f32]) -> Result<Vec<u8>> {
    let (blocks, _) = values.as_chunks::<BLOCK>();
    let mut out = Vec::with_capacity(blocks.len() * (2 + BLOCK));
    for block in blocks {
        let largest = block
            .iter()
            .fold(0.0f32, |largest, value| largest.max(value.abs()));
        let scale = largest / 127.0;
        let stored = f16::from_f32(scale);
        if !stored.is_finite() {
            return Err(out_of_range(tensor, "q8_0", largest));
        }
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out.extend(stored.to_le_bytes());
        out.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// See `tests/golden/make_q8_0.py`.
    #[test]
    fn q8_0_is_that_of_ggufs_own_library() {
        let (words, _) = include_bytes!("../../../tests/golden/q8_0/values.bin").as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let bytes = GgufDtype::Q8_0.encode("t", &values).unwrap();
        assert_eq!(
            bytes,
            include_bytes!("../../../tests/golden/q8_0/q8_0.bin"),
            "bit for bit"
        );
    }

    #[test]
    fn vectors_and_odd_rows_are_not_quantised() {
        assert_eq!(GgufDtype::Q8_0.of_tensor(&[64]), GgufDtype::F32);
        assert_eq!(GgufDtype::Bf16.of_tensor(&[64]), GgufDtype::F32);
        assert_eq!(GgufDtype::Q8_0.of_tensor(&[3, 48]), GgufDtype::F16);
        assert_eq!(GgufDtype::Q8_0.of_tensor(&[3, 64]), GgufDtype::Q8_0);
    }

    #[test]
    fn a_block_of_zeros_and_halves() {
        assert_eq!(
            GgufDtype::Q8_0.encode("t", &[0.0; 32]).unwrap(),
            [0; 34],
            "no division by zero"
        );
        let mut block = [0.0f32; 32];
        // The scale is 1: 0.5 and -2.5 lie half way and go away from zero.
        (block[0], block[1], block[2]) = (127.0, 0.5, -2.5);
        let bytes = GgufDtype::Q8_0.encode("t", &block).unwrap();
        assert_eq!(
            (&bytes[..2], bytes[2], bytes[3], bytes[4] as i8),
            (&[0x00, 0x3c][..], 127, 1, -3)
        );
    }
}
