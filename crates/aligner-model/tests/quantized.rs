//! Models that run with quantised weights compute what they compute with the f32 weights that those stand for.
//!
//! In `bf16` up to the order of sums, or, on processors that multiply bf16, up to activations that are rounded to a 512th of themselves.
//! In `q8` and `q4` they are rounded to a 254th of the largest of 32, which some of a model's small layers make a few hundredths of its
//! logits.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use aligner_model::kernels::reference;
use aligner_model::nn::ProjectionWeight;
use aligner_model::weights::HostTensor;
use aligner_model::{
    CausalDecoder, LlamaShape, LoraAdapter, LoraConfig, ModelConfig, QuantFormat, RuntimeWeights, Sequences,
    Targets, WeightsCache, load_dir, load_dir_quantized, save_dir,
};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use common::{VARIANTS, assert_close, golden, golden_dir, greedy, host, ids, of_fixed_rotation};

const FORMATS: [RuntimeWeights; 3] = [RuntimeWeights::Bf16, RuntimeWeights::Q8, RuntimeWeights::Q4];

/// How far logits may be off relative to their size where activations are rounded; `None` where sums alone may differ.
fn rounding(format: RuntimeWeights) -> Option<f32> {
    let format = format.quantized().unwrap();
    format.rounds_activations().then_some(match format {
        QuantFormat::Bf16 => 0.02,
        QuantFormat::Q8 | QuantFormat::Q4 => 0.1,
    })
}

fn quantized(dir: &Path, format: RuntimeWeights) -> CausalDecoder {
    load_dir_quantized(dir, format, &WeightsCache::Off, &Device::flex())
        .unwrap()
        .decoder
}

/// Calls `each` with every weight of a linear layer, and with those of embedding and output projection.
fn each_weight(decoder: &mut CausalDecoder, mut each: impl FnMut(&mut ProjectionWeight, bool)) {
    each(&mut decoder.embed_tokens.weight, true);
    if let Some(head) = &mut decoder.lm_head {
        each(&mut head.weight, false);
    }
    for (_, projection) in decoder.projections_mut() {
        each(&mut projection.weight, false);
    }
}

/// The model with the f32 weights that the quantised ones stand for.
fn dequantized(decoder: &CausalDecoder) -> CausalDecoder {
    let mut dense = decoder.clone();
    let mut count = 0;
    each_weight(&mut dense, |weight, is_embedding| {
        let ProjectionWeight::Quantized(quantized) = weight else {
            panic!("a weight that is not quantised")
        };
        let HostTensor { shape, values } = quantized.dequantize();
        let data = Tensor::<2>::from_data(TensorData::new(values, shape), &Device::flex());
        let data = if is_embedding {
            data
        } else {
            data.transpose().mul_scalar(1.0)
        };
        *weight = ProjectionWeight::Dense(Param::from_tensor(data));
        count += 1;
    });
    assert!(count > 8);
    dense
}

fn logits(decoder: &CausalDecoder, sequence: &[u32]) -> Tensor<3> {
    decoder.logits(decoder.forward(ids(&[sequence], &Device::flex()), None))
}

/// Root of the mean square of a difference, relative to that of what should be.
fn off<const D: usize>(got: Tensor<D>, want: Tensor<D>) -> f32 {
    let off = (got - want.clone()).square().mean().sqrt() / want.square().mean().sqrt();
    host(off)[0]
}

#[test]
fn every_family_computes_what_it_computes_on_the_weights_that_are_stored() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (f32_model, golden) = golden(variant, &device);
        let before = logits(&f32_model.decoder, &golden.first);
        let mut nearest = 0.0;
        for format in FORMATS {
            let decoder = quantized(&golden_dir(variant), format);
            assert_eq!(decoder.runtime_weights(), format, "{variant}");
            // Burn counts an optional layer by its parameters, and a quantised output projection has none.
            let head = decoder
                .lm_head
                .as_ref()
                .map_or(0, |head| head.dims().iter().product());
            assert_eq!(
                decoder.num_params() + head,
                f32_model.decoder.num_params(),
                "{variant}"
            );
            let want = logits(&dequantized(&decoder), &golden.first);
            let got = logits(&decoder, &golden.first);
            match rounding(format) {
                None => assert_close(&host(got.clone()), &host(want), 2e-5, variant),
                Some(most) => {
                    let off = off(got.clone(), want);
                    assert!(off < most, "{variant} {format}: {off}");
                }
            }
            // The fewer bits, the further from what it computed before; some files hold bf16 as it is.
            let off = off(got, before.clone());
            let most = match format {
                RuntimeWeights::Q4 => 1.0,
                RuntimeWeights::Q8 => 0.2,
                _ => 0.05,
            };
            assert!(
                off >= nearest && off < most,
                "{variant} {format}: {off} after {nearest}"
            );
            nearest = off;
        }
    }
}

/// Where activations are rounded, small models of random weights soon say something else: there the tokens are held against the
/// scores that they have behind the same tokens.
#[test]
fn bf16_decodes_the_tokens_of_the_weights_that_are_stored() {
    for variant in of_fixed_rotation() {
        let (_, golden) = golden(variant, &Device::flex());
        let decoder = quantized(&golden_dir(variant), RuntimeWeights::Bf16);
        let dense = dequantized(&decoder);
        let want = greedy(&dense, &golden.first, 12, &mut dense.new_cache(1, 64));
        let got = greedy(&decoder, &golden.first, 12, &mut decoder.new_cache(1, 64));
        let Some(most) = rounding(RuntimeWeights::Bf16) else {
            assert_eq!(got, want, "{variant}");
            continue;
        };
        let whole = [&golden.first[..], &got].concat();
        let scores: Vec<f32> = host(logits(&dense, &whole));
        let vocabulary = scores.len() / whole.len();
        let size = (scores.iter().map(|score| score * score).sum::<f32>() / scores.len() as f32).sqrt();
        for (at, &token) in (golden.first.len() - 1..).zip(&got) {
            let scores = &scores[at * vocabulary..][..vocabulary];
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            // Both scores may be off, by more than the mean.
            assert!(
                highest - scores[token as usize] < 6.0 * most * size,
                "{variant} {at}"
            );
        }
    }
}

/// Its file holds bf16, so nothing is rounded.
#[test]
fn a_model_of_bf16_decodes_the_tokens_of_transformers_in_bf16() {
    let (_, golden) = golden("sharded-bf16-linear", &Device::flex());
    let decoder = quantized(&golden_dir("sharded-bf16-linear"), RuntimeWeights::Bf16);
    let got = greedy(
        &decoder,
        &golden.first,
        golden.greedy.len(),
        &mut decoder.new_cache(1, 256),
    );
    assert_eq!(got, golden.greedy);
}

/// A pass of many rows and passes of one give a token the same logits, but for the attention's order of sums.
#[test]
fn decoding_through_the_cache_is_near_a_pass_without() {
    for format in FORMATS {
        for variant in ["tied", "qwen3", "gemma2"] {
            let (_, golden) = golden(variant, &Device::flex());
            let decoder = quantized(&golden_dir(variant), format);
            let whole = logits(&decoder, &golden.first);
            let mut cache = decoder.new_cache(1, 64);
            let mut pieces = Vec::new();
            for token in &golden.first {
                let hidden = decoder.forward(ids(&[&[*token]], &Device::flex()), Some(&mut cache));
                pieces.push(decoder.logits(hidden));
            }
            let off = off(Tensor::cat(pieces, 1), whole);
            assert!(off < 0.01, "{variant} {format}: {off}");
        }
    }
}

#[test]
fn the_loss_is_that_of_the_logits() {
    for (variant, format) in [
        ("tied", RuntimeWeights::Q8),
        ("untied-bias-llama3", RuntimeWeights::Q4),
    ] {
        let (_, golden) = golden(variant, &Device::flex());
        let decoder = quantized(&golden_dir(variant), format);
        let sequence = &golden.first;
        let targets = Targets {
            rows: (0..sequence.len() as u32 - 1).collect(),
            ids: sequence[1..].to_vec(),
        };
        let input = ids(&[sequence], &Device::flex()).reshape([-1]);
        let got = decoder.target_nll(input, &Sequences::equal(1, sequence.len()), &targets);
        let all = logits(&decoder, sequence);
        let [_, tokens, vocabulary] = all.dims();
        let rows = all.reshape([tokens, vocabulary]).narrow(0, 0, tokens - 1);
        let want = reference::logits_nll(rows, &targets.ids);
        assert_close(&host(got), &host(want), 1e-3, variant);
    }
}

#[test]
fn an_adapter_over_quantised_weights_is_one_over_what_they_stand_for() {
    for variant in ["tied", "qwen3", "untied-bias-llama3"] {
        let (_, golden) = golden(variant, &Device::flex());
        for format in FORMATS {
            let base = quantized(&golden_dir(variant), format);
            let mut adapter = LoraAdapter::new(&LoraConfig::default(), &base, 3).unwrap();
            for weights in adapter.layers.values_mut() {
                for (at, value) in weights.b.values.iter_mut().enumerate() {
                    *value = ((at * 31) % 17) as f32 / 100.0 - 0.08;
                }
            }
            let got = logits(&base.with_adapter(&adapter).unwrap(), &golden.first);
            let want = logits(&dequantized(&base).with_adapter(&adapter).unwrap(), &golden.first);
            assert!(
                off(got.clone(), logits(&base, &golden.first)) > 0.02,
                "{variant}: it does something"
            );
            let off = off(got, want);
            assert!(
                off < rounding(format).unwrap_or(1e-5),
                "{variant} {format}: {off}"
            );
        }
    }
}

#[test]
fn quantised_weights_are_neither_merged_into_nor_written() {
    let loaded = load_dir_quantized(
        &golden_dir("tied"),
        RuntimeWeights::Q8,
        &WeightsCache::Off,
        &Device::flex(),
    )
    .unwrap();
    let adapter = LoraAdapter::new(&LoraConfig::default(), &loaded.decoder, 7).unwrap();
    let merged = loaded.decoder.merged(&adapter).map(|_| ());
    let error = merged.unwrap_err().to_string();
    assert!(error.contains("q8") && error.contains("f32"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let written = save_dir(&loaded.config, &loaded.decoder, dir.path());
    let error = written.unwrap_err().to_string();
    assert!(error.contains("q8"), "{error}");
}

/// A model's directory that a test may change.
fn copy_of(variant: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden_dir(variant)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn bytes_of(decoder: &CausalDecoder) -> Vec<(QuantFormat, Vec<u8>)> {
    let mut all = Vec::new();
    each_weight(&mut decoder.clone(), |weight, _| {
        let ProjectionWeight::Quantized(weight) = weight else {
            panic!()
        };
        all.push((weight.format(), weight.bytes().to_vec()));
    });
    all
}

fn open(dir: &Path, format: RuntimeWeights) -> CausalDecoder {
    load_dir_quantized(dir, format, &WeightsCache::BesideModel, &Device::flex())
        .unwrap()
        .decoder
}

#[test]
fn the_next_start_takes_the_weights_from_the_file() {
    for variant in ["tied", "untied-bias-llama3", "phi3", "baichuan"] {
        let dir = copy_of(variant);
        for format in FORMATS {
            let file = dir.path().join(format!("model.{format}.aligner"));
            let first = open(dir.path(), format);
            let written = std::fs::metadata(&file).unwrap();
            let second = open(dir.path(), format);
            assert_eq!(bytes_of(&first), bytes_of(&second), "{variant} {format}");
            assert_eq!(bytes_of(&first), bytes_of(&quantized(dir.path(), format)));
            let read = std::fs::metadata(&file).unwrap();
            assert_eq!(
                written.modified().unwrap(),
                read.modified().unwrap(),
                "not written again"
            );
            let tokens =
                |decoder: &CausalDecoder| greedy(decoder, &[1, 2, 3], 8, &mut decoder.new_cache(1, 64));
            assert_eq!(tokens(&first), tokens(&second), "{variant} {format}");
        }
    }
}

#[test]
fn no_file_is_written_where_none_is_wanted() {
    let dir = copy_of("tied");
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    load_dir_quantized(
        dir.path(),
        RuntimeWeights::Q8,
        &WeightsCache::Off,
        &Device::flex(),
    )
    .unwrap();
    load_dir_quantized(
        dir.path(),
        RuntimeWeights::F32,
        &WeightsCache::BesideModel,
        &Device::flex(),
    )
    .unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let cache = WeightsCache::In(elsewhere.path().join("new"));
    load_dir_quantized(dir.path(), RuntimeWeights::Q8, &cache, &Device::flex()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before);
    assert!(elsewhere.path().join("new/model.q8.aligner").is_file());
}

/// Small ones are in panels at once, so `no_file_is_written_where_none_is_wanted` finds none of theirs.
#[test]
fn larger_models_in_f32_are_kept_as_well_and_small_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let shape = LlamaShape {
        vocab_size: 64,
        hidden_size: 512,
        intermediate_size: 2000,
        layers: 2,
        heads: 8,
        kv_heads: 2,
        max_positions: 64,
    };
    let (config, device) = (ModelConfig::llama(shape).unwrap(), Device::flex());
    let random = |seed| CausalDecoder::random(&config, seed, &device).unwrap();
    let file = dir.path().join("model.f32.aligner");
    let tokens = |decoder: &CausalDecoder| greedy(decoder, &[1, 2, 3], 8, &mut decoder.new_cache(1, 64));
    for seed in [1, 2] {
        save_dir(&config, &random(seed), dir.path()).unwrap();
        let want = tokens(&load_dir(dir.path(), &device).unwrap().decoder.into_panels());
        let written = |path: &Path| std::fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(tokens(&open(dir.path(), RuntimeWeights::F32)), want, "made");
        let first = written(&file);
        assert_eq!(tokens(&open(dir.path(), RuntimeWeights::F32)), want, "mapped");
        assert_eq!(written(&file), first, "not written again");
        // What is damaged is made anew.
        let mut bad = std::fs::read(&file).unwrap();
        let at = bad.len() / 2;
        bad[at] ^= 1;
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bad).unwrap();
        assert_eq!(tokens(&open(dir.path(), RuntimeWeights::F32)), want, "made anew");
        assert_ne!(written(&file), first);
    }
    let small = copy_of("tied");
    open(small.path(), RuntimeWeights::F32);
    assert!(!small.path().join("model.f32.aligner").exists());
}

#[test]
fn a_damaged_file_is_made_anew() {
    let dir = copy_of("tied");
    let file = dir.path().join("model.q8.aligner");
    let first = open(dir.path(), RuntimeWeights::Q8);
    let good = std::fs::read(&file).unwrap();
    let bad: [Vec<u8>; 4] = [
        Vec::new(),
        good[..good.len() / 2].to_vec(),
        good.iter().rev().copied().collect(),
        {
            let mut bad = good.clone();
            let at = bad.len() - 100;
            bad[at] ^= 0x10;
            bad
        },
    ];
    for bad in bad {
        // In another file: `first` is mapped from the old one.
        let other = dir.path().join("other");
        std::fs::write(&other, bad).unwrap();
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(bytes_of(&open(dir.path(), RuntimeWeights::Q8)), bytes_of(&first));
        assert!(std::fs::read(&file).unwrap() == good, "it was made anew");
    }
}

#[test]
fn a_file_of_other_weights_is_made_anew() {
    let dir = copy_of("tied");
    let old = open(dir.path(), RuntimeWeights::Q8);
    // The same shapes, other numbers.
    let mut loaded = load_dir(dir.path(), &Device::flex()).unwrap();
    loaded.decoder = CausalDecoder::random(&loaded.config, 77, &Device::flex()).unwrap();
    save_dir(&loaded.config, &loaded.decoder, dir.path()).unwrap();
    let new = open(dir.path(), RuntimeWeights::Q8);
    assert_ne!(bytes_of(&old), bytes_of(&new));
    assert_eq!(
        bytes_of(&new),
        bytes_of(&quantized(dir.path(), RuntimeWeights::Q8))
    );
    assert_eq!(bytes_of(&new), bytes_of(&open(dir.path(), RuntimeWeights::Q8)));
}

#[test]
fn a_missing_weight_is_named_also_beside_a_whole_file() {
    let dir = copy_of("tied");
    let loaded = load_dir(dir.path(), &Device::flex()).unwrap();
    let file: PathBuf = dir.path().join("model.q4.aligner");
    open(dir.path(), RuntimeWeights::Q4);
    assert!(file.is_file());
    let mut tensors = aligner_model::weights::named_tensors(&loaded.decoder);
    tensors.retain(|tensor| tensor.name != "model.layers.1.mlp.up_proj.weight");
    aligner_model::weights::write_safetensors(&dir.path().join("model.safetensors"), tensors).unwrap();
    let error = load_dir_quantized(
        dir.path(),
        RuntimeWeights::Q4,
        &WeightsCache::BesideModel,
        &Device::flex(),
    );
    let error = error.map(|_| ()).unwrap_err().to_string();
    assert!(
        error.starts_with("1 tensors are missing") && error.contains("layers.1.mlp.up_proj.weight"),
        "{error}"
    );
}
