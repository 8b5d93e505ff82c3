//! Which layer is steered, and how far.

use std::collections::BTreeMap;

use aligner_data::Record;
use aligner_model::{ModelError, Sequences, SteeringVector, Targets, on_pool};
use burn::tensor::{Int, Tensor};

use super::contrast::{BATCH_TOKENS, Contrast};
use crate::corrector::Corrector;
use crate::decoder::DecoderLm;
use crate::error::{InferError, Result};

/// A row in tokens.
#[derive(Debug)]
pub(super) struct Pair {
    /// The prompt with the answer.
    pub answer_prompt: Vec<u32>,
    /// The prompt with the correction in the answer's place.
    pub copy_prompt: Vec<u32>,
    /// The answer as a target, with the end of sequence.
    pub copy: Vec<u32>,
    /// The correction as a target, with the end of sequence.
    pub correction: Vec<u32>,
}

/// How a vector is fitted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SteeringOptions {
    /// The layer that is steered, counted from 0, instead of the one that does most.
    pub layer: Option<usize>,
    /// Change of the residual stream in one unit of strength, in mean differences between correcting and copying, instead of
    /// the one that does most.
    pub scale: Option<f64>,
}

/// A fitted vector and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringFit {
    /// The vector; not signed yet.
    pub vector: SteeringVector,
    /// The layer that is steered, counted from 0.
    pub layer: usize,
    /// Its length, in mean differences between correcting and copying.
    pub scale: f64,
    /// Rows that the direction was taken from.
    pub rows: usize,
}

/// Mean log-probabilities of a token, in nats.
#[derive(Debug, Clone, Copy)]
struct Odds {
    /// Of the answer, written once more.
    copy: f64,
    /// Of the correction.
    correction: f64,
}

/// Scales that are tried: of these the best is seldom at an end.
const SCALES: [f64; 4] = [1.0, 2.0, 4.0, 8.0];
/// Layers that are tried, spread from an early to a late one.
const LAYERS: usize = 6;
/// Rows by which they are judged.
const JUDGING_ROWS: usize = 24;
/// What the log-probability of copies must differ by between strengths 0 and 1.5, in nats a token: less is nothing that shows.
const LEAST_REACH: f64 = 0.2;
/// What corrections may become less probable by at strength 1.5, in nats a token: more, and the model is pushed off its way.
const TOLERANCE: f64 = 0.25;

/// Finds the direction between copying and correcting in rows, and the layer and length at which it does most.
///
/// At strength 0 the copy of an answer should be more probable, at 1.5 less, and the correction no less than before; layer
/// and length are those with the largest difference. With both given, they are taken without being judged.
///
/// # Errors
/// When no row has a correction that differs from its answer, no layer and length does what it should, a layer is not there, or
/// the device fails.
pub fn fit_steering(
    corrector: &Corrector<DecoderLm>,
    rows: &[Record],
    options: SteeringOptions,
) -> Result<SteeringFit> {
    let pairs = rows.iter().filter_map(|row| Pair::of(corrector, row).transpose());
    let pairs: Vec<Pair> = pairs.collect::<Result<_>>()?;
    if pairs.is_empty() {
        return Err(InferError::NoContrast);
    }
    let means = Contrast::of(corrector, &pairs)?.means();
    let judging = &pairs[..pairs.len().min(JUDGING_ROWS)];
    let as_trained = odds(corrector.model(), judging)?;
    let mut best: Option<(f64, usize, f64)> = None;
    for layer in layers(options.layer, means.len())? {
        for scale in options.scale.map_or(SCALES.to_vec(), |scale| vec![scale]) {
            let vector = vector(&means, layer, scale);
            let at = |strength: f64| odds(&corrector.model().with_steering(&vector, strength)?, judging);
            let (weakest, strongest) = (at(0.0)?, at(1.5)?);
            let reach = weakest.copy - strongest.copy;
            tracing::info!(layer, scale, ?weakest, ?as_trained, ?strongest, "steering tried");
            let is_sound = reach >= LEAST_REACH
                && weakest.copy > as_trained.copy
                && as_trained.copy > strongest.copy
                && strongest.correction >= as_trained.correction - TOLERANCE;
            let is_asked = options.layer.is_some() && options.scale.is_some();
            if (is_sound || is_asked) && best.is_none_or(|(best, ..)| reach > best) {
                best = Some((reach, layer, scale));
            }
        }
    }
    let (_, layer, scale) = best.ok_or(InferError::NoDirection)?;
    Ok(SteeringFit {
        vector: vector(&means, layer, scale),
        layer,
        scale,
        rows: pairs.len(),
    })
}

fn vector(means: &[Vec<f32>], layer: usize, scale: f64) -> SteeringVector {
    let values = means[layer]
        .iter()
        .map(|&value| (f64::from(value) * scale) as f32);
    let facts = [
        ("format", "aligner-steering-1".to_string()),
        (
            "created_by",
            concat!("aligner ", env!("CARGO_PKG_VERSION")).to_string(),
        ),
        ("scale", scale.to_string()),
    ];
    SteeringVector {
        layers: BTreeMap::from([(layer, values.collect())]),
        facts: facts.map(|(fact, value)| (fact.to_string(), value)).into(),
    }
}

/// Layers to try: the one asked for, or some between the first sixth and the last.
fn layers(asked: Option<usize>, count: usize) -> Result<Vec<usize>> {
    if let Some(layer) = asked {
        if layer >= count {
            let reason = format!("there is no layer {layer}: the model has {count}, counted from 0");
            return Err(ModelError::Steering(reason).into());
        }
        return Ok(vec![layer]);
    }
    let (first, last) = (count / 6, count - 1 - count / 6);
    let mut layers: Vec<usize> = (0..LAYERS)
        .map(|step| first + (last - first) * step / (LAYERS - 1))
        .collect();
    layers.dedup();
    Ok(layers)
}

/// How probable copies and corrections are behind the answers.
fn odds(model: &DecoderLm, pairs: &[Pair]) -> Result<Odds> {
    Ok(Odds {
        copy: mean_logprob(model, pairs, |pair| &pair.copy)?,
        correction: mean_logprob(model, pairs, |pair| &pair.correction)?,
    })
}

/// Mean log-probability of a token of the targets behind the prompts with the answers, in nats.
fn mean_logprob(
    model: &DecoderLm,
    pairs: &[Pair],
    target: impl Fn(&Pair) -> &Vec<u32> + Sync,
) -> Result<f64> {
    let (mut sum, mut tokens) = (0.0, 0);
    let mut pairs = pairs;
    while !pairs.is_empty() {
        let mut held = 0;
        let fitting = pairs.iter().take_while(|pair| {
            held += pair.answer_prompt.len() + target(pair).len();
            held <= BATCH_TOKENS
        });
        let (batch, rest) = pairs.split_at(fitting.count().max(1));
        sum += on_pool(|| logprob_sum(model, batch, &target))?;
        tokens += batch.iter().map(|pair| target(pair).len()).sum::<usize>();
        pairs = rest;
    }
    Ok(sum / tokens.max(1) as f64)
}

fn logprob_sum(model: &DecoderLm, batch: &[Pair], target: impl Fn(&Pair) -> &Vec<u32>) -> Result<f64> {
    let (decoder, device) = model.parts();
    let (mut ids, mut lengths, mut targets) = (Vec::new(), Vec::new(), Targets::default());
    for pair in batch {
        let target = target(pair);
        let start = ids.len() + pair.answer_prompt.len() - 1;
        targets
            .rows
            .extend((start..start + target.len()).map(|row| row as u32));
        targets.ids.extend(target);
        // The last token predicts nothing.
        let inputs = pair.answer_prompt.iter().chain(&target[..target.len() - 1]);
        lengths.push(inputs.clone().count());
        ids.extend(inputs.map(|&id| id as i32));
    }
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), device);
    let nll = decoder.target_nll(ids, &Sequences::new(lengths), &targets);
    let values = nll.try_into_vec_as::<f32>();
    let values = values.map_err(|error| ModelError::Execution(error.to_string()))?;
    Ok(-values.iter().map(|&value| f64::from(value)).sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::layers;

    #[test]
    fn layers_to_try_are_spread_and_there() {
        assert_eq!(layers(None, 30).unwrap(), [5, 8, 12, 16, 20, 24]);
        for count in 1..40 {
            let layers = layers(None, count).unwrap();
            assert!(
                !layers.is_empty() && layers.iter().all(|&layer| layer < count),
                "{count}"
            );
            assert!(layers.windows(2).all(|pair| pair[0] < pair[1]));
        }
        assert_eq!(layers(Some(3), 4).unwrap(), [3]);
        assert!(layers(Some(4), 4).unwrap_err().to_string().contains("layer 4"));
    }
}
