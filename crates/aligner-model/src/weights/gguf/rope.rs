//! Rotary embedding: metadata and `rope_freqs.weight` → `rope_parameters`.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::GgufFile;
use super::names::Family;
use crate::error::Result;

/// A divisor for the frequency of each pair of dimensions.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// How far divisors may lie from those of a scaling, as a share of them. The converter computes wavelengths in single
/// precision, which is off by some 1e-6; the ramp of a factor of 32 makes up to 4e-5 of that. A change of a parameter
/// that a model could notice moves a divisor by far more.
const TOLERANCE: f64 = 1e-4;
/// Llama 3's context before it was scaled; what the converter takes when `config.json` is silent.
const LLAMA3_CONTEXT: f64 = 8192.0;

/// What is known of a model's rotary embedding before its scaling.
pub(super) struct Rotation {
    pub theta: f64,
    /// Dimensions of a head that are rotated.
    pub rotary_dim: u64,
    pub head_dim: u64,
    /// Context length in tokens.
    pub max_positions: u64,
}

/// `rope_parameters` of `config.json`.
pub(super) fn parameters(file: &GgufFile, family: &Family, rotation: &Rotation) -> Result<Value> {
    let reader = Reader {
        file,
        family,
        rotation,
    };
    let mut parameters = reader.scaling()?;
    parameters["rope_theta"] = json!(rotation.theta);
    if let Some(share) = reader.share()? {
        parameters["partial_rotary_factor"] = json!(share);
    }
    Ok(parameters)
}

struct Reader<'a> {
    file: &'a GgufFile,
    family: &'a Family,
    rotation: &'a Rotation,
}

impl Reader<'_> {
    fn float(&self, leaf: &str) -> Result<Option<f64>> {
        self.file.float(&format!("{}.rope.{leaf}", self.family.name))
    }

    /// The rotated part of a head; `None` when it is all of it.
    fn share(&self) -> Result<Option<f64>> {
        let (rotated, all) = (self.rotation.rotary_dim, self.rotation.head_dim);
        if rotated == all {
            return Ok(None);
        }
        let share = rotated as f64 / all as f64;
        // Hugging Face rounds the product down.
        let fits = rotated < all && (all as f64 * share) as u64 == rotated;
        if self.family.permuted || !fits {
            let reason = format!("rotates {rotated} of a head's {all} dimensions, which is not supported");
            return Err(self.file.error(reason));
        }
        Ok(Some(share))
    }

    fn scaling(&self) -> Result<Value> {
        let key = format!("{}.rope.scaling.type", self.family.name);
        // The older spelling of a linear scaling has no type.
        let older = self.float("scale_linear")?.filter(|&factor| factor != 1.0);
        let kind = match (self.file.text(&key)?, older) {
            (None, Some(_)) => "linear",
            (kind, _) => kind.unwrap_or("none"),
        };
        let factors = self.file.read_tensor(FACTORS)?;
        match (kind, factors) {
            ("none", None) => Ok(json!({"rope_type": "default"})),
            ("none" | "llama3", Some(factors)) => self.llama3(&factors.values),
            ("linear", None) => Ok(json!({"rope_type": "linear", "factor": self.factor(older)?})),
            ("yarn", None) => self.yarn(),
            (_, Some(_)) => {
                let reason = format!("scales rotation both by {key} = {kind:?} and by {FACTORS}");
                Err(self.file.error(reason))
            }
            (other, None) => {
                let reason = format!("has {key} = {other:?}; read are \"none\", \"linear\", \"yarn\"");
                Err(self.file.error(reason))
            }
        }
    }

    fn factor(&self, otherwise: Option<f64>) -> Result<f64> {
        let factor = self.float("scaling.factor")?.or(otherwise);
        factor.filter(|&factor| factor > 0.0).ok_or_else(|| {
            self.file
                .error("scales rotation by no positive rope.scaling.factor")
        })
    }

    fn yarn(&self) -> Result<Value> {
        let factor = self.factor(None)?;
        let original = self.float("scaling.original_context_length")?;
        let mut yarn = json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original.unwrap_or(self.rotation.max_positions as f64) as u64,
        });
        for (leaf, name) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
            if let Some(value) = self.float(&format!("scaling.{leaf}"))? {
                yarn[name] = json!(value);
            }
        }
        let own = match self.float("scaling.attn_factor")? {
            Some(own) => Some(own),
            None => self.float("scaling.yarn_attn_factor")?,
        };
        if let Some(own) = own.filter(|&own| own != 1.0) {
            // llama.cpp multiplies this with what YaRN gives; Hugging Face's number replaces it.
            yarn["attention_factor"] = json!(own * (1.0 + 0.1 * factor.max(1.0).ln()));
        }
        for leaf in ["scaling.yarn_ext_factor", "scaling.yarn_log_multiplier"] {
            let neutral = if leaf.ends_with("ext_factor") { 1.0 } else { 0.0 };
            if let Some(value) = self.float(leaf)?.filter(|&value| value != neutral) {
                let reason = format!("has rope.{leaf} = {value}, which is not supported");
                return Err(self.file.error(reason));
            }
        }
        Ok(yarn)
    }

    /// The scaling that gives these divisors.
    fn llama3(&self, factors: &[f32]) -> Result<Value> {
        let pairs = self.rotation.rotary_dim / 2;
        if factors.len() as u64 != pairs || factors.iter().any(|&factor| factor < 0.999) {
            let reason = format!("{FACTORS} is no list of {pairs} divisors of frequencies");
            return Err(self.file.error(reason));
        }
        if factors.iter().all(|&factor| (factor - 1.0).abs() < 1e-6) {
            return Ok(json!({"rope_type": "default"}));
        }
        let step = 2.0 / self.rotation.rotary_dim as f64;
        let divisors: Vec<(f64, f64)> = factors
            .iter()
            .enumerate()
            .map(|(pair, &factor)| {
                let wavelength = TAU * self.rotation.theta.powf(pair as f64 * step);
                (wavelength, f64::from(factor))
            })
            .collect();
        let original = self.float("scaling.original_context_length")?;
        let found = Llama3::usual(&divisors, original).or_else(|| Llama3::solved(&divisors, original));
        let found = found.ok_or_else(|| {
            let reason = format!(
                "{FACTORS} holds divisors that no llama3 scaling gives (from {} to {}); \
                 only such a scaling can be read from them",
                factors[0],
                factors[factors.len() - 1]
            );
            self.file.error(reason)
        })?;
        Ok(json!({
            "rope_type": "llama3",
            "factor": found.factor,
            "low_freq_factor": found.low,
            "high_freq_factor": found.high,
            "original_max_position_embeddings": found.original as u64,
        }))
    }
}

/// Llama 3.1's scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3 {
    /// What a frequency is divided by.
    fn divisor(&self, wavelength: f64) -> f64 {
        let turns = self.original / wavelength;
        if turns > self.high {
            1.0
        } else if turns < self.low {
            self.factor
        } else {
            let smooth = (turns - self.low) / (self.high - self.low);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        }
    }

    fn gives(&self, divisors: &[(f64, f64)]) -> bool {
        divisors
            .iter()
            .all(|&(wavelength, divisor)| (self.divisor(wavelength) - divisor).abs() <= TOLERANCE * divisor)
    }

    /// One with the numbers that models have. Those that give the same divisors are the same model: the first is taken.
    fn usual(divisors: &[(f64, f64)], original: Option<f64>) -> Option<Self> {
        // The longest wavelength is divided by the whole factor, unless the ramp ends behind it.
        let last = super::value::decimal(divisors.last()?.1 as f32);
        let factors = [last, 8.0, 32.0, 4.0, 16.0, 2.0, 64.0];
        let bands = [(1.0, 4.0), (1.0, 2.0), (1.0, 8.0), (1.0, 16.0), (1.0, 32.0)];
        let powers = (4..=20).map(|power| f64::from(1u32 << power));
        let originals: Vec<f64> = original
            .into_iter()
            .chain([LLAMA3_CONTEXT])
            .chain(powers)
            .collect();
        let all = factors.into_iter().flat_map(|factor| {
            let originals = &originals;
            bands.into_iter().flat_map(move |(low, high)| {
                originals.iter().map(move |&original| Self {
                    factor,
                    low,
                    high,
                    original,
                })
            })
        });
        let mut fitting = all.filter(|scaling| scaling.gives(divisors));
        fitting.next()
    }

    /// One with other numbers, from the ramp: there the reciprocal of a divisor is linear in that of the wavelength.
    /// Multiples of low, high and context are the same scaling, so the context must be known.
    fn solved(divisors: &[(f64, f64)], original: Option<f64>) -> Option<Self> {
        let original = original.unwrap_or(LLAMA3_CONTEXT);
        let factor = super::value::decimal(divisors.last()?.1 as f32);
        let smooth = |divisor: f64| (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor);
        let ramp: Vec<(f64, f64)> = divisors
            .iter()
            .map(|&(wavelength, divisor)| (original / wavelength, smooth(divisor)))
            .filter(|(_, smooth)| (1e-3..=1.0 - 1e-3).contains(smooth))
            .collect();
        let (&(first_turns, first), &(last_turns, last)) = (ramp.first()?, ramp.last()?);
        let width = (first_turns - last_turns) / (first - last);
        let low = first_turns - first * width;
        let exact = Self {
            factor,
            low,
            high: low + width,
            original,
        };
        let rounded = Self {
            low: four_digits(exact.low),
            high: four_digits(exact.high),
            ..exact
        };
        let fits =
            |scaling: &Self| scaling.low > 0.0 && scaling.high > scaling.low && scaling.gives(divisors);
        [rounded, exact].into_iter().find(fits)
    }
}

/// A number to four significant decimal digits.
fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divisors(scaling: &Llama3, theta: f64, dim: usize) -> Vec<(f64, f64)> {
        (0..dim / 2)
            .map(|pair| {
                // As the converter does, in single precision.
                let frequency = 1.0 / (theta as f32).powf(2.0 * pair as f32 / dim as f32);
                let wavelength = std::f32::consts::TAU / frequency;
                let divisor = scaling.divisor(f64::from(wavelength)) as f32;
                (
                    TAU * theta.powf(2.0 * pair as f64 / dim as f64),
                    f64::from(divisor),
                )
            })
            .collect()
    }

    #[test]
    fn the_scalings_of_published_models_are_found_exactly() {
        for factor in [8.0, 32.0] {
            let scaling = Llama3 {
                factor,
                low: 1.0,
                high: 4.0,
                original: 8192.0,
            };
            for dim in [64, 128] {
                let found = Llama3::usual(&divisors(&scaling, 500_000.0, dim), None);
                assert_eq!(found, Some(scaling), "{dim}");
            }
        }
    }

    #[test]
    fn unusual_numbers_are_solved_for() {
        let scaling = Llama3 {
            factor: 5.5,
            low: 1.25,
            high: 6.5,
            original: 3000.0,
        };
        let divisors = divisors(&scaling, 500_000.0, 128);
        assert_eq!(Llama3::usual(&divisors, Some(3000.0)), None);
        assert_eq!(Llama3::solved(&divisors, Some(3000.0)), Some(scaling));
        // Without the context another of the same divisors is found.
        let other = Llama3::solved(&divisors, None).unwrap();
        assert!(
            other.gives(&divisors) && other.original == LLAMA3_CONTEXT,
            "{other:?}"
        );
    }

    #[test]
    fn divisors_of_no_scaling_are_refused() {
        let scaling = Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 8192.0,
        };
        let mut divisors = divisors(&scaling, 500_000.0, 128);
        divisors[3].1 = 1.01;
        assert_eq!(Llama3::usual(&divisors, None), None);
        assert_eq!(Llama3::solved(&divisors, None), None);
    }
}
