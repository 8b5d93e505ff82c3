//! What a file beside the model holds: a weight as it is multiplied.

use std::ops::Range;
use std::sync::Arc;

use crate::kernels::{PanelWeight, QuantizedWeight, RuntimeWeights};
use crate::nn::ProjectionWeight;
use crate::weights::MappedFile;

#[derive(Debug, Clone)]
pub(super) enum Kept {
    Quantized(QuantizedWeight),
    Panels(PanelWeight),
}

impl Kept {
    /// `None` for weights that no file holds.
    pub fn of(weight: &ProjectionWeight) -> Option<Self> {
        match weight {
            ProjectionWeight::Quantized(weight) => Some(Self::Quantized(weight.clone())),
            ProjectionWeight::Panels(weight) => Some(Self::Panels(weight.clone())),
            ProjectionWeight::Dense(_) | ProjectionWeight::Int8(_) => None,
        }
    }

    /// A weight in a mapped file; `None` when its bytes cannot be those of such a weight.
    pub fn mapped(
        format: RuntimeWeights,
        dims: [usize; 2],
        file: &Arc<MappedFile>,
        range: Range<usize>,
    ) -> Option<Self> {
        match format.quantized() {
            Some(format) => QuantizedWeight::mapped(format, dims, file, range).map(Self::Quantized),
            None => PanelWeight::mapped(dims, file, range).map(Self::Panels),
        }
    }

    /// How many bytes a file holds of a weight; `None` when they are more than can be counted.
    pub fn bytes_of(format: RuntimeWeights, dims @ [input, output]: [usize; 2]) -> Option<usize> {
        match format.quantized() {
            Some(format) => Some(format.bytes(input, output)).filter(|&bytes| bytes < usize::MAX),
            None => PanelWeight::stored_bytes(dims),
        }
    }

    pub fn format(&self) -> RuntimeWeights {
        match self {
            Self::Quantized(weight) => weight.format().into(),
            Self::Panels(_) => RuntimeWeights::F32,
        }
    }

    /// Input and output width.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Quantized(weight) => weight.dims(),
            Self::Panels(weight) => weight.dims(),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Quantized(weight) => weight.bytes(),
            Self::Panels(weight) => weight.stored(),
        }
    }
}
