//! The compositions that the fused operations must equal.

use burn::tensor::{DType, Tensor, activation::silu};

use super::AdamWStep;

/// `x / sqrt(mean(x²) + epsilon) · weight` over the last dimension, in f32 whatever the input.
///
/// # Shapes
/// - `x`: `[..., width]`, `weight`: `[width]`
/// - output: as `x`
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let root = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    (x / root).cast(dtype) * weight.unsqueeze()
}

/// `silu(gate) · up`, element by element.
///
/// # Shapes
/// - `gate`, `up`, output: the same, any
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}

/// One step of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2), in PyTorch's order of operations.
///
/// # Shapes
/// - all four tensors and all three results: the same
pub fn adamw(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    step: AdamWStep,
) -> [Tensor<1>; 3] {
    let gradient = gradient * step.gradient_scale;
    let parameter = parameter * (1.0 - step.lr * step.weight_decay);
    let m = m * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let v = v * step.beta2 + gradient.square() * (1.0 - step.beta2);
    let denominator = (v.clone() / step.bias_correction2()).sqrt() + step.epsilon;
    let parameter = parameter - m.clone() / denominator * (step.lr / step.bias_correction1());
    [parameter, m, v]
}

/// Sum of the squares of all elements: `[1]`.
pub fn squared_norm<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    x.square().sum()
}
