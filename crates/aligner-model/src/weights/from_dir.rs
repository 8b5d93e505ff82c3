//! A directory's tensors as they stand on disk, read one at a time: no decoder is built.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::rc::Rc;

use burn::tensor::Device;

use super::names::{Unpacked, packed};
use super::{NamedTensor, TensorSource, bind, open_dir};
use crate::config::ModelConfig;
use crate::decoder::CausalDecoder;
use crate::error::{ModelError, Result};

/// The tensors of a model directory under their Hugging Face names, projections apart; each is read, and its shape
/// checked, when its turn to be written comes.
///
/// # Errors
/// When the directory has no weights, a header is damaged, or a tensor that the configuration asks for is missing.
pub fn dir_tensors(config: &ModelConfig, dir: &Path) -> Result<Vec<NamedTensor>> {
    source_tensors(config, open_dir(dir)?)
}

/// [`dir_tensors`] of another source.
///
/// # Errors
/// When the source lacks a tensor that the configuration asks for.
pub fn source_tensors(config: &ModelConfig, mut source: Box<dyn TensorSource>) -> Result<Vec<NamedTensor>> {
    // The parameters of an empty decoder are not there until they are asked for: this costs names and shapes.
    let wanted = bind::stored_shapes(&CausalDecoder::empty(config, &Device::flex()));
    let known: HashSet<String> = Unpacked::new(source.as_mut(), config)
        .names()
        .into_iter()
        .collect();
    let names = wanted.iter().map(|(name, _)| name.clone());
    let missing: Vec<String> = names.filter(|name| !known.contains(name)).collect();
    if !missing.is_empty() {
        let path = source.path().to_path_buf();
        return Err(ModelError::MissingTensors { path, names: missing });
    }
    let source = Rc::new(RefCell::new(source));
    let config = Rc::new(config.clone());
    let tensors = wanted.into_iter().map(|(name, shape)| {
        let (source, config, wanted) = (
            Rc::clone(&source),
            Rc::clone(&config),
            (name.clone(), shape.clone()),
        );
        NamedTensor {
            name,
            shape,
            read: Box::new(move || values(source.borrow_mut().as_mut(), &config, wanted)),
        }
    });
    Ok(tensors.collect())
}

fn values(
    source: &mut dyn TensorSource,
    config: &ModelConfig,
    (name, expected): (String, Vec<usize>),
) -> Result<Vec<f32>> {
    let path = source.path().to_path_buf();
    match Unpacked::new(source, config).read(&name)? {
        Some(tensor) if tensor.shape == expected => Ok(tensor.values),
        Some(tensor) => Err(ModelError::Shape {
            path,
            name,
            expected,
            got: tensor.shape,
        }),
        None => Err(ModelError::MissingTensors {
            path,
            names: vec![name],
        }),
    }
}

/// Tensors as a family stores them: the projections that it packs become one.
pub fn as_stored(config: &ModelConfig, tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    packed(config, tensors)
}
