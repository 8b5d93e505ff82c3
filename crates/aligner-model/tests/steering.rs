//! Control vectors: added where they should be, in every kind of pass, and read from files that may be anything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use aligner_model::{CachedRun, CausalDecoder, Sequences, SteeringVector, Targets, weights_fingerprint};
use burn::module::Param;
use burn::tensor::{Device, Int, Tensor};
use common::{assert_close, golden, greedy, host, ids};

fn base() -> (CausalDecoder, Vec<u32>) {
    let (loaded, golden) = golden("tied", &Device::flex());
    (loaded.decoder, golden.first)
}

fn width(decoder: &CausalDecoder) -> usize {
    decoder.norm.weight.dims()[0]
}

/// A vector whose every number is another one.
fn vector(decoder: &CausalDecoder, layers: &[usize]) -> SteeringVector {
    let values = |layer: usize| {
        (0..width(decoder))
            .map(move |at| ((at * 7 + layer * 3) % 11) as f32 / 5.0 - 1.0)
            .collect()
    };
    SteeringVector {
        layers: layers.iter().map(|&layer| (layer, values(layer))).collect(),
        facts: BTreeMap::from([("template".to_string(), "sha256:00 \"quoted\" é".to_string())]),
    }
}

fn flat(sequence: &[u32]) -> Tensor<1, Int> {
    let values: Vec<i32> = sequence.iter().map(|&id| id as i32).collect();
    Tensor::from_ints(values.as_slice(), &Device::flex())
}

fn logits(decoder: &CausalDecoder, sequence: &[u32]) -> Vec<f32> {
    host(decoder.logits(decoder.forward(ids(&[sequence], &Device::flex()), None)))
}

#[test]
fn the_vector_is_added_behind_its_layer_at_every_token() {
    let (decoder, sequence) = base();
    for layer in 0..decoder.layers.len() {
        let vector = vector(&decoder, &[layer]);
        let steered = decoder.with_steering(&vector, -0.5).unwrap();
        // What a bias of the layer's last projection adds is the same.
        let bias: Vec<f32> = vector.layers[&layer].iter().map(|value| -0.5 * value).collect();
        let bias = Tensor::<1>::from_floats(bias.as_slice(), &Device::flex());
        let mut biased = decoder.clone();
        biased.layers[layer].mlp.down_proj.bias = Some(Param::from_tensor(bias));
        assert_close(
            &logits(&steered, &sequence),
            &logits(&biased, &sequence),
            1e-4,
            "logits",
        );
    }
}

#[test]
fn the_residual_stream_is_what_goes_into_each_layer_and_out_of_it() {
    let (decoder, sequence) = base();
    let stream = |decoder: &CausalDecoder, cut: usize, keep: usize| -> Vec<Vec<f32>> {
        let mut cache = decoder.new_cache(1, sequence.len());
        let (before, ids) = sequence.split_at(cut);
        if !before.is_empty() {
            let mut run = [CachedRun {
                ids: before,
                cache: &mut cache,
                keep: 1,
            }];
            decoder.forward_cached(&mut run);
        }
        let mut run = [CachedRun {
            ids,
            cache: &mut cache,
            keep,
        }];
        decoder.residual_stream(&mut run).into_iter().map(host).collect()
    };
    let (layers, width) = (decoder.layers.len(), width(&decoder));
    let whole = stream(&decoder, 0, sequence.len());
    assert_eq!(whole.len(), layers + 1);
    // It begins with the embeddings, and its end gives the logits.
    let embedded = host(decoder.embed_tokens.forward_rows(flat(&sequence)));
    assert_close(&whole[0], &embedded, 1e-6, "embeddings");
    let last =
        Tensor::<1>::from_floats(whole[layers].as_slice(), &Device::flex()).reshape([-1, width as i64]);
    let ends = host(decoder.logits_of_rows(decoder.norm.forward(last)));
    assert_close(&ends, &logits(&decoder, &sequence), 1e-4, "logits");
    // The last tokens alone, behind a cache, to the last bit.
    for (all, kept) in whole.iter().zip(stream(&decoder, 3, 2)) {
        assert_eq!(all[all.len() - 2 * width..], kept);
    }
    // A vector that is added behind a layer is in the stream from there on.
    for layer in 0..layers {
        let vector = vector(&decoder, &[layer]);
        let steered = stream(&decoder.with_steering(&vector, 2.0).unwrap(), 0, 1);
        let plain = stream(&decoder, 0, 1);
        assert_eq!(steered[..=layer], plain[..=layer]);
        let moved = steered[layer + 1]
            .iter()
            .zip(&plain[layer + 1])
            .map(|(a, b)| a - b);
        let expected: Vec<f32> = vector.layers[&layer].iter().map(|value| 2.0 * value).collect();
        assert_close(&moved.collect::<Vec<_>>(), &expected, 1e-5, "what was added");
    }
}

#[test]
fn gradients_are_what_small_vectors_change() {
    let (decoder, sequence) = base();
    let with_gradients = golden("tied", &Device::flex().autodiff())
        .0
        .decoder
        .without_gradients();
    let targets = Targets {
        rows: (0..sequence.len() as u32 - 1).collect(),
        ids: sequence[1..].to_vec(),
    };
    let loss = |decoder: &CausalDecoder| {
        let device = decoder.norm.weight.val().device();
        let values: Vec<i32> = sequence.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<1, Int>::from_ints(values.as_slice(), &device);
        decoder.target_nll(ids, &Sequences::new(vec![sequence.len()]), &targets)
    };
    for layer in 0..decoder.layers.len() {
        let gradient = with_gradients.steering_gradient(layer, loss).unwrap();
        let vector = vector(&decoder, &[layer]);
        let pairs = gradient.iter().zip(&vector.layers[&layer]);
        let expected: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let at = |change: f64| f64::from(host(loss(&decoder.with_steering(&vector, change).unwrap()))[0]);
        let step = 1e-2;
        let got = (at(step) - at(-step)) / (2.0 * step);
        assert!(expected.abs() > 1e-2, "a gradient of nothing would be right");
        assert!(
            (got - expected).abs() < 2e-2 * expected.abs().max(0.1),
            "layer {layer}: {got} {expected}"
        );
    }
    // What does not depend on the vector has no gradient; a layer that is not there and a device without gradients are errors.
    let device = Device::flex().autodiff();
    let constant = with_gradients.steering_gradient(0, |_| Tensor::<1>::ones([1], &device).require_grad());
    assert!(constant.unwrap().iter().all(|&value| value == 0.0));
    assert!(with_gradients.steering_gradient(99, loss).is_err());
    assert!(decoder.steering_gradient(0, loss).is_err());
}

#[test]
fn cached_and_packed_passes_are_steered_alike() {
    let (decoder, sequence) = base();
    let layers: Vec<usize> = (0..decoder.layers.len()).collect();
    let steered = decoder.with_steering(&vector(&decoder, &layers), 0.5).unwrap();
    let whole = logits(&steered, &sequence);
    let moved = whole
        .iter()
        .zip(logits(&decoder, &sequence))
        .any(|(a, b)| (a - b).abs() > 0.1);
    assert!(moved, "the vector changes nothing that this test could see");
    let mut cache = steered.new_cache(1, sequence.len());
    let mut step_by_step = Vec::new();
    for &id in &sequence {
        let hidden = steered.forward(ids(&[&[id]], &Device::flex()), Some(&mut cache));
        step_by_step.extend(host(steered.logits(hidden)));
    }
    assert_close(&step_by_step, &whole, 1e-4, "token by token");
    // Two sequences in one pass, of which one comes first and of other length.
    let other = &sequence[..sequence.len() / 2];
    let packed = [other, &sequence].concat();
    let lengths = Sequences::new(vec![other.len(), sequence.len()]);
    let hidden = steered.forward_packed(flat(&packed), &lengths);
    let hidden = hidden.narrow(0, other.len(), sequence.len());
    assert_close(&host(steered.logits_of_rows(hidden)), &whole, 1e-4, "packed");
}

#[test]
fn a_change_of_nothing_is_the_model_as_it_was() {
    let (decoder, sequence) = base();
    let steered = decoder.with_steering(&vector(&decoder, &[0]), 1.0).unwrap();
    assert_ne!(logits(&steered, &sequence), logits(&decoder, &sequence));
    let back = steered.with_steering(&vector(&decoder, &[0]), 0.0).unwrap();
    assert_eq!(logits(&back, &sequence), logits(&decoder, &sequence));
    let mut cache = back.new_cache(1, 64);
    let mut own = decoder.new_cache(1, 64);
    assert_eq!(
        greedy(&back, &sequence, 8, &mut cache),
        greedy(&decoder, &sequence, 8, &mut own)
    );
}

#[test]
fn a_vector_of_another_model_is_refused() {
    let (decoder, _) = base();
    let far = vector(&decoder, &[99]);
    let error = decoder.with_steering(&far, 1.0).unwrap_err().to_string();
    assert!(error.contains("layer 99"), "{error}");
    let mut wide = vector(&decoder, &[0]);
    wide.layers.get_mut(&0).unwrap().push(0.0);
    let error = decoder.with_steering(&wide, 1.0).unwrap_err().to_string();
    assert!(error.contains("width"), "{error}");
}

#[test]
fn a_file_gives_back_what_was_written() {
    let (decoder, _) = base();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(SteeringVector::read(dir.path()).unwrap(), None);
    let vector = vector(&decoder, &[0, 1]);
    let path = vector.write(dir.path()).unwrap();
    assert_eq!(path.file_name().unwrap(), "steering.safetensors");
    assert_eq!(SteeringVector::read(dir.path()).unwrap(), Some(vector));
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    let (decoder, _) = base();
    let dir = tempfile::tempdir().unwrap();
    let path = vector(&decoder, &[0, 1]).write(dir.path()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let error_of = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        SteeringVector::read(dir.path()).unwrap_err().to_string()
    };
    for length in [0, 7, 8, 40, whole.len() - 1] {
        let error = error_of(&whole[..length]);
        assert!(error.contains("steering.safetensors"), "{length}: {error}");
    }
    let changed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole
            .windows(from.len())
            .position(|part| part == from.as_bytes())
            .unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let error = error_of(&changed("layers.1", "layers.x"));
    assert!(error.contains("no control vector"), "{error}");
    error_of(&changed("{\"template\":\"", "[\"template\":\""));
    let mut nan = whole.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    error_of(&nan);
    // Every byte of the header turned over: an error or another vector, never a panic.
    for at in 0..whole.len().min(200) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x21;
        std::fs::write(&path, &bytes).unwrap();
        let _ = SteeringVector::read(dir.path());
    }
}

#[test]
fn a_fingerprint_tells_weights_apart() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        let place = dir.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        place
    };
    let error = weights_fingerprint(&place("empty")).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    let write = |place: &Path, name: &str, bytes: &[u8]| std::fs::write(place.join(name), bytes).unwrap();
    let weights: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let [one, same, shorter, last, sharded] = ["one", "same", "shorter", "last", "sharded"].map(place);
    write(&one, "model.safetensors", &weights);
    write(&same, "model.safetensors", &weights);
    // What is not a weight does not count.
    write(&same, "steering.safetensors", b"any");
    write(&same, "optimizer.safetensors", b"any");
    write(&shorter, "model.safetensors", &weights[..2_999_999]);
    // Training changes every weight; here every tenth byte.
    let trained: Vec<u8> = weights
        .iter()
        .enumerate()
        .map(|(at, &byte)| byte ^ u8::from(at % 10 == 0))
        .collect();
    write(&last, "model.safetensors", &trained);
    write(
        &sharded,
        "model-00001-of-00002.safetensors",
        &weights[..1_000_000],
    );
    write(
        &sharded,
        "model-00002-of-00002.safetensors",
        &weights[1_000_000..],
    );
    let of = |place: &Path| weights_fingerprint(place).unwrap();
    assert!(of(&one).starts_with("sha256:"));
    assert_eq!(of(&one), of(&same));
    let all = [of(&one), of(&shorter), of(&last), of(&sharded)];
    for (index, fingerprint) in all.iter().enumerate() {
        assert!(!all[index + 1..].contains(fingerprint), "{index}");
    }
}
