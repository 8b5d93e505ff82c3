//! Fits the control vector of a model: the direction in which its corrections become more probable than copies.

use std::collections::BTreeMap;

use aligner_data::{Batch, Encoder, Example, Record, Target};
use aligner_model::{CausalDecoder, SteeringVector, on_pool};

use crate::error::{Result, TrainError};
use crate::objective::{Objective, Sft};

/// Tokens that go through the model at once.
const BATCH_TOKENS: usize = 1024;

/// A model whose control vector is to be found.
#[derive(Debug)]
pub struct SteeringModel<'a> {
    /// On a device with gradients; its own weights need none.
    pub decoder: &'a CausalDecoder,
    /// Its tokenizer and the template that it was trained on; longer rows than the encoder's are left out.
    pub encoder: Encoder,
}

/// How a control vector is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SteeringOptions {
    /// The layer behind which it is added, counted from 0; by default two fifths of all.
    pub layer: Option<usize>,
    /// Its length, as what it does to a row: by so many nats the correction becomes more probable than a copy when it is added
    /// once, and less when it is taken away once, as far as the gradient tells.
    pub shift: f64,
}

impl Default for SteeringOptions {
    fn default() -> Self {
        Self {
            layer: None,
            shift: 4.0,
        }
    }
}

/// A control vector and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringFit {
    /// What is added for a change of strength by one.
    pub vector: SteeringVector,
    /// The layer behind which it is added.
    pub layer: usize,
    /// Rows that it was made from: those whose correction is no copy.
    pub rows: usize,
    /// Nats by which corrections are more probable than copies now, on average.
    pub preference: f64,
}

/// Finds the control vector of a model from rows with corrections that differ from their answers.
///
/// For each row the model says how probable it holds the correction, and how probable a copy of the answer. The mean gradient of
/// the difference of their logarithms, with respect to a vector added to the residual stream behind a layer at every token, is the
/// direction in which corrections gain most over copies. It is not the difference of mean activations between correcting and
/// copying, the usual control vector (Rimsky et al. 2023, arXiv 2312.06681): that tells the two apart, but adding it did not move
/// what an Aligner writes.
///
/// # Errors
/// When no row has a correction that differs and fits, the layer is not there, or the device keeps no gradients.
pub fn fit_steering(
    model: &SteeringModel<'_>,
    rows: &[Record],
    options: SteeringOptions,
) -> Result<SteeringFit> {
    let layers = model.decoder.layers.len();
    let layer = options.layer.unwrap_or(layers * 2 / 5);
    if layer >= layers {
        let reason = format!("there is no layer {layer}: the model has {layers}, counted from 0");
        return Err(TrainError::config("layer", reason));
    }
    if !(options.shift.is_finite() && options.shift > 0.0) {
        return Err(TrainError::config("shift", "must be a number above 0"));
    }
    let encoders =
        [Target::Correction, Target::AnswerUnchanged].map(|target| model.encoder.clone().with_target(target));
    let mut contrast = Contrast::default();
    let mut batch = Vec::new();
    for row in rows {
        batch.extend(Pair::of(&encoders, row)?);
        if batch.iter().map(Pair::tokens).sum::<usize>() >= BATCH_TOKENS {
            contrast.add(model.decoder, layer, &std::mem::take(&mut batch))?;
        }
    }
    contrast.add(model.decoder, layer, &batch)?;
    if contrast.rows == 0 {
        return Err(TrainError::config(
            "data",
            "no row has a correction that differs from the answer and fits the context: there is nothing to tell correcting \
             from copying by",
        ));
    }
    let count = contrast.rows as f64;
    let gradient: Vec<f64> = contrast.gradient.iter().map(|sum| sum / count).collect();
    let square: f64 = gradient.iter().map(|value| value * value).sum();
    if !(square.is_finite() && square > 0.0) {
        let reason = format!("behind layer {layer} nothing changes how probable corrections are");
        return Err(TrainError::config("layer", reason));
    }
    let vector = gradient
        .iter()
        .map(|value| (value * options.shift / square) as f32)
        .collect();
    let facts = [
        ("rows", contrast.rows.to_string()),
        ("shift", options.shift.to_string()),
    ];
    Ok(SteeringFit {
        vector: SteeringVector {
            layers: BTreeMap::from([(layer, vector)]),
            facts: facts
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        },
        layer,
        rows: contrast.rows,
        preference: contrast.preference / count,
    })
}

/// A prompt with the two ways to go on.
struct Pair {
    prompt_len: usize,
    correction: Vec<u32>,
    copy: Vec<u32>,
}

impl Pair {
    /// `None` when nothing is to be learned from a row.
    fn of([corrections, copies]: &[Encoder; 2], row: &Record) -> Result<Option<Self>> {
        if row.correction.is_none() {
            return Ok(None);
        }
        let (correction, prompt_len) = corrections.encode_any_length(row)?;
        let (copy, _) = copies.encode_any_length(row)?;
        let fits = correction.len().max(copy.len()) <= corrections.max_length();
        Ok((correction != copy && fits).then_some(Self {
            prompt_len,
            correction,
            copy,
        }))
    }

    fn tokens(&self) -> usize {
        self.correction.len() + self.copy.len()
    }
}

/// Sums over rows.
#[derive(Default)]
struct Contrast {
    gradient: Vec<f64>,
    preference: f64,
    rows: usize,
}

impl Contrast {
    fn add(&mut self, decoder: &CausalDecoder, layer: usize, pairs: &[Pair]) -> Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        let batch = |ids: fn(&Pair) -> &[u32]| {
            Batch::new(pairs.iter().map(|pair| Example {
                ids: ids(pair),
                prompt_len: pair.prompt_len,
            }))
        };
        let (corrections, copies) = (batch(|pair| &pair.correction), batch(|pair| &pair.copy));
        let mut preference = 0.0;
        let gradient = on_pool(|| {
            decoder.steering_gradient(layer, |decoder| {
                let gain = Sft.loss_sum(decoder, &copies) - Sft.loss_sum(decoder, &corrections);
                preference = f64::from(gain.clone().into_scalar::<f32>());
                gain
            })
        })?;
        self.gradient.resize(gradient.len(), 0.0);
        for (sum, value) in self.gradient.iter_mut().zip(gradient) {
            *sum += f64::from(value);
        }
        self.preference += preference;
        self.rows += pairs.len();
        Ok(())
    }
}
