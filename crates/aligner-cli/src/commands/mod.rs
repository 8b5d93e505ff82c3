//! One file for each command.

pub mod correct;
pub mod data;
pub mod demo;
pub mod score;
pub mod train;

use aligner_hub::Files;
use aligner_infer::Corrector;

use crate::args::{ModelArgs, template};
use crate::error::Result;
use crate::runs::model_dir;

/// Opens the model that was asked for.
fn open(args: &ModelArgs) -> Result<Corrector> {
    let mut builder = Corrector::builder(model_dir(args.model.as_deref(), Files::Model)?).device(args.device);
    if let Some(typed) = &args.template {
        // Whoever names a template means it: another one than recorded is a warning.
        builder = builder.template(template(typed)?).allow_mismatch();
    }
    Ok(builder.build()?)
}
