//! Rotary position embedding: base, scaling, and the inverse frequencies they give.

use serde_json::Value;

use super::fields::Fields;
use crate::error::{ModelError, Result};

/// Rotary position embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Leading dimensions of a head that are rotated; the others are left as they are. Even.
    pub rotary_dim: usize,
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
    /// A base that grows with the sequence once it is longer than the pretraining's.
    Dynamic {
        /// How many times longer the context may become.
        factor: f64,
        /// Context length of the pretraining, in tokens.
        original_max_positions: f64,
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
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): a ramp between kept and divided frequencies, by dimension.
    Yarn {
        /// The divisor of the slow dimensions.
        factor: f64,
        /// First and last pair of the ramp.
        ramp: (f64, f64),
        /// Multiplies cosines and sines.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor for each pair, of short and of long sequences.
    LongRope {
        /// Divisors of sequences within the pretraining's length.
        short_factor: Vec<f64>,
        /// Divisors of longer ones.
        long_factor: Vec<f64>,
        /// Context length of the pretraining, in tokens.
        original_max_positions: f64,
        /// Multiplies cosines and sines.
        attention_factor: f64,
    },
}

/// What a family says about its rotary embedding where `config.json` is silent.
pub(super) struct RopeDefaults {
    /// Base.
    pub theta: f64,
    /// Width of a head.
    pub head_dim: usize,
    /// Context length, in tokens.
    pub max_positions: usize,
}

impl RopeConfig {
    /// Reads `rope_parameters` (transformers 5), of one kind of layer where they differ by kind, or `rope_theta` with
    /// `rope_scaling` (before).
    pub(super) fn from_fields(
        fields: &Fields<'_>,
        layer_kind: Option<&'static str>,
        defaults: &RopeDefaults,
    ) -> Result<Self> {
        let mut parameters = fields.object("rope_parameters")?;
        if let (Some(all), Some(kind)) = (parameters, layer_kind)
            && let Some(own) = Fields(all).object(kind)?
        {
            parameters = Some(own);
        }
        let scaling = match parameters {
            Some(parameters) => Some(parameters),
            None => fields.object("rope_scaling")?,
        };
        let inner = |name| match parameters {
            Some(map) => Fields(map).float(name),
            None => Ok(None),
        };
        let theta = inner("rope_theta")?
            .or(fields.float("rope_theta")?)
            .unwrap_or(defaults.theta);
        let share = inner("partial_rotary_factor")?
            .or(fields.float("partial_rotary_factor")?)
            .unwrap_or(1.0);
        let mut rope = Self::plain(theta, share, defaults)?;
        if let Some(map) = scaling {
            rope.scaling = Reader {
                map: Fields(map),
                top: fields,
                rope: &rope,
                defaults,
            }
            .scaling()?;
        }
        Ok(rope)
    }

    /// An embedding without scaling.
    pub(super) fn plain(theta: f64, share: f64, defaults: &RopeDefaults) -> Result<Self> {
        if theta <= 1.0 {
            return Err(ModelError::config(
                "rope_theta",
                format!("{theta} is not above 1"),
            ));
        }
        let rotary_dim = (defaults.head_dim as f64 * share) as usize;
        if !(share > 0.0 && share <= 1.0) || rotary_dim < 2 || !rotary_dim.is_multiple_of(2) {
            let reason = format!(
                "{share} of {} dimensions are no even number of them",
                defaults.head_dim
            );
            return Err(ModelError::config("partial_rotary_factor", reason));
        }
        Ok(Self {
            theta,
            rotary_dim,
            scaling: RopeScaling::None,
        })
    }

    /// Angular frequency of each pair of dimensions, in radians a position, when `positions` tokens are in sight:
    /// `rotary_dim / 2` values.
    ///
    /// Su et al. 2021 (arXiv 2104.09864), equation 15, with [`RopeScaling`] applied.
    pub fn inverse_frequencies(&self, positions: usize) -> Vec<f32> {
        let width = self.rotary_dim as f64;
        let theta = match self.scaling {
            RopeScaling::Dynamic {
                factor,
                original_max_positions,
            } => {
                let length = (positions as f64).max(original_max_positions);
                let grown = factor * length / original_max_positions - (factor - 1.0);
                self.theta * grown.powf(width / (width - 2.0))
            }
            _ => self.theta,
        };
        (0..self.rotary_dim / 2)
            .map(|pair| {
                let frequency = 1.0 / theta.powf((2 * pair) as f64 / width);
                self.scaling.apply(frequency, pair, positions) as f32
            })
            .collect()
    }

    /// Whether [`inverse_frequencies`](Self::inverse_frequencies) are others for longer sequences.
    pub fn depends_on_length(&self) -> bool {
        self.original_positions().is_some()
    }

    /// Tokens up to which [`inverse_frequencies`](Self::inverse_frequencies) are the same, where they are others for longer
    /// sequences.
    pub fn original_positions(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic {
                original_max_positions,
                ..
            }
            | RopeScaling::LongRope {
                original_max_positions,
                ..
            } => Some(original_max_positions as usize),
            _ => None,
        }
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor
            }
            _ => 1.0,
        }
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f64, pair: usize, positions: usize) -> f64 {
        match self {
            Self::None | Self::Dynamic { .. } => frequency,
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
            Self::Yarn {
                factor,
                ramp: (low, high),
                ..
            } => {
                let divided = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * divided + frequency * (1.0 - divided)
            }
            Self::LongRope {
                short_factor,
                long_factor,
                original_max_positions,
                ..
            } => {
                let is_long = positions as f64 > *original_max_positions;
                frequency
                    / if is_long {
                        long_factor[pair]
                    } else {
                        short_factor[pair]
                    }
            }
        }
    }
}

/// Reads one scaling.
struct Reader<'a> {
    map: Fields<'a>,
    top: &'a Fields<'a>,
    rope: &'a RopeConfig,
    defaults: &'a RopeDefaults,
}

impl Reader<'_> {
    fn scaling(&self) -> Result<RopeScaling> {
        // `type` is the older spelling of `rope_type`, `su` of `longrope`.
        let kind = self.map.text("rope_type").or_else(|| self.map.text("type"));
        match kind.unwrap_or("default") {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear {
                factor: self.positive("factor", None)?,
            }),
            "dynamic" => Ok(RopeScaling::Dynamic {
                factor: self.positive("factor", None)?,
                original_max_positions: self.defaults.max_positions as f64,
            }),
            "llama3" => self.llama3(),
            "yarn" => self.yarn(),
            "longrope" | "su" => self.longrope(),
            other => {
                let reason = format!(
                    "{other:?} is not supported; supported: default, linear, dynamic, llama3, yarn, longrope"
                );
                Err(ModelError::config("rope_type", reason))
            }
        }
    }

    fn positive(&self, name: &'static str, default: Option<f64>) -> Result<f64> {
        let value = self.map.float(name)?.or(default);
        match value {
            Some(value) if value > 0.0 => Ok(value),
            Some(value) => Err(ModelError::config(name, format!("{value} is not positive"))),
            None => Err(ModelError::config(name, "is missing")),
        }
    }

    /// Phi-3 keeps it beside the scaling, the others inside.
    fn original_max_positions(&self) -> Result<f64> {
        const NAME: &str = "original_max_position_embeddings";
        match self.top.float(NAME)? {
            Some(positions) if positions > 1.0 => Ok(positions),
            _ => self.positive(NAME, Some(self.defaults.max_positions as f64)),
        }
    }

    fn llama3(&self) -> Result<RopeScaling> {
        let low = self.positive("low_freq_factor", None)?;
        let high = self.positive("high_freq_factor", None)?;
        if high <= low {
            return Err(ModelError::config(
                "high_freq_factor",
                format!("{high} is not above {low}"),
            ));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.positive("factor", None)?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_positions: self.original_max_positions()?,
        })
    }

    /// Equations 17 to 22 of the paper.
    fn yarn(&self) -> Result<RopeScaling> {
        let factor = self.positive("factor", None)?;
        let (fast, slow) = (
            self.positive("beta_fast", Some(32.0))?,
            self.positive("beta_slow", Some(1.0))?,
        );
        let original = self.original_max_positions()?;
        let width = self.rope.rotary_dim as f64;
        let pair_that_turns = |times: f64| {
            width * (original / (times * std::f64::consts::TAU)).ln() / (2.0 * self.rope.theta.ln())
        };
        let (mut low, mut high) = (pair_that_turns(fast), pair_that_turns(slow));
        if self.map.boolean("truncate")?.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low >= high {
            high = low + 0.001;
        }
        let scale = |weight: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * weight * factor.ln() + 1.0
            }
        };
        let attention_factor = match (self.map.float("mscale")?, self.map.float("mscale_all_dim")?) {
            (Some(own), Some(all)) if own != 0.0 && all != 0.0 => scale(own) / scale(all),
            _ => scale(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            ramp: (low, high),
            attention_factor: self.positive("attention_factor", Some(attention_factor))?,
        })
    }

    fn longrope(&self) -> Result<RopeScaling> {
        let original = self.original_max_positions()?;
        let grown = self.defaults.max_positions as f64 / original;
        let factor = self.positive("factor", Some(grown))?;
        let attention_factor = if factor <= 1.0 {
            1.0
        } else {
            (1.0 + factor.ln() / original.ln()).sqrt()
        };
        Ok(RopeScaling::LongRope {
            short_factor: self.divisors("short_factor")?,
            long_factor: self.divisors("long_factor")?,
            original_max_positions: original,
            attention_factor: self.positive("attention_factor", Some(attention_factor))?,
        })
    }

    fn divisors(&self, name: &'static str) -> Result<Vec<f64>> {
        let wanted = self.rope.rotary_dim / 2;
        let list = self.map.0.get(name).and_then(Value::as_array);
        let divisors: Vec<f64> = list
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .filter(|&divisor| divisor > 0.0)
            .collect();
        if divisors.len() == wanted && list.is_some_and(|list| list.len() == wanted) {
            Ok(divisors)
        } else {
            Err(ModelError::config(
                name,
                format!("is not a list of {wanted} positive numbers"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: Value) -> Result<RopeConfig> {
        let defaults = RopeDefaults {
            theta: 10_000.0,
            head_dim: 128,
            max_positions: 4096,
        };
        RopeConfig::from_fields(&Fields(raw.as_object().unwrap()), None, &defaults)
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
            rotary_dim: 128,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 8192.0,
            },
        };
        let plain = RopeConfig {
            theta: 500_000.0,
            rotary_dim: 128,
            scaling: RopeScaling::None,
        }
        .inverse_frequencies(1);
        let scaled = rope.inverse_frequencies(1);
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
            serde_json::json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1], "long_factor": [1]}}),
            serde_json::json!({"partial_rotary_factor": 0.01}),
            serde_json::json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                "high_freq_factor": 1}}),
        ] {
            assert!(parse(raw.clone()).is_err(), "{raw}");
        }
    }
}
