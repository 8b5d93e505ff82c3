//! Fused operations: each a Burn backend extension with a reference composition, checked against it in forward and
//! gradient.

use burn::tensor::{DType, Tensor, activation::silu};

/// RMS normalisation over the last dimension, in f32 whatever the input.
///
/// # Shapes
/// - `x`: `[..., width]`, `weight`: `[width]`
/// - output: as `x`
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let inverse = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    (x / inverse).cast(dtype) * weight.unsqueeze()
}

/// `silu(gate) · up`, element by element.
///
/// # Shapes
/// - `gate`, `up`: the same, any
/// - output: as `gate`
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}
