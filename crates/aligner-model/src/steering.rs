//! Control vectors: directions that are added to the residual stream (Turner et al. 2023, arXiv 2308.10248; Zou et al. 2023,
//! arXiv 2310.01405).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;

use crate::decoder::CausalDecoder;
use crate::error::{ModelError, Result};
use crate::weights::{SafetensorsSource, TensorSource, write_atomic};

/// The name of the file beside a model's weights.
const FILE: &str = "steering.safetensors";
/// Vectors of the largest models have about ten megabytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What is added to the residual stream behind some layers, for a change of strength by one.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeringVector {
    /// Layer, counted from 0 → `[hidden_size]`.
    pub layers: BTreeMap<usize, Vec<f32>>,
    /// What else is known of it, such as the model that it belongs to.
    pub facts: BTreeMap<String, String>,
}

impl SteeringVector {
    /// Reads `dir/steering.safetensors`; `None` when there is none.
    ///
    /// # Errors
    /// When the file is damaged, too large, or holds something else.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ModelError::io("read", &path)(error)),
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(ModelError::io("read", &path))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(ModelError::weights(&path, "is too large to hold control vectors"));
        }
        let facts = facts(&bytes).map_err(|reason| ModelError::weights(&path, reason))?;
        let mut source = SafetensorsSource::from_bytes(&path, bytes)?;
        let mut layers = BTreeMap::new();
        for name in source.names() {
            let layer = name.strip_prefix("layers.").and_then(|layer| layer.parse().ok());
            let tensor = source.read(&name)?;
            match (layer, tensor) {
                (Some(layer), Some(tensor)) if tensor.shape.len() == 1 => layers.insert(layer, tensor.values),
                _ => {
                    let reason =
                        format!("holds {name}, which is no control vector (layers.N of one dimension)");
                    return Err(ModelError::weights(&path, reason));
                }
            };
        }
        Ok(Some(Self { layers, facts }))
    }

    /// Writes `dir/steering.safetensors`, beside its place and then renamed; gives its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(FILE);
        let error = |cause: safetensors::SafeTensorError| ModelError::weights(&path, cause.to_string());
        let bytes_of = |values: &Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let layers: Vec<(String, usize, Vec<u8>)> = self
            .layers
            .iter()
            .map(|(layer, values)| (format!("layers.{layer}"), values.len(), bytes_of(values)))
            .collect();
        let views: Result<Vec<_>> = layers
            .iter()
            .map(|(name, width, bytes)| {
                let view = TensorView::new(Dtype::F32, vec![*width], bytes).map_err(error)?;
                Ok((name.as_str(), view))
            })
            .collect();
        let facts: HashMap<String, String> = self.facts.clone().into_iter().collect();
        let bytes = safetensors::serialize(views?, Some(facts)).map_err(error)?;
        write_atomic(&path, |file| {
            file.write_all(&bytes).map_err(ModelError::io("write", &path))
        })?;
        Ok(path)
    }
}

/// The texts in a safetensors header's `__metadata__`.
fn facts(file: &[u8]) -> Result<BTreeMap<String, String>, String> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default, rename = "__metadata__")]
        facts: BTreeMap<String, String>,
    }
    let header = file.split_first_chunk::<8>().and_then(|(length, rest)| {
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        rest.get(..length)
    });
    let header = header.ok_or_else(|| format!("is no safetensors file: {} bytes", file.len()))?;
    let header: Header =
        serde_json::from_slice(header).map_err(|cause| format!("has a damaged header: {cause}"))?;
    Ok(header.facts)
}

/// What is added behind each layer, on the decoder's device.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steering {
    /// `[hidden_size]` for each layer that has one.
    layers: Vec<Option<Tensor<1>>>,
}

impl Steering {
    /// The residual stream behind a layer.
    ///
    /// # Shapes
    /// - `x` and output: `[.., hidden_size]`
    pub fn behind<const D: usize>(&self, layer: usize, x: Tensor<D>) -> Tensor<D> {
        match self.layers.get(layer) {
            Some(Some(added)) => x + added.clone().unsqueeze::<D>(),
            _ => x,
        }
    }
}

impl CausalDecoder {
    /// This decoder with `change · vector` added to the residual stream behind the vector's layers, at every token; they share
    /// the weights. A vector that was added before is no longer. `change` 0 is the decoder as it was trained.
    ///
    /// # Errors
    /// When the vector has a layer that the decoder does not have, or one of another width.
    pub fn with_steering(&self, vector: &SteeringVector, change: f64) -> Result<Self> {
        let width = self.norm.weight.dims()[0];
        let device = self.norm.weight.val().device();
        let mut layers = vec![None; self.layers.len()];
        for (&layer, values) in &vector.layers {
            let Some(place) = layers.get_mut(layer).filter(|_| values.len() == width) else {
                return Err(ModelError::Steering(format!(
                    "it has layer {layer} of width {}, the model has {} layers of width {width}",
                    values.len(),
                    self.layers.len()
                )));
            };
            let values: Vec<f32> = values
                .iter()
                .map(|&value| (f64::from(value) * change) as f32)
                .collect();
            *place = Some(Tensor::from_data(TensorData::new(values, [width]), &device));
        }
        let mut steered = self.clone();
        steered.steering = Steering { layers };
        if change == 0.0 {
            steered.steering = Steering::default();
        }
        Ok(steered)
    }

    /// This decoder with weights that are not trained: no gradient of theirs is computed.
    #[must_use]
    pub fn without_gradients(self) -> Self {
        self.no_grad()
    }

    /// The gradient of a scalar with respect to a vector that is added to the residual stream behind a layer, at every token,
    /// beside what a control vector adds already: the direction in which it grows fastest. Nothing is computed of layers before.
    ///
    /// # Shapes
    /// - output: `[hidden_size]`
    ///
    /// # Errors
    /// When there is no such layer, the decoder's device keeps no gradients, or it fails.
    pub fn steering_gradient(
        &self,
        layer: usize,
        scalar: impl FnOnce(&Self) -> Tensor<1>,
    ) -> Result<Vec<f32>> {
        let width = self.norm.weight.dims()[0];
        let device = self.norm.weight.val().device();
        if !device.is_autodiff() {
            return Err(ModelError::Steering("the device keeps no gradients".into()));
        }
        let mut steered = self.clone();
        steered.steering.layers.resize(self.layers.len(), None);
        let Some(place) = steered.steering.layers.get_mut(layer) else {
            let layers = self.layers.len();
            return Err(ModelError::Steering(format!(
                "there is no layer {layer} of {layers}"
            )));
        };
        let added = Tensor::<1>::zeros([width], &device).require_grad();
        *place = Some(match place.take() {
            Some(there) => added.clone() + there,
            None => added.clone(),
        });
        let gradients = scalar(&steered).backward();
        match added.grad(&gradients) {
            Some(gradient) => {
                let values = gradient.try_into_vec_as::<f32>();
                values.map_err(|error| ModelError::Execution(error.to_string()))
            }
            // The scalar does not depend on it.
            None => Ok(vec![0.0; width]),
        }
    }
}
