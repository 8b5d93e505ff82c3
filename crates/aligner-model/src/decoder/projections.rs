//! The linear layers of a decoder by name, and how their weights are held.

use super::{CausalDecoder, EMBEDDING, HEAD};
use crate::kernels::{RuntimeWeights, WeightFormat};
use crate::nn::{Projection, ProjectionWeight};

impl CausalDecoder {
    /// The linear layers of the blocks with their names, such as `model.layers.0.self_attn.q_proj`.
    pub fn projections(&self) -> impl Iterator<Item = (String, &Projection)> {
        self.layers.iter().enumerate().flat_map(|(index, block)| {
            let (attention, mlp) = (&block.self_attn, &block.mlp);
            let projections = [
                &attention.q_proj,
                &attention.k_proj,
                &attention.v_proj,
                &attention.o_proj,
                &mlp.gate_proj,
                &mlp.up_proj,
                &mlp.down_proj,
            ];
            projection_names(index).into_iter().zip(projections)
        })
    }

    /// How the weights of the blocks' linear layers are held while training.
    pub fn weight_format(&self) -> WeightFormat {
        let is_int8 =
            |(_, projection): (String, &Projection)| matches!(projection.weight, ProjectionWeight::Int8(_));
        if self.projections().any(is_int8) {
            WeightFormat::Int8
        } else {
            WeightFormat::F32
        }
    }

    /// Puts the weights of the linear layers in the order in which inference reads them, one after the other, where the decoder
    /// lies in memory of the CPU without gradients; elsewhere nothing changes.
    ///
    /// It computes the same, but is not trained any more, nor written.
    #[must_use]
    pub fn into_panels(mut self) -> Self {
        for (_, projection) in self.projections_mut() {
            projection.put_into_panels();
        }
        if let Some(head) = &mut self.lm_head {
            head.put_into_panels();
        }
        self
    }

    /// How the weights are held of a model that runs.
    pub fn runtime_weights(&self) -> RuntimeWeights {
        let format = |(_, projection): (String, &Projection)| match &projection.weight {
            ProjectionWeight::Quantized(weight) => Some(weight.format()),
            ProjectionWeight::Dense(_) | ProjectionWeight::Int8(_) | ProjectionWeight::Panels(_) => None,
        };
        self.projections()
            .find_map(format)
            .map_or_else(Default::default, Into::into)
    }

    /// The format of the weights, where they are not those of the model's files, or not as files have them.
    pub(crate) fn rounded_to(&self) -> Option<String> {
        let in_panels =
            |(_, projection): (String, &Projection)| matches!(projection.weight, ProjectionWeight::Panels(_));
        match (self.weight_format(), self.runtime_weights()) {
            (WeightFormat::F32, RuntimeWeights::F32) => self
                .projections()
                .any(in_panels)
                .then(|| "panels for inference".into()),
            (WeightFormat::F32, format) => Some(format.to_string()),
            (format, _) => Some(format.to_string()),
        }
    }

    /// The weights of embedding, output projection and linear layers, by name.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (String, &ProjectionWeight)> {
        let embedding = (EMBEDDING.to_string(), &self.embed_tokens.weight);
        let head = self.lm_head.as_ref().map(|head| (HEAD.to_string(), &head.weight));
        let layers = self
            .projections()
            .map(|(name, projection)| (format!("{name}.weight"), &projection.weight));
        std::iter::once(embedding).chain(head).chain(layers)
    }

    /// [`projections`](Self::projections), to change them.
    pub fn projections_mut(&mut self) -> impl Iterator<Item = (String, &mut Projection)> {
        self.layers.iter_mut().enumerate().flat_map(|(index, block)| {
            let (attention, mlp) = (&mut block.self_attn, &mut block.mlp);
            let projections = [
                &mut attention.q_proj,
                &mut attention.k_proj,
                &mut attention.v_proj,
                &mut attention.o_proj,
                &mut mlp.gate_proj,
                &mut mlp.up_proj,
                &mut mlp.down_proj,
            ];
            projection_names(index).into_iter().zip(projections)
        })
    }
}

fn projection_names(layer: usize) -> [String; 7] {
    [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    .map(|name| format!("model.layers.{layer}.{name}"))
}
