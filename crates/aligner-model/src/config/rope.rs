//! Rotary position embedding: base, scaling, and the inverse frequencies they give.

use serde_json::{Map, Value};

use super::hf::Fields;
use crate::error::{ModelError, Result};

/// Rotary position embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies were changed for longer contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are scaled for contexts longer than the pretraining's.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by `factor` (Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, a smooth ramp between.
    Llama3 {
        /// The divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths longer than `original_max_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original_max_positions / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context length of the pretraining, in tokens.
        original_max_positions: f64,
    },
}

impl RopeConfig {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before).
    pub(super) fn from_fields(fields: &Fields<'_>, max_positions: usize) -> Result<Self> {
        let parameters = fields.object("rope_parameters")?;
        let scaling = match parameters {
            Some(parameters) => Some(parameters),
            None => fields.object("rope_scaling")?,
        };
        let inner = parameters
            .map(|map| Fields(map).float("rope_theta"))
            .transpose()?
            .flatten();
        let theta = inner.or(fields.float("rope_theta")?).unwrap_or(10_000.0);
        if theta <= 0.0 {
            return Err(ModelError::config(
                "rope_theta",
                format!("{theta} is not positive"),
            ));
        }
        let scaling = scaling.map_or(Ok(RopeScaling::None), |map| scaling_from(map, max_positions))?;
        Ok(Self { theta, scaling })
    }

    /// Angular frequency of each pair of dimensions, in radians a position: `head_dim / 2` values.
    ///
    /// Su et al. 2021 (arXiv 2104.09864), equation 15, with [`RopeScaling`] applied.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|pair| {
                let exponent = (2 * pair) as f64 / head_dim as f64;
                self.scaling.apply(1.0 / self.theta.powf(exponent)) as f32
            })
            .collect()
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => {
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength < original_max_positions / high_freq_factor {
                    frequency
                } else if wavelength > original_max_positions / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (original_max_positions / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

fn scaling_from(map: &Map<String, Value>, max_positions: usize) -> Result<RopeScaling> {
    let fields = Fields(map);
    let positive = |name: &'static str, default: Option<f64>| -> Result<f64> {
        let value = fields
            .float(name)?
            .or(default)
            .ok_or_else(|| ModelError::config(name, "is missing"))?;
        if value > 0.0 {
            Ok(value)
        } else {
            Err(ModelError::config(name, format!("{value} is not positive")))
        }
    };
    // `type` is the older spelling of `rope_type`.
    match fields
        .text("rope_type")
        .or_else(|| fields.text("type"))
        .unwrap_or("default")
    {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: positive("factor", None)?,
        }),
        "llama3" => {
            let low = positive("low_freq_factor", None)?;
            let high = positive("high_freq_factor", None)?;
            if high <= low {
                return Err(ModelError::config(
                    "high_freq_factor",
                    format!("{high} is not above {low}"),
                ));
            }
            Ok(RopeScaling::Llama3 {
                factor: positive("factor", None)?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions: positive(
                    "original_max_position_embeddings",
                    Some(max_positions as f64),
                )?,
            })
        }
        other => {
            let reason = format!("{other:?} is not supported; supported: default, linear, llama3");
            Err(ModelError::config("rope_type", reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: Value) -> Result<RopeConfig> {
        RopeConfig::from_fields(&Fields(raw.as_object().unwrap()), 4096)
    }

    #[test]
    fn both_spellings_read_the_same() {
        let old =
            parse(serde_json::json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}));
        let new = parse(serde_json::json!({
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}
        }));
        assert_eq!(old.unwrap(), new.unwrap());
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let rope = RopeConfig {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 8192.0,
            },
        };
        let plain = RopeConfig {
            theta: 500_000.0,
            scaling: RopeScaling::None,
        }
        .inverse_frequencies(128);
        let scaled = rope.inverse_frequencies(128);
        assert_eq!(scaled[0], plain[0]);
        assert!((scaled[63] - plain[63] / 8.0).abs() < 1e-12);
        assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn unknown_or_impossible_scaling_is_refused() {
        for raw in [
            serde_json::json!({"rope_scaling": {"rope_type": "sideways"}}),
            serde_json::json!({"rope_scaling": {"rope_type": "linear"}}),
            serde_json::json!({"rope_scaling": {"rope_type": "linear", "factor": 0}}),
            serde_json::json!({"rope_scaling": "linear"}),
            serde_json::json!({"rope_theta": -1}),
            serde_json::json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                "high_freq_factor": 1}}),
        ] {
            assert!(parse(raw.clone()).is_err(), "{raw}");
        }
    }
}
