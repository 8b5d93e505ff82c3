//! A linear layer that can carry a low-rank adapter.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
};
use burn::nn::Initializer;
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor};

use super::Dropout;
use crate::kernels::{self, Int8Weight, LinearWeight, PanelWeight, QuantizedWeight};

/// `x W + b`, and with an adapter `+ scale · dropout(x) A B`.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[input, output]`
    pub weight: ProjectionWeight,
    /// `[output]`
    pub bias: Option<Param<Tensor<1>>>,
    /// The adapter, when one is attached.
    pub lora: Option<Lora>,
}

/// The weight of a [`Projection`]. As a module it is its parameter, or one without any: what walks over parameters (gradients,
/// the optimizer, writers) does not meet a rounded weight.
#[derive(Debug, Clone)]
pub enum ProjectionWeight {
    /// `[input, output]`
    Dense(Param<Tensor<2>>),
    /// One that is not trained.
    Int8(Int8Weight),
    /// One that is not trained, in single precision as inference reads it.
    Panels(PanelWeight),
    /// One of a model that runs.
    Quantized(QuantizedWeight),
}

/// A low-rank update of a [`Projection`] (Hu et al. 2021, arXiv 2106.09685).
#[derive(Module, Debug)]
pub struct Lora {
    /// `[input, rank]`
    pub a: Param<Tensor<2>>,
    /// `[rank, output]`
    pub b: Param<Tensor<2>>,
    /// Of the adapter's input; only while training.
    pub dropout: Dropout,
    /// What the update is multiplied by.
    pub scale: f64,
}

impl Projection {
    /// A layer with zero weights, to be loaded.
    ///
    /// Zeros instead of a random default: the initialisation is lazy and never runs for a parameter that is replaced.
    pub fn new(input: usize, output: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: ProjectionWeight::Dense(Initializer::Zeros.init([input, output], device)),
            bias: bias.then(|| Initializer::Zeros.init([output], device)),
            lora: None,
        }
    }

    /// # Shapes
    /// - `x`: `[rows, input]`
    /// - output: `[rows, output]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        if !x.device().is_autodiff() {
            return kernels::linear(x, self.to_linear());
        }
        let update = self.lora.as_ref().map(|lora| {
            let low = lora.dropout.forward(x.clone()).matmul(lora.a.val());
            low.matmul(lora.b.val()) * lora.scale
        });
        let bias = self.bias.as_ref().map(Param::val);
        let out = match &self.weight {
            ProjectionWeight::Dense(weight) => linear(x, weight.val(), bias),
            ProjectionWeight::Int8(weight) => kernels::int8_linear(x, weight, bias),
            ProjectionWeight::Panels(weight) => linear(x.clone(), weight.tensor(&x.device()), bias),
            ProjectionWeight::Quantized(weight) => kernels::quantized_linear(x, weight, bias),
        };
        match update {
            Some(update) => out + update,
            None => out,
        }
    }

    /// The layer as an input of a larger operation of training; `None` when it drops inputs of its adapter at random just now,
    /// and when its weight is one of a model that runs, which such an operation would bring into f32 first.
    pub fn as_linear(&self) -> Option<kernels::Linear> {
        let drops = |lora: &Lora| lora.dropout.prob > 0.0 && lora.a.val().device().is_autodiff();
        let runs_only = matches!(
            self.weight,
            ProjectionWeight::Quantized(_) | ProjectionWeight::Panels(_)
        );
        if self.lora.as_ref().is_some_and(drops) || runs_only {
            return None;
        }
        Some(self.to_linear())
    }

    /// The layer as an input of a larger operation, without the dropout of its adapter.
    pub fn to_linear(&self) -> kernels::Linear {
        kernels::Linear {
            weight: match &self.weight {
                ProjectionWeight::Dense(weight) => LinearWeight::Dense(weight.val()),
                ProjectionWeight::Int8(weight) => LinearWeight::Int8(weight.clone()),
                ProjectionWeight::Panels(weight) => LinearWeight::Panels(weight.clone()),
                ProjectionWeight::Quantized(weight) => LinearWeight::Quantized(weight.clone()),
            },
            bias: self.bias.as_ref().map(Param::val),
            lora: self.lora.as_ref().map(|lora| kernels::LowRank {
                a: lora.a.val(),
                b: lora.b.val(),
                scale: lora.scale,
            }),
        }
    }

    /// See [`CausalDecoder::into_panels`](crate::CausalDecoder::into_panels).
    pub(crate) fn put_into_panels(&mut self) {
        let ProjectionWeight::Dense(weight) = &self.weight else {
            return;
        };
        if let Some(weight) = PanelWeight::of(&weight.val()) {
            self.weight = ProjectionWeight::Panels(weight);
        }
    }

    /// Input and output width.
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }
}

impl ProjectionWeight {
    /// The dimensions of a parameter, input and output width of the others.
    pub(crate) fn dims(&self) -> [usize; 2] {
        match self {
            // Which does not make one that is still to be loaded.
            Self::Dense(weight) => weight.lazy_shape().dims(),
            Self::Int8(weight) => weight.dims(),
            Self::Panels(weight) => weight.dims(),
            Self::Quantized(weight) => weight.dims(),
        }
    }

    /// Changes the parameter, where it is one.
    fn map_param(self, change: impl FnOnce(Param<Tensor<2>>) -> Param<Tensor<2>>) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(change(weight)),
            Self::Int8(_) | Self::Panels(_) | Self::Quantized(_) => self,
        }
    }
}

impl Module for ProjectionWeight {
    fn collect_devices(&self, devices: Devices) -> Devices {
        match self {
            Self::Dense(weight) => weight.collect_devices(devices),
            Self::Int8(_) | Self::Panels(_) | Self::Quantized(_) => devices,
        }
    }

    fn fork(self, device: &Device) -> Self {
        self.map_param(|weight| weight.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_param(|weight| Module::to_device(weight, device))
    }

    fn train(self) -> Self {
        self.map_param(Module::train)
    }

    fn valid(&self) -> Self {
        self.clone().map_param(|weight| Module::valid(&weight))
    }

    fn materialize(self) -> Self {
        self.map_param(Module::materialize)
    }

    fn num_params(&self) -> usize {
        match self {
            Self::Dense(weight) => Module::num_params(weight),
            Self::Int8(weight) => weight.dims().iter().product(),
            Self::Panels(weight) => weight.dims().iter().product(),
            Self::Quantized(weight) => weight.dims().iter().product(),
        }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if let Self::Dense(weight) = self {
            Module::visit(weight, visitor);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.map_param(|weight| Module::map(weight, mapper))
    }
}

impl ModuleDisplayDefault for ProjectionWeight {
    fn content(&self, content: Content) -> Option<Content> {
        match self {
            Self::Dense(weight) => content.add_single(weight).optional(),
            Self::Int8(weight) => content.add_debug_attribute("int8", weight).optional(),
            Self::Panels(weight) => content.add_debug_attribute("panels", weight).optional(),
            Self::Quantized(weight) => content.add_debug_attribute("quantized", weight).optional(),
        }
    }
}

impl ModuleDisplay for ProjectionWeight {}
