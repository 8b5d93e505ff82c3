//! The formats by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::layout::weight_bytes;
use super::tile::Isa;

/// How a [`QuantizedWeight`](super::QuantizedWeight) is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuantFormat {
    /// The upper half of an f32: 16 bits a weight. Activations are rounded likewise by processors that multiply such numbers
    /// (AVX512-BF16), and stay f32 on others.
    Bf16,
    /// Integers of eight bits, of which 32 along the input share a scale: 8.5 bits a weight. Activations are rounded likewise.
    Q8,
    /// Integers of four bits, of which 32 along the input share a scale: 4.5 bits a weight. Activations are rounded as for `Q8`.
    Q4,
}

impl QuantFormat {
    /// The format of embedding and output projection beside linear layers in this one.
    ///
    /// A rounded output projection moves every logit, so it keeps eight bits beside `q4`; llama.cpp does the same.
    #[must_use]
    pub fn of_embedding(self) -> Self {
        match self {
            Self::Bf16 => Self::Bf16,
            Self::Q8 | Self::Q4 => Self::Q8,
        }
    }

    /// Bytes of a weight; its outputs are filled up to a multiple of 16, its inputs to one of 32 (of 2 in `bf16`). Ends at the
    /// largest number.
    pub fn bytes(self, input: usize, output: usize) -> usize {
        weight_bytes(self, input, output).unwrap_or(usize::MAX)
    }

    /// Whether products on this machine's processor round activations as well.
    pub fn rounds_activations(self) -> bool {
        match self {
            Self::Bf16 => Isa::here().multiplies_bf16(),
            Self::Q8 | Self::Q4 => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }
}

impl fmt::Display for QuantFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the weights of a model that runs are held: `f32`, `bf16`, `q8` or `q4`.
///
/// ```
/// use aligner_model::RuntimeWeights;
/// assert_eq!("q8".parse(), Ok(RuntimeWeights::Q8));
/// assert!("q5".parse::<RuntimeWeights>().unwrap_err().contains("f32, bf16, q8, q4"));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeWeights {
    /// As they are trained.
    #[default]
    F32,
    /// [`QuantFormat::Bf16`]
    Bf16,
    /// [`QuantFormat::Q8`]
    Q8,
    /// [`QuantFormat::Q4`], with embedding and output projection in `Q8`.
    Q4,
}

impl RuntimeWeights {
    /// The format of the linear layers, where it is not f32.
    pub fn quantized(self) -> Option<QuantFormat> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(QuantFormat::Bf16),
            Self::Q8 => Some(QuantFormat::Q8),
            Self::Q4 => Some(QuantFormat::Q4),
        }
    }
}

impl From<QuantFormat> for RuntimeWeights {
    fn from(format: QuantFormat) -> Self {
        match format {
            QuantFormat::Bf16 => Self::Bf16,
            QuantFormat::Q8 => Self::Q8,
            QuantFormat::Q4 => Self::Q4,
        }
    }
}

impl FromStr for RuntimeWeights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::F32, Self::Bf16, Self::Q8, Self::Q4]
            .into_iter()
            .find(|format| format.to_string() == text)
            .ok_or_else(|| format!("{text:?} is no format of weights; known are f32, bf16, q8, q4"))
    }
}

impl fmt::Display for RuntimeWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.quantized().map_or("f32", QuantFormat::name))
    }
}
