//! Weights in other types and in shards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use aligner_model::weights::{
    NamedTensor, SafetensorsSource, TensorSource, WeightDtype, as_stored, dir_tensors, named_tensors,
    write_shards,
};
use aligner_model::{ModelConfig, ModelError, load_dir};
use burn::tensor::Device;
use common::{VARIANTS, assert_close, golden, golden_dir, saved_logits};

fn save(variant: &str, dtype: WeightDtype, max_shard_bytes: u64, out: &Path) -> ModelConfig {
    let dir = golden_dir(variant);
    let config = ModelConfig::read(&dir).unwrap();
    let tensors = as_stored(&config, dir_tensors(&config, &dir).unwrap());
    write_shards(out, tensors, dtype, max_shard_bytes).unwrap();
    config.write_as(out, dtype).unwrap();
    config
}

fn all_tensors(dir: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut source = SafetensorsSource::open(dir).unwrap();
    let names = source.names();
    let read = |name: String| {
        let tensor = source.read(&name).unwrap().unwrap();
        (name, (tensor.shape, tensor.values))
    };
    names.into_iter().map(read).collect()
}

#[test]
fn a_directory_streams_what_a_decoder_holds() {
    for variant in VARIANTS {
        let (model, _) = golden(variant, &Device::flex());
        let read = |tensors: Vec<NamedTensor>| -> Vec<(String, Vec<usize>, Vec<f32>)> {
            tensors
                .into_iter()
                .map(|tensor| (tensor.name, tensor.shape, (tensor.read)().unwrap()))
                .collect()
        };
        let streamed = read(dir_tensors(&model.config, &golden_dir(variant)).unwrap());
        assert!(streamed == read(named_tensors(&model.decoder)), "{variant}");
    }
}

#[test]
fn bf16_and_f16_are_the_rounded_originals_under_the_same_names() {
    let round = |dtype: WeightDtype, value: f32| match dtype {
        WeightDtype::F32 => value,
        WeightDtype::Bf16 => half::bf16::from_f32(value).to_f32(),
        WeightDtype::F16 => half::f16::from_f32(value).to_f32(),
    };
    for variant in VARIANTS {
        for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16] {
            let out = tempfile::tempdir().unwrap();
            save(variant, dtype, u64::MAX, out.path());
            let text = std::fs::read_to_string(out.path().join("config.json")).unwrap();
            assert!(
                text.contains(&format!("\"dtype\": \"{}\"", dtype.torch_name())),
                "{text}"
            );
            let mut want = all_tensors(&golden_dir(variant));
            for (_, values) in want.values_mut() {
                values.iter_mut().for_each(|value| *value = round(dtype, *value));
            }
            let got = all_tensors(out.path());
            assert!(got == want, "{variant} {dtype:?}");
            load_dir(out.path(), &Device::flex()).unwrap();
        }
    }
}

#[test]
fn shards_are_cut_at_the_limit_and_read_as_one() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    save("phi3", WeightDtype::Bf16, u64::MAX, whole.path());
    save("phi3", WeightDtype::Bf16, 12_000, cut.path());
    let mut names: Vec<String> = std::fs::read_dir(cut.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let shards: Vec<&String> = names
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    assert!(shards.len() > 2, "{names:?}");
    assert_eq!(
        *shards[0],
        format!("model-00001-of-{:05}.safetensors", shards.len())
    );
    for shard in &shards {
        let size = cut.path().join(shard).metadata().unwrap().len();
        assert!(size < 12_000 + 3000, "{shard}: {size} with its header");
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(cut.path().join("model.safetensors.index.json")).unwrap())
            .unwrap();
    let (one, many) = (all_tensors(whole.path()), all_tensors(cut.path()));
    let total: usize = one.values().map(|(_, values)| values.len() * 2).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), one.len());
    assert!(one == many);
}

#[test]
fn transformers_computes_the_same_from_what_was_written() {
    let device = Device::flex();
    // transformers does not hold Baichuan.
    for variant in VARIANTS.into_iter().filter(|&variant| variant != "baichuan") {
        let out = tempfile::tempdir().unwrap();
        save(variant, WeightDtype::Bf16, 12_000, out.path());
        let (_, golden) = golden(variant, &device);
        let Some(got) = saved_logits(out.path(), &golden.first, None) else {
            return;
        };
        let model = load_dir(out.path(), &device).unwrap();
        let logits = model.decoder.logits(
            model
                .decoder
                .forward(common::ids(&[&golden.first], &device), None),
        );
        let ours = common::host(logits.narrow(1, golden.first.len() - 2, 2));
        assert_close(&ours, &got, 1e-4, variant);
    }
}

#[test]
fn a_failure_leaves_no_file() {
    let out = tempfile::tempdir().unwrap();
    let tensor = |name: &str, values: Result<Vec<f32>, ModelError>| NamedTensor {
        name: name.into(),
        shape: vec![2],
        read: Box::new(move || values),
    };
    for second in [
        tensor("b", Err(ModelError::Execution("the device is gone".into()))),
        tensor("b", Ok(vec![1.0, 1e6])),
    ] {
        let tensors = vec![tensor("a", Ok(vec![1.0, 2.0])), second];
        let error = write_shards(out.path(), tensors, WeightDtype::F16, u64::MAX)
            .unwrap_err()
            .to_string();
        assert!(error.contains("the device is gone") || error.contains("tensor b holds 1000000"));
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_directory_that_lacks_tensors_is_refused_before_anything_is_written() {
    let config = ModelConfig::read(&golden_dir("untied-bias-llama3")).unwrap();
    let error = dir_tensors(&config, &golden_dir("tied")).unwrap_err().to_string();
    assert!(
        error.contains("lm_head.weight") || error.contains("bias"),
        "{error}"
    );
}

#[test]
fn a_header_of_more_than_65_535_bytes_is_written() {
    // A format's width ends there: a checkpoint of many small tensors panicked.
    let dir = tempfile::tempdir().unwrap();
    let name = |index: usize| format!("m.model.layers.{index}.self_attn.q_proj.lora.a");
    let tensors = (0..1000).map(|index| NamedTensor {
        name: name(index),
        shape: vec![1],
        read: Box::new(move || Ok(vec![index as f32])),
    });
    write_shards(dir.path(), tensors.collect(), WeightDtype::F32, u64::MAX).unwrap();
    let tensors = all_tensors(dir.path());
    assert_eq!(tensors.len(), 1000);
    assert_eq!(tensors[&name(999)], (vec![1], vec![999.0]));
}
