//! Walks a decoder's parameters beside their names.

use std::collections::HashSet;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};

use super::names::{Unpacked, is_redundant, weight_name};
use super::quantized::Store;
use super::{Bands, HostTensor, NamedTensor, TensorSource};
use crate::config::ModelConfig;
use crate::decoder::{CausalDecoder, EMBEDDING, HEAD};
use crate::error::{ModelError, Result};
use crate::kernels::{Int8Weight, PanelWeight, PanelWeights, QuantFormat, QuantizedWeight, WeightFormat};
use crate::nn::ProjectionWeight;

/// Where a walk stands: the path and whether the innermost module stores its weight transposed.
#[derive(Default)]
struct Position {
    path: Vec<String>,
    kinds: Vec<bool>,
}

impl Position {
    fn enter(&mut self, name: &str, container: &str) {
        self.path.push(name.to_string());
        self.kinds.push(container == "Struct:Projection");
    }

    fn exit(&mut self) {
        self.path.pop();
        self.kinds.pop();
    }

    fn name(&self) -> String {
        weight_name(&self.path.join("."))
    }

    /// Burn keeps a linear weight as `[input, output]`, Hugging Face as `[output, input]`.
    fn transposed<const D: usize>(&self) -> bool {
        // The parameter itself is the innermost entry of the path, its module the one before.
        D == 2 && self.kinds.iter().rev().take(2).any(|&linear| linear)
    }
}

/// How the weights of linear layers are to be held.
pub(super) enum Storage<'a> {
    F32,
    /// Those of the blocks, for training.
    Int8,
    /// f32, those of the blocks, embedding and output projection as inference on the CPU reads them.
    Panels(&'a mut Store),
    /// Those of the blocks, embedding and output projection, for a model that runs.
    Quantized(QuantFormat, &'a mut Store),
}

impl From<WeightFormat> for Storage<'_> {
    fn from(format: WeightFormat) -> Self {
        match format {
            WeightFormat::F32 => Self::F32,
            WeightFormat::Int8 => Self::Int8,
        }
    }
}

pub(super) fn load(
    config: &ModelConfig,
    source: &mut dyn TensorSource,
    storage: Storage<'_>,
    device: &Device,
) -> Result<CausalDecoder> {
    let mut source = Unpacked::new(source, config);
    check_layers(config, &source)?;
    let mut loader = Loader {
        source: &mut source,
        position: Position::default(),
        device: device.clone(),
        missing: Vec::new(),
        used: HashSet::new(),
        failed: None,
    };
    let mut decoder = CausalDecoder::empty(config, device);
    match storage {
        Storage::F32 => {}
        Storage::Int8 => loader.round_to_int8(&mut decoder)?,
        Storage::Panels(store) => loader.put_into_panels(&mut decoder, store)?,
        Storage::Quantized(format, store) => loader.quantize(&mut decoder, format, store)?,
    }
    let decoder = decoder.map(&mut loader);
    if let Some(error) = loader.failed {
        return Err(error);
    }
    if !loader.missing.is_empty() {
        let path = loader.source.path().to_path_buf();
        return Err(ModelError::MissingTensors {
            path,
            names: loader.missing,
        });
    }
    let unused = |name: &String| !loader.used.contains(name) && !is_redundant(name, config.tie_embeddings);
    let extra: Vec<String> = loader.source.names().into_iter().filter(unused).collect();
    if !extra.is_empty() {
        tracing::warn!(path = %loader.source.path().display(), ?extra, "tensors the architecture does not have");
    }
    Ok(decoder)
}

/// A configuration can ask for more layers than memory has room for; every layer has tensors, so their number says before
/// any layer is made whether they can be there.
fn check_layers(config: &ModelConfig, source: &dyn TensorSource) -> Result<()> {
    let names = source.names();
    // A source of new weights has every tensor and lists none.
    if names.is_empty() || config.layers <= names.len() {
        return Ok(());
    }
    Err(ModelError::config(
        "num_hidden_layers",
        format!(
            "asks for {} layers, but there are no more than {} tensors in {}",
            config.layers,
            names.len(),
            source.path().display()
        ),
    ))
}

struct Loader<'a> {
    source: &'a mut dyn TensorSource,
    position: Position,
    device: Device,
    missing: Vec<String>,
    used: HashSet<String>,
    failed: Option<ModelError>,
}

impl Loader<'_> {
    /// Puts the weights of the blocks' linear layers in their places in eight bits: no parameters are left there for the walk.
    fn round_to_int8(&mut self, decoder: &mut CausalDecoder) -> Result<()> {
        for (layer, projection) in decoder.projections_mut() {
            let [input, output] = projection.dims();
            // As the file has it: blocks lie along the input.
            let name = format!("{layer}.weight");
            if let Some(weight) = self.fetch_host(name.clone(), false, &[output, input])? {
                let weight = Int8Weight::quantize(&weight).map_err(|error| self.named(&name, &error))?;
                projection.weight = ProjectionWeight::Int8(weight);
            }
        }
        Ok(())
    }

    /// Puts the weights of embedding and linear layers in their places in panels: no parameters are left there for the walk.
    fn put_into_panels(&mut self, decoder: &mut CausalDecoder, store: &mut Store) -> Result<()> {
        let [vocabulary, hidden] = decoder.embed_tokens.weight.dims();
        let embedding = std::iter::once((EMBEDDING.to_string(), [hidden, vocabulary]));
        let head = decoder.lm_head.iter().map(|head| (HEAD.to_string(), head.dims()));
        let layers = decoder.projections();
        let layers = layers.map(|(layer, projection)| (format!("{layer}.weight"), projection.dims()));
        let wanted: Vec<(String, [usize; 2])> = embedding.chain(head).chain(layers).collect();
        let weights = match store.panels(&wanted) {
            Some(kept) => {
                self.used.extend(wanted.into_iter().map(|(name, _)| name));
                kept
            }
            None => match self.read_panels(wanted)? {
                Some(made) => made,
                // The walk says which tensors are missing.
                None => return Ok(()),
            },
        };
        let mut weights = weights.into_iter().map(ProjectionWeight::Panels);
        let head = decoder.lm_head.as_mut().map(|head| &mut head.weight);
        let embedding = &mut decoder.embed_tokens.weight;
        for (place, weight) in std::iter::once(embedding).chain(head).zip(&mut weights) {
            *place = weight;
        }
        for ((_, projection), weight) in decoder.projections_mut().zip(weights) {
            projection.weight = weight;
        }
        Ok(())
    }

    /// Puts weights into panels as they are read; `None` when one is missing.
    fn read_panels(&mut self, wanted: Vec<(String, [usize; 2])>) -> Result<Option<Vec<PanelWeight>>> {
        // Before there is memory for them: a configuration may ask for any size, and the files tell how large they are.
        for (name, [input, output]) in &wanted {
            match self.source.shape_of(name)? {
                Some(shape) => self.accept(name.clone(), false, &shape, &[*output, *input])?,
                None => return Ok(None),
            }
        }
        let panels = PanelWeights::new(wanted.iter().map(|(_, dims)| *dims));
        let no_memory =
            || ModelError::weights(self.source.path(), "there is not enough memory for the weights");
        let mut panels = panels.ok_or_else(no_memory)?;
        for (name, dims @ [input, output]) in wanted {
            panels.push(dims, |rows, each| {
                let bands = Bands {
                    shape: [output, input],
                    rows,
                    each,
                };
                self.source.read_bands(&name, bands)
            })?;
        }
        Ok(Some(panels.finish().collect()))
    }

    /// Puts quantised weights in the places of all matrices: no parameters are left there for the walk.
    fn quantize(
        &mut self,
        decoder: &mut CausalDecoder,
        format: QuantFormat,
        store: &mut Store,
    ) -> Result<()> {
        let [vocabulary, hidden] = decoder.embed_tokens.weight.dims();
        if let Some(weight) = self.quantized(EMBEDDING, [hidden, vocabulary], format.of_embedding(), store)? {
            decoder.embed_tokens.weight = ProjectionWeight::Quantized(weight);
        }
        if let Some(head) = &mut decoder.lm_head
            && let Some(weight) = self.quantized(HEAD, head.dims(), format.of_embedding(), store)?
        {
            head.weight = ProjectionWeight::Quantized(weight);
        }
        for (layer, projection) in decoder.projections_mut() {
            let name = format!("{layer}.weight");
            if let Some(weight) = self.quantized(&name, projection.dims(), format, store)? {
                projection.weight = ProjectionWeight::Quantized(weight);
            }
        }
        Ok(())
    }

    fn quantized(
        &mut self,
        name: &str,
        [input, output]: [usize; 2],
        format: QuantFormat,
        store: &mut Store,
    ) -> Result<Option<QuantizedWeight>> {
        if let Some(weight) = store.quantized(name, format, [input, output]) {
            self.used.insert(name.to_string());
            return Ok(Some(weight));
        }
        let Some(weight) = self.fetch_host(name.to_string(), false, &[output, input])? else {
            return Ok(None);
        };
        let weight = store.quantize(&weight, format);
        weight.map(Some).map_err(|error| self.named(name, &error))
    }

    fn named(&self, tensor: &str, error: &ModelError) -> ModelError {
        ModelError::weights(self.source.path(), format!("{tensor}: {error}"))
    }

    fn fetch<const D: usize>(&mut self, expected: &[usize]) -> Result<Option<Tensor<D>>> {
        let (name, transposed) = (self.position.name(), self.position.transposed::<D>());
        let tensor = self.fetch_host(name, transposed, expected)?;
        Ok(
            tensor
                .map(|tensor| Tensor::from_data(TensorData::new(tensor.values, tensor.shape), &self.device)),
        )
    }

    fn fetch_host(
        &mut self,
        name: String,
        transposed: bool,
        expected: &[usize],
    ) -> Result<Option<HostTensor>> {
        let tensor = if transposed {
            self.source.read_transposed(&name)?
        } else {
            self.source.read(&name)?
        };
        let Some(tensor) = tensor else {
            // The walk asks again for what could not be quantised.
            if !self.missing.contains(&name) {
                self.missing.push(name);
            }
            return Ok(None);
        };
        self.accept(name, transposed, &tensor.shape, expected)?;
        Ok(Some(tensor))
    }

    /// Holds a tensor against what the layer needs.
    fn accept(&mut self, name: String, transposed: bool, got: &[usize], expected: &[usize]) -> Result<()> {
        if got != expected {
            // The message speaks of shapes as the file has them.
            let [mut got, mut expected] = [got.to_vec(), expected.to_vec()];
            for shape in [&mut got, &mut expected] {
                if transposed && shape.len() == 2 {
                    shape.reverse();
                }
            }
            let path = self.source.path().to_path_buf();
            return Err(ModelError::Shape {
                path,
                name,
                expected,
                got,
            });
        }
        self.used.insert(name);
        Ok(())
    }
}

/// Row-major `[rows, columns]` → row-major `[columns, rows]`, by tiles that stay in the cache.
pub(super) fn transpose(tensor: &HostTensor) -> Vec<f32> {
    const TILE: usize = 32;
    let [rows, columns] = [tensor.shape[0], tensor.shape[1]];
    let mut out = vec![0.0; tensor.values.len()];
    for row in (0..rows).step_by(TILE) {
        for column in (0..columns).step_by(TILE) {
            for r in row..(row + TILE).min(rows) {
                for c in column..(column + TILE).min(columns) {
                    out[c * rows + r] = tensor.values[r * columns + c];
                }
            }
        }
    }
    out
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failed.is_some() {
            return param;
        }
        let expected = param.lazy_shape().to_vec();
        match self.fetch::<D>(&expected) {
            Ok(Some(tensor)) if self.device.is_autodiff() => {
                Param::initialized(ParamId::new(), tensor.require_grad())
            }
            Ok(Some(tensor)) => Param::initialized(ParamId::new(), tensor),
            Ok(None) => param,
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }
}

/// Every parameter under its Hugging Face name and in its stored shape, in a fixed order. Rounded weights are none.
pub fn named_tensors(decoder: &CausalDecoder) -> Vec<NamedTensor> {
    let mut visitor = Tensors {
        position: Position::default(),
        found: Vec::new(),
    };
    decoder.visit(&mut visitor);
    visitor.found
}

struct Tensors {
    position: Position,
    found: Vec<NamedTensor>,
}

impl ModuleVisitor for Tensors {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Adapters are files of their own.
        if self.position.path.iter().any(|part| part == "lora") {
            return;
        }
        let transposed = self.position.transposed::<D>();
        let mut shape = param.lazy_shape().to_vec();
        if transposed {
            shape.reverse();
        }
        let tensor = param.val().inner();
        let read = move || {
            let tensor = if transposed {
                tensor.swap_dims(0, 1)
            } else {
                tensor
            };
            tensor
                .try_into_vec_as::<f32>()
                .map_err(|error| ModelError::Execution(error.to_string()))
        };
        self.found.push(NamedTensor {
            name: self.position.name(),
            shape,
            read: Box::new(read),
        });
    }
}

/// The Hugging Face name and stored shape of every parameter, in a fixed order; none is made for it.
pub(super) fn stored_shapes(decoder: &CausalDecoder) -> Vec<(String, Vec<usize>)> {
    #[derive(Default)]
    struct Shapes {
        position: Position,
        found: Vec<(String, Vec<usize>)>,
    }
    impl ModuleVisitor for Shapes {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.position.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.position.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let mut shape = param.lazy_shape().to_vec();
            if self.position.transposed::<D>() {
                shape.reverse();
            }
            self.found.push((self.position.name(), shape));
        }
    }
    let mut shapes = Shapes::default();
    decoder.visit(&mut shapes);
    shapes.found
}

/// The Hugging Face name of every parameter with its id, in a fixed order.
pub fn named_parameters(decoder: &CausalDecoder) -> Vec<(String, ParamId)> {
    struct Names {
        position: Position,
        found: Vec<(String, ParamId)>,
    }
    impl ModuleVisitor for Names {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.position.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.position.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.found.push((self.position.name(), param.id));
        }
    }
    let mut names = Names {
        position: Position::default(),
        found: Vec::new(),
    };
    decoder.visit(&mut names);
    names.found
}

/// Placeholder for messages about a parameter that has no file.
pub(super) fn nowhere() -> PathBuf {
    PathBuf::from("(new weights)")
}
