//! The mean of several models' weights.

use std::collections::HashMap;

use aligner_data::AlignerManifest;
use aligner_model::weights::NamedTensor;

use super::source::Source;
use super::{ExportFormat, ExportOptions};
use crate::error::{InferError, Result};

type Read = Box<dyn FnOnce() -> aligner_model::Result<Vec<f32>>>;

/// The models that the options name beside a source.
pub(super) fn others(source: &Source, options: &ExportOptions) -> Result<Vec<Source>> {
    if options.average.is_empty() {
        return Ok(Vec::new());
    }
    if options.format == ExportFormat::Peft {
        let reason = "the mean of adapters is none of their rank: export it as hf or gguf, which merges them";
        return Err(InferError::Export(reason.into()));
    }
    let alone = ExportOptions {
        adapter: None,
        base: None,
        average: Vec::new(),
        ..options.clone()
    };
    let others = options.average.iter().map(|dir| Source::find(dir, &alone));
    let others: Vec<Source> = others.collect::<Result<_>>()?;
    let config = source.config()?;
    for other in &others {
        let what = if !other.config()?.computes_as(&config) {
            "another shape"
        } else if differ(source, other, |manifest| &manifest.template_fingerprint) {
            "another prompt template"
        } else if differ(source, other, |manifest| &manifest.tokenizer_hash) {
            "another tokenizer"
        } else {
            continue;
        };
        return Err(InferError::Export(format!(
            "{} has {what} than {}: the mean of their weights would be no model",
            other.own.display(),
            source.own.display()
        )));
    }
    Ok(others)
}

/// Whether two that say something say otherwise. A base that says nothing may be averaged with what was made of it.
fn differ(one: &Source, other: &Source, part: impl Fn(&AlignerManifest) -> &String) -> bool {
    match (&one.manifest, &other.manifest) {
        (Some(one), Some(other)) => part(one) != part(other),
        _ => false,
    }
}

/// The mean of each tensor, which is read of one model after the other when its turn comes.
pub(super) fn mean(own: Vec<NamedTensor>, others: Vec<Vec<NamedTensor>>) -> Result<Vec<NamedTensor>> {
    if others.is_empty() {
        return Ok(own);
    }
    let by_name = |tensors: Vec<NamedTensor>| -> HashMap<String, NamedTensor> {
        let named = tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor));
        named.collect()
    };
    let mut others: Vec<_> = others.into_iter().map(by_name).collect();
    let tensors = own.into_iter().map(|NamedTensor { name, shape, read }| {
        let mut parts = vec![read];
        for other in &mut others {
            let found = other.remove(&name).filter(|found| found.shape == shape);
            let found = found.ok_or_else(|| {
                InferError::Export(format!(
                    "{name} is not of the same shape in all that are averaged"
                ))
            })?;
            parts.push(found.read);
        }
        Ok(NamedTensor {
            name,
            shape,
            read: Box::new(move || mean_of(parts)),
        })
    });
    tensors.collect()
}

fn mean_of(parts: Vec<Read>) -> aligner_model::Result<Vec<f32>> {
    let count = parts.len() as f32;
    let mut sums: Vec<f32> = Vec::new();
    for read in parts {
        let values = read()?;
        if sums.is_empty() {
            sums = values;
        } else {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
    sums.iter_mut().for_each(|sum| *sum /= count);
    Ok(sums)
}
