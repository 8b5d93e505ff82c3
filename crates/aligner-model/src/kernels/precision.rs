//! The precision that a training step multiplies in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::panels::Form;

/// What the factors of a training step's products are rounded to; sums, weights, gradients and everything else are f32 in
/// either.
///
/// ```
/// use aligner_model::kernels::Precision;
/// assert_eq!("bf16".parse(), Ok(Precision::Bf16));
/// assert!("fp8".parse::<Precision>().unwrap_err().contains("f32, bf16"));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// To nothing.
    #[default]
    F32,
    /// To bf16: *mixed precision*. Processors that multiply such numbers (AVX512-BF16) compute twice as many products in the same time;
    /// others compute the same, no faster.
    Bf16,
}

impl Precision {
    /// Whether this machine's processor has instructions for it.
    pub fn is_native(self) -> bool {
        Form::of(self) != Form::Rounded
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::F32, Self::Bf16]
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or_else(|| format!("{text:?} is no precision; known are f32, bf16"))
    }
}
