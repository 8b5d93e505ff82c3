//! AdamW over a module, with a state that can be saved by weight name.

use std::collections::HashMap;
use std::path::Path;

use aligner_model::kernels::{AdamWStep, adamw, squared_norm};
use aligner_model::weights::{NamedTensor, SafetensorsSource, TensorSource, write_safetensors};
use aligner_model::{ModelError, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};

/// The fixed numbers of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// AdamW with two moments for every parameter, updated in place where the device allows.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    moments: HashMap<ParamId, [Tensor<1>; 2]>,
    steps: u64,
}

impl AdamW {
    /// An optimizer that has not taken a step.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            moments: HashMap::new(),
            steps: 0,
        }
    }

    /// Makes the moments of every trained parameter that has none yet: zeros, as the first step would.
    ///
    /// Made before the first step they lie behind the weights. Made in it they would lie where its activations were, and the
    /// next step's, finding no room between them, would take as much again.
    pub fn prepare<M: Module>(&mut self, module: &M) {
        struct Missing<'a>(&'a mut HashMap<ParamId, [Tensor<1>; 2]>);
        impl ModuleVisitor for Missing<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let tensor = param.val();
                if tensor.is_require_grad() {
                    let make = || zero_moments(tensor.dims().iter().product(), &tensor.device().inner());
                    self.0.entry(param.id).or_insert_with(make);
                }
            }
        }
        module.visit(&mut Missing(&mut self.moments));
    }

    /// Begins anew: no steps, no moments.
    pub fn reset<M: Module>(&mut self, module: &M) {
        // Given back first, so that the new ones find their place.
        *self = Self::new(self.config);
        self.prepare(module);
    }

    /// Updates every parameter that has a gradient and returns the module.
    ///
    /// `gradient_scale` multiplies all gradients first: 1, or less when their norm is to be clipped.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        lr: f64,
        gradient_scale: f64,
    ) -> M {
        self.steps += 1;
        let AdamWConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = self.config;
        let step = AdamWStep {
            lr,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            gradient_scale,
            step: self.steps,
        };
        module.map(&mut Updater {
            moments: &mut self.moments,
            gradients,
            step,
        })
    }

    /// Writes both moments to a safetensors file: `m.NAME` and `v.NAME` for each of `names`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, names: &[(String, ParamId)], path: &Path) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, id) in names {
            let Some(moments) = self.moments.get(id) else {
                continue;
            };
            for (prefix, tensor) in ["m", "v"].into_iter().zip(moments) {
                let tensor = tensor.clone();
                tensors.push(NamedTensor {
                    name: format!("{prefix}.{name}"),
                    shape: tensor.dims().to_vec(),
                    read: Box::new(move || {
                        tensor
                            .try_into_vec_as::<f32>()
                            .map_err(|error| ModelError::Execution(error.to_string()))
                    }),
                });
            }
        }
        write_safetensors(path, tensors)
    }

    /// Reads what [`save`](Self::save) wrote; `steps` is the number of steps taken until then.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn load(
        config: AdamWConfig,
        steps: u64,
        names: &[(String, ParamId)],
        path: &Path,
        device: &Device,
    ) -> Result<Self> {
        let mut source = SafetensorsSource::open_file(path)?;
        let mut read = |name: String| -> Result<Option<Tensor<1>>> {
            let tensor = source.read(&name)?;
            Ok(tensor.map(|tensor| {
                let len = tensor.values.len();
                Tensor::from_data(TensorData::new(tensor.values, [len]), device)
            }))
        };
        let mut moments = HashMap::new();
        for (name, id) in names {
            if let (Some(m), Some(v)) = (read(format!("m.{name}"))?, read(format!("v.{name}"))?) {
                moments.insert(*id, [m, v]);
            }
        }
        Ok(Self {
            config,
            moments,
            steps,
        })
    }
}

/// Both moments of a parameter before its first step.
fn zero_moments(len: usize, device: &Device) -> [Tensor<1>; 2] {
    [Tensor::zeros([len], device), Tensor::zeros([len], device)]
}

struct Updater<'a> {
    moments: &'a mut HashMap<ParamId, [Tensor<1>; 2]>,
    gradients: GradientsParams,
    step: AdamWStep,
}

impl ModuleMapper for Updater<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        // A new tensor has none of its own, and one operation takes parameters of one strategy alone: those that stay, too.
        let strategy = tensor.gradient_checkpointing_strategy();
        // Flattened and without its graph the tensor has one owner, and the update happens in its own memory.
        let flat = tensor.inner().reshape([-1]);
        let moments = self.moments.remove(&id);
        let [m, v] = moments.unwrap_or_else(|| zero_moments(flat.dims()[0], &flat.device()));
        let [flat, m, v] = adamw(flat, gradient.reshape([-1]), m, v, self.step);
        self.moments.insert(id, [m, v]);
        let mut updated = Tensor::from_inner(flat.reshape(shape));
        if let Some(strategy) = strategy {
            updated = updated.with_gradient_checkpointing_strategy(strategy);
        }
        Param::from_mapped_value(id, updated.require_grad(), mapper)
    }
}

/// Euclidean norm of all gradients of a module together.
///
/// # Errors
/// When the device cannot be read.
pub fn gradient_norm<M: Module>(module: &M, gradients: &GradientsParams) -> Result<f64, String> {
    struct Norms<'a> {
        gradients: &'a GradientsParams,
        squares: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                self.squares.push(squared_norm(gradient));
            }
        }
    }
    let mut norms = Norms {
        gradients,
        squares: Vec::new(),
    };
    module.visit(&mut norms);
    if norms.squares.is_empty() {
        return Ok(0.0);
    }
    let squares = Tensor::cat(norms.squares, 0)
        .try_into_vec_as::<f32>()
        .map_err(|error| error.to_string())?;
    Ok(squares
        .iter()
        .map(|&square| f64::from(square))
        .sum::<f64>()
        .sqrt())
}
