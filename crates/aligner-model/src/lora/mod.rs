//! Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): new, attached, merged, and in PEFT's format.
//!
//! [`CausalDecoder::with_adapter`] gives a decoder that shares the base's weights: several adapters over one base are
//! several decoders that hold the base once, and a request chooses its adapter by choosing its decoder.

mod config;
mod peft;

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, TensorData};

pub use config::{LoraConfig, TargetModules};

use crate::decoder::CausalDecoder;
use crate::error::{ModelError, Result};
use crate::nn::{Dropout, Lora, Projection, ProjectionWeight};
use crate::weights::HostTensor;

/// The two matrices of one layer, in PEFT's orientation.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraWeights {
    /// `[rank, input]`
    pub a: HostTensor,
    /// `[output, rank]`
    pub b: HostTensor,
}

/// An adapter in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraAdapter {
    /// Its configuration.
    pub config: LoraConfig,
    /// The base model's name, for `adapter_config.json`.
    pub base_model: Option<String>,
    /// Module name, such as `model.layers.0.self_attn.q_proj`, → its matrices.
    pub layers: BTreeMap<String, LoraWeights>,
}

impl LoraAdapter {
    /// A new adapter of a decoder, initialised as PEFT does: `A` uniform in `±1/√input`, `B` zero, so that the adapted
    /// model starts as the base.
    ///
    /// # Errors
    /// When the configuration is out of range or names a module that the decoder does not have.
    pub fn new(config: &LoraConfig, decoder: &CausalDecoder, seed: u64) -> Result<Self> {
        config.validate()?;
        let mut layers = BTreeMap::new();
        for (name, projection) in decoder.projections() {
            if !config.target_modules.contains(&name) {
                continue;
            }
            let [input, output] = projection.dims();
            let bound = (input as f64).sqrt().recip();
            let a = crate::weights::uniform(seed, &name, input * config.rank, bound);
            layers.insert(
                name,
                LoraWeights {
                    a: HostTensor {
                        shape: vec![config.rank, input],
                        values: a,
                    },
                    b: HostTensor {
                        shape: vec![output, config.rank],
                        values: vec![0.0; output * config.rank],
                    },
                },
            );
        }
        config.target_modules.check_used(layers.keys())?;
        Ok(Self {
            config: config.clone(),
            base_model: None,
            layers,
        })
    }

    /// The adapter that is attached to a decoder.
    ///
    /// # Errors
    /// When none is, or the device cannot be read.
    pub fn of(decoder: &CausalDecoder, config: &LoraConfig) -> Result<Self> {
        let mut layers = BTreeMap::new();
        for (name, projection) in decoder.projections() {
            if let Some(lora) = &projection.lora {
                let (a, b) = (host(lora.a.val())?, host(lora.b.val())?);
                layers.insert(name, LoraWeights { a, b });
            }
        }
        if layers.is_empty() {
            return Err(ModelError::Adapter("the decoder has no adapter attached".into()));
        }
        Ok(Self {
            config: config.clone(),
            base_model: None,
            layers,
        })
    }
}

/// A parameter that is trained where there are gradients.
fn leaf(tensor: Tensor<2>) -> Param<Tensor<2>> {
    let trained = tensor.device().is_autodiff();
    Param::initialized(
        ParamId::new(),
        if trained { tensor.require_grad() } else { tensor },
    )
}

/// `[rows, columns]` on a device → its transpose in host memory.
fn host(tensor: Tensor<2>) -> Result<HostTensor> {
    let [rows, columns] = tensor.dims();
    let values = tensor.inner().transpose().try_into_vec_as::<f32>();
    Ok(HostTensor {
        shape: vec![columns, rows],
        values: values.map_err(|error| ModelError::Execution(error.to_string()))?,
    })
}

impl CausalDecoder {
    /// This decoder with an adapter over its weights, which both share.
    ///
    /// # Errors
    /// When the adapter has a layer that the decoder does not have, or one of another shape.
    pub fn with_adapter(&self, adapter: &LoraAdapter) -> Result<Self> {
        let mut adapted = self.without_adapter();
        let (scale, dropout) = (adapter.config.scale(), adapter.config.dropout);
        adapted.each_layer_of(adapter, |projection, [a, b]| {
            projection.lora = Some(Lora {
                a: leaf(a),
                b: leaf(b),
                dropout: Dropout::new(dropout),
                scale,
            });
        })?;
        Ok(adapted)
    }

    /// This decoder as a base that is not trained, with an adapter that is: on a device with gradients, only the adapter
    /// gets any.
    ///
    /// # Errors
    /// As [`with_adapter`](Self::with_adapter).
    pub fn frozen_with_adapter(self, adapter: &LoraAdapter) -> Result<Self> {
        self.no_grad().with_adapter(adapter)
    }

    /// Number of weights of the adapter that is attached, in elements; 0 without one.
    pub fn adapter_parameters(&self) -> usize {
        let of =
            |lora: &Lora| lora.a.dims().iter().product::<usize>() + lora.b.dims().iter().product::<usize>();
        self.projections()
            .filter_map(|(_, projection)| projection.lora.as_ref().map(of))
            .sum()
    }

    /// This decoder without its adapter.
    #[must_use]
    pub fn without_adapter(&self) -> Self {
        let mut bare = self.clone();
        for (_, projection) in bare.projections_mut() {
            projection.lora = None;
        }
        bare
    }

    /// A decoder whose weights have the adapter's update added: it computes the same without an adapter.
    ///
    /// # Errors
    /// As [`with_adapter`](Self::with_adapter), and when the weights are held in eight bits: an adapter is merged into the
    /// weights as their files have them.
    pub fn merged(&self, adapter: &LoraAdapter) -> Result<Self> {
        self.updated(adapter, adapter.config.scale())
    }

    /// Takes [`merged`](Self::merged) back, exact to rounding.
    ///
    /// # Errors
    /// As [`with_adapter`](Self::with_adapter).
    pub fn unmerged(&self, adapter: &LoraAdapter) -> Result<Self> {
        self.updated(adapter, -adapter.config.scale())
    }

    fn updated(&self, adapter: &LoraAdapter, scale: f64) -> Result<Self> {
        if let Some(format) = self.rounded_to() {
            return Err(ModelError::Adapter(format!(
                "the base is held in {format}, into which nothing is merged; load it as f32"
            )));
        }
        let mut updated = self.without_adapter();
        updated.each_layer_of(adapter, |projection, [a, b]| {
            if let ProjectionWeight::Dense(weight) = &mut projection.weight {
                let sum = weight.val() + a.matmul(b) * scale;
                *weight = Param::initialized(weight.id, sum);
            }
        })?;
        Ok(updated)
    }

    /// Calls `change` with each layer of the adapter, its matrices on the decoder's device: `[input, rank]`,
    /// `[rank, output]`.
    fn each_layer_of(
        &mut self,
        adapter: &LoraAdapter,
        mut change: impl FnMut(&mut Projection, [Tensor<2>; 2]),
    ) -> Result<()> {
        let device = self.norm.weight.val().device();
        let mut left: BTreeMap<&str, &LoraWeights> = adapter
            .layers
            .iter()
            .map(|(name, weights)| (name.as_str(), weights))
            .collect();
        for (name, projection) in self.projections_mut() {
            let Some(weights) = left.remove(name.as_str()) else {
                continue;
            };
            let [input, output] = projection.dims();
            check_shape(&name, "lora_A", &weights.a, [adapter.config.rank, input])?;
            check_shape(&name, "lora_B", &weights.b, [output, adapter.config.rank])?;
            let upload = |tensor: &HostTensor| {
                let data = TensorData::new(tensor.values.clone(), tensor.shape.clone());
                Tensor::<2>::from_data(data, &device).transpose()
            };
            change(projection, [upload(&weights.a), upload(&weights.b)]);
        }
        match left.keys().next() {
            None => Ok(()),
            Some(name) => Err(ModelError::Adapter(format!(
                "the adapter has {name}, which the model does not"
            ))),
        }
    }
}

fn check_shape(layer: &str, matrix: &str, tensor: &HostTensor, expected: [usize; 2]) -> Result<()> {
    if tensor.shape == expected {
        return Ok(());
    }
    let got = &tensor.shape;
    Err(ModelError::Adapter(format!(
        "{layer}.{matrix} has shape {got:?}, the model and the rank ask for {expected:?}"
    )))
}
