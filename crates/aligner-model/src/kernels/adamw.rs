//! The optimizer's update in one pass over memory, in place.

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::{PIECE, tensor, unique, with_slice};
use super::math::vectorized;
use super::{reference, runs_fused};

/// The numbers of one AdamW step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient is multiplied by this first: 1, or less when its norm was clipped.
    pub gradient_scale: f64,
    /// Number of this step, counted from 1.
    pub step: u64,
}

impl AdamWStep {
    /// `1 − beta1^step`
    pub fn bias_correction1(&self) -> f64 {
        1.0 - self.beta1.powf(self.step as f64)
    }

    /// `1 − beta2^step`
    pub fn bias_correction2(&self) -> f64 {
        1.0 - self.beta2.powf(self.step as f64)
    }
}

/// One step of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2): returns parameter and moments.
///
/// On the CPU the three are updated in place when the caller gave away their only handles.
///
/// # Shapes
/// - all four tensors and all three results: `[elements]`, the same
pub fn adamw(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    step: AdamWStep,
) -> [Tensor<1>; 3] {
    if !runs_fused(&parameter) {
        return reference::adamw(parameter, gradient, m, v, step);
    }
    let (parameter, m, v) = <Dispatch as AdamWOps>::adamw(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        m.into_dispatch(),
        v.into_dispatch(),
        step,
    );
    [parameter, m, v].map(Tensor::from_dispatch)
}

/// Sum of the squares of all elements, accumulated in f64: `[1]`.
pub fn squared_norm<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    if !runs_fused(&x) {
        return reference::squared_norm(x);
    }
    Tensor::from_dispatch(<Dispatch as AdamWOps>::squared_norm(x.into_dispatch()))
}

/// The optimizer's operations as an extension of a backend.
#[backend_extension(Flex)]
pub trait AdamWOps: Backend {
    /// See [`adamw`].
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`squared_norm`].
    fn squared_norm(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl AdamWOps for Flex {
    fn adamw(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (mut parameter, mut m, mut v) = (unique(parameter), unique(m), unique(v));
        with_slice(&gradient, |gradient| {
            let slices = (
                parameter.storage_mut::<f32>().par_chunks_mut(PIECE),
                m.storage_mut::<f32>().par_chunks_mut(PIECE),
                v.storage_mut::<f32>().par_chunks_mut(PIECE),
                gradient.par_chunks(PIECE),
            );
            slices.into_par_iter().for_each(|(parameter, m, v, gradient)| {
                vectorized!((
                    parameter: &'a mut [f32], m: &'a mut [f32], v: &'a mut [f32], gradient: &'a [f32], step: AdamWStep
                ) -> () { update(parameter, m, v, gradient, &step) });
            });
        });
        (parameter, m, v)
    }

    fn squared_norm(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let pieces: Vec<f64> = with_slice(&x, |x| {
            x.par_chunks(PIECE)
                .map(|x| vectorized!((x: &'a [f32]) -> f64 { sum_of_squares(x) }))
                .collect()
        });
        tensor(vec![pieces.iter().sum::<f64>() as f32], [1].into())
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}

#[inline(always)]
fn update(parameter: &mut [f32], m: &mut [f32], v: &mut [f32], gradient: &[f32], step: &AdamWStep) {
    let (beta1, beta2, epsilon) = (step.beta1 as f32, step.beta2 as f32, step.epsilon as f32);
    let (rest1, rest2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let keep = (1.0 - step.lr * step.weight_decay) as f32;
    let rate = (step.lr / step.bias_correction1()) as f32;
    let inverse_root2 = (1.0 / step.bias_correction2().sqrt()) as f32;
    let scale = step.gradient_scale as f32;
    for i in 0..gradient.len() {
        let g = gradient[i] * scale;
        m[i] = m[i] * beta1 + g * rest1;
        v[i] = v[i] * beta2 + g * g * rest2;
        parameter[i] = parameter[i] * keep - rate * m[i] / (v[i].sqrt() * inverse_root2 + epsilon);
    }
}
