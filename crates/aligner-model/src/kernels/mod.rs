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
mod few_rows;
mod flex;
mod math;
mod matmul;
pub mod reference;
mod rms_norm;
mod swiglu;

pub use adamw::{AdamWStep, adamw, squared_norm};
pub use attention::{AttentionSettings, Heads, causal_attention};
pub use few_rows::{linear, linear_transposed};
pub use rms_norm::rms_norm;
pub use swiglu::swiglu;

use burn::tensor::{DType, Device, Tensor};

/// Whether the fused CPU operations can take this tensor.
pub(crate) fn runs_fused<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().without_autodiff() == Device::flex()
}
