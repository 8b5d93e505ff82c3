//! Every fused operation equals its reference composition, in value and in gradient, on random shapes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aligner_model::kernels::{self, AdamWStep, AttentionSettings, Heads, reference};
use burn::tensor::{Device, Distribution, Tensor};
use common::{assert_close, host};
use proptest::prelude::*;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 2.0), device)
}

/// Relative to the largest value, as sums of many terms differ by their order.
fn assert_alike<const D: usize>(fused: Tensor<D>, composed: Tensor<D>, what: &str) {
    assert_eq!(fused.dims(), composed.dims(), "{what}");
    let (fused, composed) = (host(fused), host(composed));
    let largest = composed
        .iter()
        .fold(0.5f32, |largest, value| largest.max(value.abs()));
    assert_close(&fused, &composed, 4e-6 * largest, what);
}

/// Runs `operation` on two leaves, weighs the output by fixed random numbers, and returns output and both gradients.
fn with_gradients<const A: usize, const B: usize>(
    (a, b, weigh): (&Tensor<A>, &Tensor<B>, &Tensor<A>),
    operation: impl Fn(Tensor<A>, Tensor<B>) -> Tensor<A>,
) -> (Tensor<A>, Tensor<A>, Tensor<B>) {
    let (a, b) = (
        a.clone().autodiff().require_grad(),
        b.clone().autodiff().require_grad(),
    );
    let out = operation(a.clone(), b.clone());
    let grads = (out.clone() * weigh.clone().autodiff()).sum().backward();
    (out.inner(), a.grad(&grads).unwrap(), b.grad(&grads).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn rms_norm(batch in 1usize..4, tokens in 1usize..40, width in 2usize..700) {
        let device = Device::flex();
        let (x, weight, weigh) = (random([batch, tokens, width], &device), random([width], &device),
            random([batch, tokens, width], &device));
        let inputs = (&x, &weight, &weigh);
        let fused = with_gradients(inputs, |x, w| kernels::rms_norm(x, w, 1e-5));
        let composed = with_gradients(inputs, |x, w| reference::rms_norm(x, w, 1e-5));
        assert_alike(fused.0, composed.0, "value");
        assert_alike(fused.1, composed.1, "gradient of x");
        assert_alike(fused.2, composed.2, "gradient of weight");
    }

    #[test]
    fn linear_of_few_rows(rows in 1usize..6, input in 1usize..300, output in 1usize..6000) {
        let device = Device::flex();
        let (x, weight, bias) = (random([rows, input], &device), random([input, output], &device),
            random([output], &device));
        let composed = x.clone().matmul(weight.clone());
        assert_alike(kernels::linear(x.clone(), weight.clone(), None), composed.clone(), "without bias");
        let with_bias = kernels::linear(x.clone(), weight.clone(), Some(bias.clone()));
        assert_alike(with_bias, composed.clone() + bias.unsqueeze(), "with bias");
        let stored = weight.transpose().mul_scalar(1.0);
        assert_alike(kernels::linear_transposed(x, stored), composed, "transposed");
    }

    #[test]
    fn swiglu(rows in 1usize..50, width in 1usize..700) {
        let device = Device::flex();
        let [gate, up, weigh] = [0; 3].map(|_| random([rows, width], &device));
        let fused = with_gradients((&gate, &up, &weigh), kernels::swiglu);
        let composed = with_gradients((&gate, &up, &weigh), reference::swiglu);
        assert_alike(fused.0, composed.0, "value");
        assert_alike(fused.1, composed.1, "gradient of gate");
        assert_alike(fused.2, composed.2, "gradient of up");
    }

    #[test]
    fn causal_attention(batch in 1usize..3, tokens in 1usize..150, kv_heads in 1usize..4, group in 1usize..4,
        half in 1usize..20, unrotated in 0usize..4, window in prop::option::of(1usize..80)) {
        let device = Device::flex();
        let head_dim = 2 * (half + unrotated);
        let heads = Heads { heads: kv_heads * group, kv_heads, head_dim };
        let settings = AttentionSettings { heads, scale: 0.3, window, softcap: None };
        let [query, weigh] = [0; 2].map(|_| random([batch, tokens, kv_heads * group * head_dim], &device));
        let [key, value] = [0; 2].map(|_| random([batch, tokens, kv_heads * head_dim], &device));
        let angle = random([tokens, half], &device);
        let run = |attention: fn(Tensor<3>, Tensor<3>, Tensor<3>, (Tensor<2>, Tensor<2>), AttentionSettings) -> Tensor<3>| {
            let [query, key, value] = [&query, &key, &value].map(|x| x.clone().autodiff().require_grad());
            let angle = angle.clone().autodiff();
            let out = attention(query.clone(), key.clone(), value.clone(), (angle.clone().cos(), angle.sin()), settings);
            let grads = (out.clone() * weigh.clone().autodiff()).sum().backward();
            [out.inner(), query.grad(&grads).unwrap(), key.grad(&grads).unwrap(), value.grad(&grads).unwrap()]
        };
        let (fused, composed) = (run(kernels::causal_attention), run(reference::causal_attention));
        for ((fused, composed), what) in fused.into_iter().zip(composed).zip(["value", "query", "key", "value's gradient"]) {
            assert_alike(fused, composed, what);
        }
    }

    #[test]
    fn adamw(elements in 1usize..40_000, decay in prop::bool::ANY, step in 1u64..2000) {
        let device = Device::flex();
        let step = AdamWStep { lr: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, gradient_scale: 0.7,
            weight_decay: if decay { 0.1 } else { 0.0 }, step };
        let [parameter, gradient, m, v] = [0; 4].map(|_| random([elements], &device));
        let v = v.square();
        let fused = kernels::adamw(parameter.clone(), gradient.clone(), m.clone(), v.clone(), step);
        let composed = reference::adamw(parameter, gradient, m, v, step);
        for ((fused, composed), what) in fused.into_iter().zip(composed).zip(["parameter", "m", "v"]) {
            assert_alike(fused, composed, what);
        }
    }

    #[test]
    fn squared_norm(rows in 1usize..200, width in 1usize..300) {
        let x = random([rows, width], &Device::flex());
        assert_alike(kernels::squared_norm(x.clone()), reference::squared_norm(x), "sum");
    }
}

#[test]
fn transposed_and_sliced_inputs_are_read_in_their_logical_order() {
    let device = Device::flex();
    let (x, weight) = (random([6, 5], &device), random([6], &device));
    let view = x.transpose();
    assert_alike(
        kernels::rms_norm(view.clone(), weight.clone(), 1e-5),
        reference::rms_norm(view.clone(), weight, 1e-5),
        "transposed",
    );
    let part = view.narrow(0, 1, 3);
    assert_alike(
        kernels::swiglu(part.clone(), part.clone()),
        reference::swiglu(part.clone(), part),
        "sliced",
    );
}

#[test]
fn a_view_is_not_written_through() {
    let device = Device::flex();
    let all = random([64], &device);
    let before = host(all.clone());
    let step = AdamWStep {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_scale: 1.0,
        step: 1,
    };
    let [part, gradient] = [all.clone().narrow(0, 8, 16), random([16], &device)];
    let zeros = Tensor::zeros([16], &device);
    let [updated, ..] = kernels::adamw(part, gradient, zeros.clone(), zeros, step);
    assert_eq!(updated.dims(), [16]);
    assert_eq!(host(all), before);
}
