//! Linear layers over weights in eight bits compute what they compute over the f32 weights that those stand for.
//!
//! The integers are exact, so the two differ by the order of sums alone: where a weight fits into one panel, as in the models
//! here, not even by that, and the tolerances are those of sums.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use aligner_model::kernels::{
    AttentionSettings, Gate, Heads, Linear, LinearWeight, LowRank, MlpInputs, MlpSettings, Norm, Precision,
    SelfAttentionInputs, SelfAttentionSettings, Sequences, int8_linear, mlp, reference, self_attention,
};
use aligner_model::nn::ProjectionWeight;
use aligner_model::weights::HostTensor;
use aligner_model::{
    CausalDecoder, Int8Weight, LoraAdapter, LoraConfig, Targets, WeightFormat, load_dir_as, save_dir,
};
use burn::module::{Module, Param};
use burn::tensor::{Device, Distribution, Tensor};
use common::{VARIANTS, assert_close, golden, golden_dir, greedy, host, ids};
use proptest::prelude::*;

/// Relative to the largest value. Sums of 1700 terms in another order were seen 2.3e-6 apart, and a wrong integer is by a 254th.
const TOLERANCE: f32 = 1e-5;

fn random<const D: usize>(shape: [usize; D], scale: f64) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, scale), &Device::flex())
}

fn random_weight(input: usize, output: usize) -> Int8Weight {
    let values = host(random([output, input], 0.5 / (input as f64).sqrt()));
    Int8Weight::quantize(&HostTensor {
        shape: vec![output, input],
        values,
    })
    .unwrap()
}

/// What a weight stands for, `[input, output]`.
fn dense(weight: &Int8Weight, device: &Device) -> Tensor<2> {
    let HostTensor { shape, values } = weight.dequantize();
    let data = burn::tensor::TensorData::new(values, shape);
    Tensor::<2>::from_data(data, device).transpose().mul_scalar(1.0)
}

fn assert_alike<const D: usize>(got: &Tensor<D>, want: &Tensor<D>, what: &str) {
    let (got, want) = (host(got.clone()), host(want.clone()));
    let largest = want
        .iter()
        .fold(1e-3f32, |largest, value| largest.max(value.abs()));
    assert_close(&got, &want, TOLERANCE * largest, what);
}

/// Output, and gradients of all `leaves` for random weights of the output.
fn gradients(
    leaves: &[Tensor<2>],
    weigh: &Tensor<2>,
    run: impl Fn(&[Tensor<2>]) -> Tensor<2>,
) -> Vec<Tensor<2>> {
    let leaves: Vec<Tensor<2>> = leaves
        .iter()
        .map(|leaf| leaf.clone().autodiff().require_grad())
        .collect();
    let out = run(&leaves);
    let grads = (out.clone() * weigh.clone().autodiff()).sum().backward();
    let gradients = leaves.iter().map(|leaf| leaf.grad(&grads).unwrap());
    std::iter::once(out.inner()).chain(gradients).collect()
}

fn assert_all_alike(got: &[Tensor<2>], want: &[Tensor<2>]) {
    assert_eq!(got.len(), want.len());
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        assert_alike(got, want, &format!("output or gradient {index}"));
    }
}

/// Which weight of a layer is given to it.
#[derive(Clone, Copy)]
enum As {
    Int8,
    Dense,
}

const RANK: usize = 3;

/// Layers with an adapter each; bias on every second.
struct Layers {
    weights: Vec<Int8Weight>,
    biases: Vec<Option<Tensor<1>>>,
}

impl Layers {
    fn new(shapes: &[(usize, usize)]) -> Self {
        let bias =
            |(index, &(_, output)): (usize, &(usize, usize))| (index % 2 == 1).then(|| random([output], 0.2));
        Self {
            weights: shapes
                .iter()
                .map(|&(input, output)| random_weight(input, output))
                .collect(),
            biases: shapes.iter().enumerate().map(bias).collect(),
        }
    }

    /// A and B of all layers.
    fn adapters(&self) -> impl Iterator<Item = Tensor<2>> {
        self.weights.iter().flat_map(|weight| {
            let [input, output] = weight.dims();
            [random([input, RANK], 0.3), random([RANK, output], 0.3)]
        })
    }

    fn linears(&self, how: As, adapters: &[Tensor<2>]) -> std::vec::IntoIter<Linear> {
        let layers = self.weights.iter().zip(&self.biases).zip(adapters.chunks(2));
        let linear = |((weight, bias), lora): ((&Int8Weight, &Option<Tensor<1>>), &[Tensor<2>])| Linear {
            weight: match how {
                As::Int8 => LinearWeight::Int8(weight.clone()),
                As::Dense => dense(weight, &lora[0].device()).into(),
            },
            bias: bias.clone().map(|bias| bias.autodiff()),
            lora: Some(LowRank {
                a: lora[0].clone(),
                b: lora[1].clone(),
                scale: 0.7,
            }),
        };
        layers.map(linear).collect::<Vec<_>>().into_iter()
    }
}

fn norm(width: usize) -> Option<Norm> {
    Some(Norm {
        weight: Tensor::ones([width], &Device::flex().autodiff()),
        epsilon: 1e-5,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_linear_layer(rows in 1usize..20, input in 1usize..150, output in 1usize..100) {
        let weight = random_weight(input, output);
        let (x, weigh) = ([random([rows, input], 1.0)], random([rows, output], 1.0));
        let int8 = gradients(&x, &weigh, |x| int8_linear(x[0].clone(), &weight, None));
        let device = Device::flex().autodiff();
        let want = gradients(&x, &weigh, |x| x[0].clone().matmul(dense(&weight, &device)));
        assert_all_alike(&int8, &want);
        let composed = gradients(&x, &weigh, |x| x[0].clone().matmul(weight.tensor(&device)));
        assert_all_alike(&composed, &want);
    }

    #[test]
    fn an_mlp(tokens in 1usize..60, hidden in 8usize..70, inner in 8usize..90, recompute in any::<bool>()) {
        let layers = Layers::new(&[(hidden, inner), (hidden, inner), (inner, hidden)]);
        let leaves: Vec<_> = std::iter::once(random([tokens, hidden], 0.5)).chain(layers.adapters()).collect();
        let weigh = random([tokens, hidden], 0.5);
        let settings = MlpSettings { activation: Gate::Silu, residual: true, recompute, precision: Precision::F32 };
        type Operation = fn(Tensor<2>, MlpInputs, MlpSettings) -> Tensor<2>;
        let run = |operation: Operation, how| gradients(&leaves, &weigh, |leaves| {
            let mut linears = layers.linears(how, &leaves[1..]);
            let [gate, up, down] = [0; 3].map(|_| linears.next().unwrap());
            operation(leaves[0].clone(), MlpInputs { norm: norm(hidden), gate, up, down }, settings)
        });
        let int8 = run(mlp, As::Int8);
        assert_all_alike(&int8, &run(mlp, As::Dense));
        // The composition that other devices run; fused and composed differ by more than two fused ones.
        for (composed, fused) in run(reference::mlp, As::Int8).into_iter().zip(int8) {
            assert_alike(&(composed * 0.1), &(fused * 0.1), "composition");
        }
    }

    #[test]
    fn an_attention(lengths in prop::collection::vec(1usize..50, 1..4), hidden in 8usize..70, group in 1usize..3,
        recompute in any::<bool>()) {
        let heads = Heads { heads: 2 * group, kv_heads: 2, head_dim: 8 };
        let sequences = Sequences::new(lengths);
        let tokens = sequences.tokens();
        let (queries, keys) = (16 * group, 16);
        let layers = Layers::new(&[(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]);
        let leaves: Vec<_> = std::iter::once(random([tokens, hidden], 0.5)).chain(layers.adapters()).collect();
        let weigh = random([tokens, hidden], 0.5);
        let angle = random([sequences.longest(), 4], 1.0).autodiff();
        let run = |how| gradients(&leaves, &weigh, |leaves| {
            let mut linears = layers.linears(how, &leaves[1..]);
            let [query, key, value, output] = [0; 4].map(|_| linears.next().unwrap());
            let rotation = (angle.clone().cos(), angle.clone().sin());
            let inputs = SelfAttentionInputs { norm: norm(hidden), query, key, value, output, rotation };
            let attention = AttentionSettings { heads, scale: 0.3, window: None, softcap: None };
            self_attention(leaves[0].clone(), inputs, &sequences, SelfAttentionSettings { attention, residual: true, recompute, precision: Precision::F32 })
        });
        assert_all_alike(&run(As::Int8), &run(As::Dense));
    }
}

#[test]
fn a_weight_of_several_panels_in_both_directions() {
    // A panel holds 2²⁰ elements.
    let (rows, input, output) = (7, 1300, 1700);
    let weight = random_weight(input, output);
    let (x, weigh) = ([random([rows, input], 1.0)], random([rows, output], 1.0));
    let device = Device::flex().autodiff();
    let want = gradients(&x, &weigh, |x| x[0].clone().matmul(dense(&weight, &device)));
    let got = gradients(&x, &weigh, |x| int8_linear(x[0].clone(), &weight, None));
    assert_all_alike(&got, &want);
    let lone = x[0].clone().narrow(0, 0, 2);
    let dots = int8_linear(lone.clone(), &weight, None);
    assert_alike(&dots, &lone.matmul(dense(&weight, &Device::flex())), "a few rows");
}

/// The same decoder on the f32 weights that its own stand for.
fn dequantized(decoder: &CausalDecoder) -> CausalDecoder {
    let mut decoder = decoder.clone();
    let device = decoder.norm.weight.val().device();
    for (_, projection) in decoder.projections_mut() {
        let ProjectionWeight::Int8(weight) = &projection.weight else {
            panic!("a weight that is not in eight bits");
        };
        projection.weight = ProjectionWeight::Dense(Param::from_tensor(dense(weight, &device)));
    }
    decoder
}

fn logits(decoder: &CausalDecoder, sequence: &[u32]) -> Tensor<3> {
    let device = decoder.norm.weight.val().device();
    decoder.logits(decoder.forward(ids(&[sequence], &device), None))
}

#[test]
fn every_family_computes_what_it_computes_on_the_weights_that_the_integers_stand_for() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (f32_model, golden) = golden(variant, &device);
        let int8 = load_dir_as(&golden_dir(variant), WeightFormat::Int8, &device)
            .unwrap()
            .decoder;
        assert_eq!(int8.weight_format(), WeightFormat::Int8, "{variant}");
        assert_eq!(int8.num_params(), f32_model.decoder.num_params(), "{variant}");
        let want = dequantized(&int8);
        let (got, want) = (logits(&int8, &golden.first), logits(&want, &golden.first));
        assert_close(&host(got.clone()), &host(want), 2e-5, variant);
        // And near what it computed before.
        let before = logits(&f32_model.decoder, &golden.first);
        let off = (got - before.clone()).square().mean().sqrt() / before.square().mean().sqrt();
        let off = host(off)[0];
        assert!(off > 0.0 && off < 0.1, "{variant}: {off}");
    }
}

#[test]
fn decoding_through_the_cache_is_the_same_as_without() {
    let dir = golden_dir("qwen3");
    let (_, golden) = golden("qwen3", &Device::flex());
    let decoder = load_dir_as(&dir, WeightFormat::Int8, &Device::flex())
        .unwrap()
        .decoder;
    let mut cache = decoder.new_cache(1, 64);
    let cached = greedy(&decoder, &golden.first, 12, &mut cache);
    let mut whole = golden.first.clone();
    for &token in &cached {
        let all = host(logits(&decoder, &whole));
        let last = &all[all.len() - all.len() / whole.len()..];
        let best = (0..last.len())
            .max_by(|&a, &b| last[a].total_cmp(&last[b]))
            .unwrap();
        assert_eq!(best as u32, token);
        whole.push(token);
    }
}

fn nll(decoder: &CausalDecoder, sequence: &[u32]) -> Tensor<1> {
    let device = decoder.norm.weight.val().device();
    let input = ids(&[sequence], &device).reshape([-1]);
    let targets = Targets {
        rows: (0..sequence.len() as u32 - 1).collect(),
        ids: sequence[1..].to_vec(),
    };
    decoder.target_nll(input, &Sequences::equal(1, sequence.len()), &targets)
}

/// Gradients of all adapters, in models whose layers run as one operation and in those whose do not.
#[test]
fn an_adapter_has_the_gradients_it_has_over_the_weights_that_the_integers_stand_for() {
    let device = Device::flex().autodiff();
    for variant in ["tied", "qwen3", "gemma2", "untied-bias-llama3"] {
        let (_, golden) = golden(variant, &Device::flex());
        let base = load_dir_as(&golden_dir(variant), WeightFormat::Int8, &device)
            .unwrap()
            .decoder;
        let config = LoraConfig {
            rank: 4,
            ..LoraConfig::default()
        };
        let mut adapter = LoraAdapter::new(&config, &base, 3).unwrap();
        for weights in adapter.layers.values_mut() {
            let count = weights.b.values.len();
            weights.b.values = host(random([count], 0.05));
        }
        let of = |base: CausalDecoder| {
            let decoder = base.frozen_with_adapter(&adapter).unwrap();
            let loss = nll(&decoder, &golden.first);
            let grads = loss.backward();
            let gradients = decoder.projections().flat_map(|(_, projection)| {
                let lora = projection.lora.as_ref().unwrap();
                [&lora.a, &lora.b].map(|half| half.val().grad(&grads).unwrap())
            });
            (loss.inner(), gradients.collect::<Vec<_>>())
        };
        let (want_loss, want) = of(dequantized(&base));
        let (loss, got) = of(base);
        assert_alike(&loss, &want_loss, variant);
        for (got, want) in got.into_iter().zip(want) {
            // Through all layers: ten times one layer's.
            assert_alike(&(got * 0.1), &(want * 0.1), variant);
        }
    }
}

#[test]
fn a_new_adapter_over_int8_changes_nothing() {
    let (_, golden) = golden("tied", &Device::flex());
    let base = load_dir_as(&golden_dir("tied"), WeightFormat::Int8, &Device::flex())
        .unwrap()
        .decoder;
    let adapter = LoraAdapter::new(&LoraConfig::default(), &base, 7).unwrap();
    let adapted = base.with_adapter(&adapter).unwrap();
    assert_eq!(
        host(logits(&adapted, &golden.first)),
        host(logits(&base, &golden.first))
    );
}

#[test]
fn int8_weights_are_neither_merged_into_nor_written() {
    let loaded = load_dir_as(&golden_dir("tied"), WeightFormat::Int8, &Device::flex()).unwrap();
    let adapter = LoraAdapter::new(&LoraConfig::default(), &loaded.decoder, 7).unwrap();
    let error = loaded
        .decoder
        .merged(&adapter)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("int8") && error.contains("f32"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let error = save_dir(&loaded.config, &loaded.decoder, dir.path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("int8"), "{error}");
}

#[test]
fn a_missing_weight_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = golden_dir("tied");
    let (loaded, _) = golden("tied", &Device::flex());
    std::fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut tensors = aligner_model::weights::named_tensors(&loaded.decoder);
    tensors.retain(|tensor| tensor.name != "model.layers.1.mlp.up_proj.weight");
    aligner_model::weights::write_safetensors(&dir.path().join("model.safetensors"), tensors).unwrap();
    let error = load_dir_as(dir.path(), WeightFormat::Int8, &Device::flex())
        .map(|_| ())
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("1 tensors are missing") && error.contains("layers.1.mlp.up_proj.weight"),
        "{error}"
    );
}
