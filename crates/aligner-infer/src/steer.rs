//! Correction strength: a control vector along the direction in which copying an answer and correcting it differ, which
//! `aligner steer fit` writes beside a model.

use std::path::Path;
use std::sync::Arc;

use aligner_data::PromptTemplate;
use aligner_model::{SteeringVector, weights_fingerprint};

use crate::corrector::{Corrector, Voice};
use crate::decoder::DecoderLm;
use crate::error::{InferError, Result};

/// Strengths that can be asked for.
const RANGE: std::ops::RangeInclusive<f64> = 0.0..=1.5;

/// Facts by which a vector is known to be a model's own.
const WEIGHTS: &str = "weights";
const BASE_WEIGHTS: &str = "base_weights";
const TEMPLATE: &str = "template";

/// Notes whose vector it is: the model of `dir`, or the adapter of `dir` over `base`, behind a template.
///
/// # Errors
/// When the weights cannot be read.
pub fn sign_steering(
    vector: &mut SteeringVector,
    dir: &Path,
    base: Option<&Path>,
    template: &PromptTemplate,
) -> Result<()> {
    for (fact, value) in identity(dir, base, template)? {
        vector.facts.insert(fact.to_string(), value);
    }
    Ok(())
}

fn identity(
    dir: &Path,
    base: Option<&Path>,
    template: &PromptTemplate,
) -> Result<Vec<(&'static str, String)>> {
    let mut facts = vec![
        (WEIGHTS, weights_fingerprint(dir)?),
        (TEMPLATE, template.fingerprint()),
    ];
    if let Some(base) = base {
        facts.push((BASE_WEIGHTS, weights_fingerprint(base)?));
    }
    Ok(facts)
}

/// The vector that was fitted to a model, known to be its own.
pub(crate) fn steering_of(
    dir: &Path,
    base: Option<&Path>,
    template: &PromptTemplate,
) -> Result<SteeringVector> {
    let model = || dir.display().to_string();
    let vector = SteeringVector::read(dir)?.ok_or_else(|| InferError::NoSteering(model()))?;
    for (fact, value) in identity(dir, base, template)? {
        if vector.facts.get(fact) != Some(&value) {
            return Err(InferError::WrongSteering {
                model: model(),
                differs: fact,
            });
        }
    }
    Ok(vector)
}

/// A strength that can be asked for.
pub(crate) fn check_strength(strength: f64) -> Result<()> {
    if RANGE.contains(&strength) {
        return Ok(());
    }
    Err(InferError::Sampling {
        name: "strength",
        value: strength,
        rule: "a number from 0 to 1.5",
    })
}

impl Corrector<DecoderLm> {
    /// This corrector at another strength; they share the weights. 0 leaves more of an answer as it is, 1 is the model as it was
    /// trained, 1.5 changes more.
    ///
    /// The adapters that it knows stay as they are: each has a vector of its own, for
    /// `corrector.adapter(name)?.with_strength(&its_vector, strength)`.
    ///
    /// # Errors
    /// When the strength is not from 0 to 1.5, or the vector does not fit the model.
    pub fn with_strength(&self, vector: &SteeringVector, strength: f64) -> Result<Self> {
        check_strength(strength)?;
        let model = self.model().with_steering(vector, strength)?;
        let voice = Voice::new(model, self.tokenizer().clone(), self.template().clone())?;
        Ok(self.with_voice(Arc::new(voice)))
    }
}
