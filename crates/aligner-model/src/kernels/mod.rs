//! Fused operations, each a Burn backend extension beside a reference composition.
//!
//! On the CPU (Burn's Flex backend) an operation runs as one pass over memory, forward and backward; on any other device
//! it is composed of Burn's own operations. [`mod@reference`] holds the compositions: the tests compare every fused
//! operation with its own, in value and in gradient, and the benches race them.
//!
//! Results do not depend on the number of threads: work is cut into pieces of fixed size, and sums over pieces are taken
//! in order.

mod adamw;
mod attention;
mod buffers;
mod cached;
mod embedding;
mod flex;
mod int8;
mod linear;
mod math;
mod matrix;
mod mlp;
mod output;
mod panels;
mod precision;
mod quant;
pub mod reference;
mod rms_norm;
mod rotary;
mod self_attention;
mod sequences;
mod slots;
mod swiglu;
mod team;
mod token_nll;

pub use adamw::{AdamWStep, adamw, squared_norm};
pub use attention::{AttentionSettings, Heads, causal_attention};
pub use buffers::release_buffers;
pub(crate) use cached::PanelWeights;
pub use cached::{
    CacheMut, CachedAttentionInputs, CachedAttentionSettings, CachedSequence, KvFormat, Pages, PanelWeight,
    cached_attention, inference_mlp, linear, linear_transposed,
};
pub use embedding::embedding;
pub use int8::{Int8Weight, WeightFormat, int8_linear};
pub use linear::{Linear, LinearWeight, LowRank};
pub use mlp::{Gate, MlpInputs, MlpSettings, mlp};
pub use precision::Precision;
pub use quant::{Prepared, QuantFormat, QuantizedWeight, RuntimeWeights, quantized_linear};
pub use rms_norm::{Norm, rms_norm};
pub use self_attention::{SelfAttentionInputs, SelfAttentionSettings, self_attention};
pub use sequences::Sequences;
pub use swiglu::swiglu;
pub use token_nll::{HeadLayout, token_nll};

use burn::tensor::{DType, Device, Tensor};

/// Whether the fused CPU operations can take this tensor.
pub(crate) fn runs_fused<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().without_autodiff() == Device::flex()
}
