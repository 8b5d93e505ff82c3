//! The types in which weights are written.

use std::str::FromStr;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{ModelError, Result};

/// How a writer stores elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightDtype {
    /// Single precision: what the decoder computes in, nothing is lost.
    #[default]
    F32,
    /// The upper half of single precision, rounded to nearest even.
    Bf16,
    /// Half precision, rounded to nearest even.
    F16,
}

impl WeightDtype {
    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }

    /// The name in a `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Little-endian bytes of `values`; `tensor` is for the message.
    ///
    /// # Errors
    /// When a value is beyond the type's range. NumPy and PyTorch, and so the converters of llama.cpp and transformers,
    /// write an infinity there; a model with one answers with noise, and this crate's reader refuses it.
    pub(crate) fn encode(self, tensor: &str, values: &[f32]) -> Result<Vec<u8>> {
        let words = match self {
            Self::F32 => return Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Self::Bf16 => {
                let mut words = vec![bf16::ZERO; values.len()];
                words.convert_from_f32_slice(values);
                check(tensor, self, values, words.iter().map(|word| word.is_finite()))?;
                words.iter().flat_map(|word| word.to_le_bytes()).collect()
            }
            Self::F16 => {
                let mut words = vec![f16::ZERO; values.len()];
                words.convert_from_f32_slice(values);
                check(tensor, self, values, words.iter().map(|word| word.is_finite()))?;
                words.iter().flat_map(|word| word.to_le_bytes()).collect()
            }
        };
        Ok(words)
    }
}

fn check(
    tensor: &str,
    dtype: WeightDtype,
    values: &[f32],
    are_finite: impl Iterator<Item = bool>,
) -> Result<()> {
    match values.iter().zip(are_finite).find(|(_, is_finite)| !is_finite) {
        None => Ok(()),
        Some((&value, _)) => Err(out_of_range(tensor, dtype.name(), value)),
    }
}

pub(super) fn out_of_range(tensor: &str, dtype: &str, value: f32) -> ModelError {
    ModelError::Export(format!(
        "tensor {tensor} holds {value}, which {dtype} cannot hold; write bf16 or f32"
    ))
}

impl FromStr for WeightDtype {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err(ModelError::Export(format!(
                "{text:?} is no type of weights; there are f32, bf16, f16"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(dtype: WeightDtype, values: &[f32]) -> Vec<u16> {
        let bytes = dtype.encode("t", values).unwrap();
        let (words, _) = bytes.as_chunks::<2>();
        words.iter().map(|word| u16::from_le_bytes(*word)).collect()
    }

    #[test]
    fn halves_round_to_the_nearest_even() {
        // 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷, bf16's neighbours; 1 + 3·2⁻⁸ between 1 + 2⁻⁷ and 1 + 2⁻⁶.
        let values = [
            1.0 + 2f32.powi(-8),
            1.0 + 3.0 * 2f32.powi(-8),
            1.0 + 1.01 * 2f32.powi(-8),
        ];
        assert_eq!(words(WeightDtype::Bf16, &values), [0x3f80, 0x3f82, 0x3f81]);
        let values = [
            1.0 + 2f32.powi(-11),
            1.0 + 3.0 * 2f32.powi(-11),
            1.0 + 1.01 * 2f32.powi(-11),
            2f32.powi(-25),
            -65_519.9,
        ];
        assert_eq!(
            words(WeightDtype::F16, &values),
            [0x3c00, 0x3c02, 0x3c01, 0, 0xfbff]
        );
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_the_tensors_name() {
        let error = WeightDtype::F16.encode("model.norm.weight", &[1.0, 65_520.0]);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("model.norm.weight") && error.contains("65520"),
            "{error}"
        );
        assert!(WeightDtype::Bf16.encode("t", &[f32::MAX]).is_err());
        assert!(WeightDtype::F32.encode("t", &[f32::MAX]).is_ok());
    }
}
