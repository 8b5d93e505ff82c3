//! Similarity by embeddings that somebody else computes: this crate knows no tensors.

use std::collections::{HashMap, HashSet};

use super::of_row;
use super::similarity::{RowScores, best_of};
use crate::error::{EvalError, Result};
use crate::row::{Outcome, References};
use crate::text::shortened;

/// Turns texts into vectors of one length, in their order. Any function of that shape is one.
pub trait Embedder {
    /// The vectors of some texts.
    ///
    /// # Errors
    /// When they cannot be computed.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>>;
}

impl<F: Fn(&[&str]) -> Result<Vec<Vec<f32>>>> Embedder for F {
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        self(texts)
    }
}

/// The directions of all texts that are compared; each text is embedded once. A blank text has none, and is like nothing.
pub(super) struct Embeddings<'a>(HashMap<&'a str, Vec<f32>>);

impl<'a> Embeddings<'a> {
    pub(super) fn of(outcomes: &'a [Outcome], embedder: &dyn Embedder, batch: usize) -> Result<Self> {
        let texts = distinct_texts(outcomes);
        let mut directions: HashMap<&str, Vec<f32>> = HashMap::with_capacity(texts.len());
        let mut length = None;
        for batch in texts.chunks(batch.max(1)) {
            let asked: Vec<&str> = batch.iter().map(|(_, text)| *text).collect();
            let vectors = embedder.embed(&asked)?;
            if vectors.len() != asked.len() {
                let found = vectors.len();
                let reason = format!("the embedder gave {found} vectors for {} texts", asked.len());
                return Err(EvalError::Invalid(reason));
            }
            for (&(row, text), vector) in batch.iter().zip(vectors) {
                let expected = *length.get_or_insert(vector.len());
                let direction = direction(vector, expected).map_err(|reason| {
                    let start = shortened(text);
                    of_row(
                        row + 1,
                        &outcomes[row],
                        &format!("the embedding of {start:?} {reason}"),
                    )
                })?;
                directions.insert(text, direction);
            }
        }
        Ok(Self(directions))
    }

    /// A text's highest cosines; `None` without a right answer.
    pub(super) fn best(&self, text: &str, references: &References) -> Option<RowScores> {
        let own = self.0.get(text);
        best_of(references, |reference| match (own, self.0.get(reference)) {
            (Some(a), Some(b)) => a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum(),
            _ => 0.0,
        })
    }
}

/// The texts that are compared, each with the row in which it first occurs, from short to long: texts of a batch are padded
/// to the longest of them.
fn distinct_texts(outcomes: &[Outcome]) -> Vec<(usize, &str)> {
    let mut seen = HashSet::new();
    let mut texts = Vec::new();
    for (row, outcome) in outcomes.iter().enumerate() {
        let References { correct, incorrect } = &outcome.item.references;
        if correct.is_empty() {
            continue;
        }
        for text in [&outcome.item.answer, &outcome.output]
            .into_iter()
            .chain(correct)
            .chain(incorrect)
        {
            if !text.trim().is_empty() && seen.insert(text.as_str()) {
                texts.push((row, text.as_str()));
            }
        }
    }
    texts.sort_by_key(|(_, text)| text.len());
    texts
}

/// A vector of length 1; the error says why there is none.
fn direction(mut vector: Vec<f32>, expected: usize) -> Result<Vec<f32>, String> {
    if vector.len() != expected {
        return Err(format!(
            "has {} numbers, where others have {expected}",
            vector.len()
        ));
    }
    let length = vector
        .iter()
        .map(|&value| f64::from(value).powi(2))
        .sum::<f64>()
        .sqrt();
    if !length.is_finite() {
        return Err("has a number that is infinite or none".into());
    }
    if length == 0.0 {
        return Err("is zero, which has no direction".into());
    }
    vector
        .iter_mut()
        .for_each(|value| *value = (f64::from(*value) / length) as f32);
    Ok(vector)
}
