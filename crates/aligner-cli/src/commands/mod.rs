//! One file for each command.

pub mod bootstrap;
pub mod chat;
pub mod convert;
pub mod correct;
pub mod data;
pub mod demo;
pub mod eval;
pub mod export;
mod fit;
pub mod import;
pub mod inspect;
pub mod plan;
pub mod report;
mod rows;
pub mod score;
pub mod serve;
pub mod steer;
pub mod train;

use std::path::{Path, PathBuf};

use aligner_hub::Files;
use aligner_infer::{Corrector, CorrectorBuilder};
use aligner_model::{LoraAdapter, WeightsCache};

use crate::args::{ModelArgs, template};
use crate::error::Result;
use crate::hub;
use crate::runs::model_dir;

/// Opens the model that was asked for.
fn open(args: &ModelArgs) -> Result<Corrector> {
    Ok(builder(args)?.build()?)
}

/// The model that was asked for, before it is read.
fn builder(args: &ModelArgs) -> Result<CorrectorBuilder> {
    let model = model_dir(args.model.as_deref(), Files::Model)?;
    let mut builder = match &args.adapter {
        Some(adapter) => Corrector::builder(model_dir(Some(adapter), Files::Model)?).base(model),
        None => match fetched_base(&model)? {
            Some(base) => Corrector::builder(model).base(base),
            None => Corrector::builder(model),
        },
    }
    .device(args.place.device)
    .weights(args.place.weights);
    if args.no_weights_cache {
        builder = builder.weights_cache(WeightsCache::Off);
    }
    if let Some(format) = args.kv_format {
        builder = builder.kv_format(format);
    }
    if let Some(typed) = &args.template {
        // Whoever names a template means it: another one than recorded is a warning.
        builder = builder.template(template(typed)?).allow_mismatch();
    }
    Ok(builder)
}

/// The base of an adapter that names a model of the Hub.
fn fetched_base(dir: &Path) -> Result<Option<PathBuf>> {
    if !LoraAdapter::is_in(dir) {
        return Ok(None);
    }
    let adapter = LoraAdapter::read(dir)?;
    match &adapter.base_model {
        Some(name) if adapter.base_dir(dir).is_err() => Ok(Some(hub::local(Path::new(name), Files::Model)?)),
        _ => Ok(None),
    }
}
