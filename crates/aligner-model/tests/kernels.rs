//! Every fused operation equals its reference composition, in value and in gradient, on random shapes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aligner_model::kernels::{
    self, AdamWStep, AttentionSettings, Gate, HeadLayout, Heads, Linear, LowRank, MlpInputs, MlpSettings,
    Norm, Precision, SelfAttentionInputs, SelfAttentionSettings, Sequences, reference,
};
use burn::tensor::{Device, Distribution, Tensor};
use common::{assert_close, host};
use proptest::prelude::*;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 2.0), device)
}

/// Relative to the largest value, as sums of many terms differ by their order.
fn assert_alike<const D: usize>(fused: Tensor<D>, composed: Tensor<D>, what: &str) {
    assert_alike_within(fused, composed, 4e-6, what);
}

fn assert_alike_within<const D: usize>(fused: Tensor<D>, composed: Tensor<D>, tolerance: f32, what: &str) {
    assert_eq!(fused.dims(), composed.dims(), "{what}");
    let (fused, composed) = (host(fused), host(composed));
    let largest = composed
        .iter()
        .fold(0.5f32, |largest, value| largest.max(value.abs()));
    assert_close(&fused, &composed, tolerance * largest, what);
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

/// Runs `operation` on leaves, weighs the output by fixed random numbers, and returns output and all gradients.
fn gradients(
    leaves: &[&Tensor<2>],
    weigh: &Tensor<2>,
    operation: impl Fn(Vec<Tensor<2>>) -> Tensor<2>,
) -> Vec<Tensor<2>> {
    let leaves: Vec<Tensor<2>> = leaves
        .iter()
        .map(|&leaf| leaf.clone().autodiff().require_grad())
        .collect();
    let out = operation(leaves.clone());
    let grads = (out.clone() * weigh.clone().autodiff()).sum().backward();
    let gradients = leaves.iter().map(|leaf| leaf.grad(&grads).unwrap());
    std::iter::once(out.inner()).chain(gradients).collect()
}

/// For operations without a softmax over scores.
const TOLERANCE: f32 = 2e-5;

/// The backward pass of the attention takes the mean gradient of a row's probabilities as `rowsum(dY ∘ Y)`. Where a token sees few
/// others, that and the gradients themselves nearly cancel, and their rounding stays; the composition takes the mean of what
/// it subtracts it from. Differences of up to 6e-5 were seen beside gradients below 0.5.
const ATTENTION_TOLERANCE: f32 = 2e-4;

fn assert_all_alike(fused: Vec<Tensor<2>>, composed: Vec<Tensor<2>>, tolerance: f32) {
    assert_eq!(fused.len(), composed.len());
    for (index, (fused, composed)) in fused.into_iter().zip(composed).enumerate() {
        let what = if index == 0 {
            "value".to_string()
        } else {
            format!("gradient of input {}", index - 1)
        };
        assert_alike_within(fused, composed, tolerance, &what);
    }
}

/// A factor of bf16 is off by up to 2⁻⁹ of itself, which a softmax over large logits makes more of: in the mean over a tensor up to
/// 0.09 of its size were seen at 2500 random shapes. What gradients nearly cancel to may be smaller than their rounding.
const BF16_TOLERANCE: f32 = 0.15;
const BF16_REST: f32 = 2e-3;

/// What was rounded differs by its rounding, in the mean over each tensor.
fn assert_all_rounded(rounded: Vec<Tensor<2>>, composed: &[Tensor<2>]) {
    assert_eq!(rounded.len(), composed.len());
    for (index, (rounded, composed)) in rounded.into_iter().zip(composed).enumerate() {
        let (rounded, composed) = (host(rounded), host(composed.clone()));
        assert_eq!(rounded.len(), composed.len());
        let mean = |square: &dyn Fn(usize) -> f32| (0..composed.len()).map(square).sum::<f32>().sqrt();
        let difference = mean(&|at| (rounded[at] - composed[at]).powi(2));
        let size = mean(&|at| composed[at].powi(2));
        let rest = BF16_REST * (composed.len() as f32).sqrt();
        assert!(
            difference <= BF16_TOLERANCE * size + rest,
            "{index}: {difference} beside {size}"
        );
    }
}

/// Which parts an operation has.
#[derive(Debug, Clone, Copy)]
struct Parts {
    norm: bool,
    bias: bool,
    lora: bool,
    residual: bool,
    gelu: bool,
}

impl Arbitrary for Parts {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        any::<[bool; 5]>()
            .prop_map(|[norm, bias, lora, residual, gelu]| Self {
                norm,
                bias,
                lora,
                residual,
                gelu,
            })
            .boxed()
    }
}

impl Parts {
    const RANK: usize = 3;
    const SCALE: f64 = 0.7;

    fn norm(&self, width: usize, device: &Device) -> Option<Tensor<2>> {
        self.norm.then(|| random([1, width], device) * 0.5)
    }

    /// Weight, bias, A and B, those that there are; scaled so that what they give stays of the size of what goes in.
    fn linear(&self, input: usize, output: usize, device: &Device) -> Vec<Tensor<2>> {
        let scale = 0.5 / (input as f64).sqrt();
        let mut tensors = vec![random([input, output], device) * scale];
        if self.bias {
            tensors.push(random([1, output], device) * 0.25);
        }
        if self.lora {
            tensors.push(random([input, Self::RANK], device) * scale);
            tensors.push(random([Self::RANK, output], device) * 0.3);
        }
        tensors
    }

    fn take_norm(&self, tensors: &mut impl Iterator<Item = Tensor<2>>) -> Option<Norm> {
        self.norm.then(|| Norm {
            weight: tensors.next().unwrap().flatten(0, 1),
            epsilon: 1e-5,
        })
    }

    fn take_linear(&self, tensors: &mut impl Iterator<Item = Tensor<2>>) -> Linear {
        Linear {
            weight: tensors.next().unwrap().into(),
            bias: self.bias.then(|| tensors.next().unwrap().flatten(0, 1)),
            lora: self.lora.then(|| LowRank {
                a: tensors.next().unwrap(),
                b: tensors.next().unwrap(),
                scale: Self::SCALE,
            }),
        }
    }
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
    fn causal_attention(lengths in prop::collection::vec(1usize..150, 1..4), kv_heads in 1usize..4,
        group in 1usize..4, half in 1usize..20, unrotated in 0usize..4, window in prop::option::of(1usize..80)) {
        let device = Device::flex();
        let head_dim = 2 * (half + unrotated);
        let heads = Heads { heads: kv_heads * group, kv_heads, head_dim };
        let settings = AttentionSettings { heads, scale: 0.3, window, softcap: None };
        let sequences = Sequences::new(lengths);
        let tokens = sequences.tokens();
        let [query, weigh] = [0; 2].map(|_| random([tokens, kv_heads * group * head_dim], &device));
        let [key, value] = [0; 2].map(|_| random([tokens, kv_heads * head_dim], &device));
        let angle = random([sequences.longest(), half], &device);
        type Attention = fn(Tensor<2>, Tensor<2>, Tensor<2>, (Tensor<2>, Tensor<2>), &Sequences, AttentionSettings)
            -> Tensor<2>;
        let run = |attention: Attention| {
            let angle = angle.clone().autodiff();
            gradients(&[&query, &key, &value], &weigh, |inputs| {
                let [query, key, value] = inputs.try_into().unwrap();
                attention(query, key, value, (angle.clone().cos(), angle.clone().sin()), &sequences, settings)
            })
        };
        assert_all_alike(run(kernels::causal_attention), run(reference::causal_attention), ATTENTION_TOLERANCE);
    }

    #[test]
    fn mlp(tokens in 1usize..70, hidden in 8usize..60, inner in 1usize..90, parts in any::<Parts>()) {
        let device = Device::flex();
        let x = random([tokens, hidden], &device) * 0.25;
        let (norm, [gate, up, down]) = (parts.norm(hidden, &device),
            [(hidden, inner), (hidden, inner), (inner, hidden)].map(|(i, o)| parts.linear(i, o, &device)));
        let mut leaves = vec![&x];
        leaves.extend(norm.iter().chain(&gate).chain(&up).chain(&down));
        let weigh = random([tokens, hidden], &device) * 0.25;
        let run = |mlp: fn(Tensor<2>, MlpInputs, MlpSettings) -> Tensor<2>, recompute: bool, precision: Precision| {
            gradients(&leaves, &weigh, |inputs| {
                let mut inputs = inputs.into_iter();
                let x = inputs.next().unwrap();
                let norm = parts.take_norm(&mut inputs);
                let [gate, up, down] = [0; 3].map(|_| parts.take_linear(&mut inputs));
                let activation = if parts.gelu { Gate::GeluTanh } else { Gate::Silu };
                mlp(x, MlpInputs { norm, gate, up, down },
                    MlpSettings { activation, residual: parts.residual, recompute, precision })
            })
        };
        let composed = run(reference::mlp, false, Precision::F32);
        for recompute in [false, true] {
            assert_all_alike(run(kernels::mlp, recompute, Precision::F32), composed.clone(), TOLERANCE);
            assert_all_rounded(run(kernels::mlp, recompute, Precision::Bf16), &composed);
        }
    }

    #[test]
    fn self_attention(lengths in prop::collection::vec(1usize..90, 1..4), hidden in 8usize..60, kv_heads in 1usize..3,
        group in 1usize..3, half in 1usize..12, parts in any::<Parts>()) {
        let device = Device::flex();
        let heads = Heads { heads: kv_heads * group, kv_heads, head_dim: 2 * half };
        let attention = AttentionSettings { heads, scale: 0.3, window: None, softcap: None };
        let sequences = Sequences::new(lengths);
        let tokens = sequences.tokens();
        let (queries, keys) = (heads.heads * heads.head_dim, kv_heads * heads.head_dim);
        let x = random([tokens, hidden], &device) * 0.25;
        let (norm, linears) = (parts.norm(hidden, &device),
            [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
                .map(|(i, o)| parts.linear(i, o, &device)));
        let mut leaves = vec![&x];
        leaves.extend(norm.iter().chain(linears.iter().flatten()));
        let (weigh, angle) = (random([tokens, hidden], &device) * 0.25, random([sequences.longest(), half], &device).autodiff());
        type Operation = fn(Tensor<2>, SelfAttentionInputs, &Sequences, SelfAttentionSettings) -> Tensor<2>;
        let run = |operation: Operation, recompute: bool, precision: Precision| {
            gradients(&leaves, &weigh, |inputs| {
                let mut inputs = inputs.into_iter();
                let x = inputs.next().unwrap();
                let norm = parts.take_norm(&mut inputs);
                let [query, key, value, output] = [0; 4].map(|_| parts.take_linear(&mut inputs));
                let rotation = (angle.clone().cos(), angle.clone().sin());
                operation(x, SelfAttentionInputs { norm, query, key, value, output, rotation }, &sequences,
                    SelfAttentionSettings { attention, residual: parts.residual, recompute, precision })
            })
        };
        let composed = run(reference::self_attention, false, Precision::F32);
        for recompute in [false, true] {
            let fused = |precision| run(kernels::self_attention, recompute, precision);
            assert_all_alike(fused(Precision::F32), composed.clone(), ATTENTION_TOLERANCE);
            // Gradients of queries and keys of tokens that see nothing but themselves are 0, and what is left of them is rounding.
            if sequences.longest() > 2 {
                assert_all_rounded(fused(Precision::Bf16), &composed);
            }
        }
    }

    #[test]
    fn token_nll(targets in 0usize..40, hidden in 1usize..50, vocab in 1usize..400, by_token in prop::bool::ANY) {
        let device = Device::flex();
        let (layout, shape) = if by_token { (HeadLayout::ByToken, [vocab, hidden]) }
            else { (HeadLayout::ByInput, [hidden, vocab]) };
        let (rows, weight) = (random([targets, hidden], &device), random(shape, &device));
        let ids: Vec<u32> = (0..targets).map(|i| (i * 7919 % vocab) as u32).collect();
        type Nll = fn(Tensor<2>, Tensor<2>, HeadLayout, &[u32]) -> Tensor<1>;
        let fused: Nll = |rows, weight, layout, ids| kernels::token_nll(rows, weight, layout, ids, Precision::F32);
        let rounded: Nll = |rows, weight, layout, ids| kernels::token_nll(rows, weight, layout, ids, Precision::Bf16);
        let run = |nll: Nll| {
            gradients(&[&rows, &weight], &Tensor::from_floats([[0.37]], &device), |inputs| {
                let [rows, weight] = inputs.try_into().unwrap();
                nll(rows, weight, layout, &ids).unsqueeze()
            })
        };
        if targets > 0 {
            let composed = run(reference::token_nll);
            assert_all_alike(run(fused), composed.clone(), TOLERANCE);
            assert_all_rounded(run(rounded), &composed);
        } else {
            prop_assert_eq!(host(fused(rows.clone(), weight.clone(), layout, &[])), vec![0.0]);
            prop_assert_eq!(host(rounded(rows, weight, layout, &[])), vec![0.0]);
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

/// Of this many tokens logits of 32 targets exist at once, so there are three rounds, and the last is not whole.
#[test]
fn a_loss_in_rounds_is_that_of_all_targets_at_once() {
    let device = Device::flex();
    let (targets, hidden, vocab) = (70, 3, 1 << 19);
    let ids: Vec<u32> = (0..targets as u32)
        .map(|at| (at * 7_654_321) % vocab as u32)
        .collect();
    for (layout, shape) in [
        (HeadLayout::ByToken, [vocab, hidden]),
        (HeadLayout::ByInput, [hidden, vocab]),
    ] {
        let (rows, weight) = (random([targets, hidden], &device), random(shape, &device));
        type Nll = fn(Tensor<2>, Tensor<2>, HeadLayout, &[u32]) -> Tensor<1>;
        let fused: Nll =
            |rows, weight, layout, ids| kernels::token_nll(rows, weight, layout, ids, Precision::F32);
        let run = |nll: Nll| {
            gradients(
                &[&rows, &weight],
                &Tensor::from_floats([[0.37]], &device),
                |inputs| {
                    let [rows, weight] = inputs.try_into().unwrap();
                    nll(rows, weight, layout, &ids).unsqueeze()
                },
            )
        };
        assert_all_alike(run(fused), run(reference::token_nll), 1e-4);
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

#[test]
fn embedding_adds_to_the_gradient_of_a_tied_projection() {
    let device = Device::flex();
    let (weight, weigh) = (random([7, 6], &device), random([5, 6], &device));
    let ids = || Tensor::<1, burn::tensor::Int>::from_ints([3, 0, 3, 6, 1], &device);
    let run = |embed: fn(Tensor<2>, Tensor<1, burn::tensor::Int>) -> Tensor<2>, tied: bool| {
        gradients(&[&weight], &weigh, |leaves| {
            let rows = embed(leaves[0].clone(), ids());
            match tied {
                true => rows.clone() * rows.matmul(leaves[0].clone().transpose()).sum_dim(1),
                false => rows,
            }
        })
    };
    for tied in [false, true] {
        let (fused, composed) = (run(kernels::embedding, tied), run(reference::embedding, tied));
        assert_all_alike(fused, composed, TOLERANCE);
    }
}
