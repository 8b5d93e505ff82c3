//! Our logits are Hugging Face transformers' logits; see `golden/make_golden.py` for generator, seed and tolerance.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod common;

use aligner_model::{Sequences, Targets, load_dir, save_dir};
use burn::tensor::Device;
use common::{VARIANTS, assert_close, golden, greedy, host, ids, of_fixed_rotation, saved_logits};

const TOLERANCE: f32 = 1e-4;

#[test]
fn logits_equal_transformers() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (model, golden) = golden(variant, &device);
        let logits = model
            .decoder
            .logits(model.decoder.forward(ids(&[&golden.first], &device), None));
        let [_, tokens, _] = logits.dims();
        let want: Vec<f32> = golden
            .last_two_logits
            .concat()
            .iter()
            .map(|&logit| logit as f32)
            .collect();
        let got = host(logits.narrow(1, tokens - 2, 2));
        let worst = got
            .iter()
            .zip(&want)
            .map(|(g, w)| (g - w).abs())
            .fold(0.0, f32::max);
        println!("{variant:<22} {:<22} {worst:.1e}", model.config.architecture);
        assert_close(&got, &want, TOLERANCE, variant);
    }
}

#[test]
fn loss_equals_transformers() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (model, golden) = golden(variant, &device);
        let input = ids(&[&golden.second], &device).flatten::<1>(0, 1);
        let sequences = Sequences::new([golden.second.len()]);
        let rows = (0..golden.second.len() as u32 - 1).collect();
        let nll = model.decoder.target_nll(
            input,
            &sequences,
            &Targets {
                rows,
                ids: golden.second[1..].to_vec(),
            },
        );
        let nll = f64::from(host(nll)[0]);
        assert!(
            (nll - golden.second_nll).abs() < 1e-3,
            "{variant}: {nll} {}",
            golden.second_nll
        );
    }
}

#[test]
fn greedy_tokens_equal_transformers() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (model, golden) = golden(variant, &device);
        let mut cache = model.decoder.new_cache(1, 64);
        let tokens = greedy(&model.decoder, &golden.first, golden.greedy.len(), &mut cache);
        assert_eq!(tokens, golden.greedy, "{variant}");
    }
}

#[test]
fn cached_in_pieces_equals_uncached() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (model, golden) = golden(variant, &device);
        // Where the rotation changes with the length: up to there.
        let tokens = golden.second.len().min(model.config.cached_positions());
        let sequence = &golden.second[..tokens];
        let whole = model.decoder.forward(ids(&[sequence], &device), None);
        let mut cache = model.decoder.new_cache(1, tokens);
        let mut pieces = Vec::new();
        for piece in [&sequence[..7], &sequence[7..8], &sequence[8..23], &sequence[23..]] {
            pieces.push(model.decoder.forward(ids(&[piece], &device), Some(&mut cache)));
        }
        assert_eq!(cache.len(), tokens);
        let joined = burn::tensor::Tensor::cat(pieces, 1);
        assert_close(&host(joined), &host(whole), 1e-5, variant);
    }
}

#[test]
fn a_truncated_cache_continues_as_if_the_tokens_had_never_been() {
    let device = Device::flex();
    let (model, golden) = golden("tied", &device);
    let mut fresh = model.decoder.new_cache(1, 64);
    let expected = greedy(&model.decoder, &golden.first, 8, &mut fresh);
    let mut cache = model.decoder.new_cache(1, 64);
    let (kept, last) = golden.first.split_at(golden.first.len() - 1);
    model.decoder.forward(ids(&[kept], &device), Some(&mut cache));
    model
        .decoder
        .forward(ids(&[&[5, 6, 7, 8, 9]], &device), Some(&mut cache));
    cache.truncate(kept.len());
    assert_eq!(greedy(&model.decoder, last, 8, &mut cache), expected);
}

#[test]
fn a_padded_batch_equals_its_rows_alone() {
    let device = Device::flex();
    for variant in of_fixed_rotation() {
        let (model, golden) = golden(variant, &device);
        let (short, long): (&[u32], &[u32]) = (&golden.first, &golden.second);
        let batch = model.decoder.forward(ids(&[short, long], &device), None);
        for (row, tokens) in [(0, short), (1, long)] {
            let alone = model.decoder.forward(ids(&[tokens], &device), None);
            let of_batch = batch.clone().narrow(0, row, 1).narrow(1, 0, tokens.len());
            assert_close(&host(of_batch), &host(alone), 1e-5, variant);
        }
    }
}

#[test]
fn packed_sequences_equal_each_alone() {
    let device = Device::flex();
    for variant in of_fixed_rotation() {
        let (model, golden) = golden(variant, &device);
        let parts: [&[u32]; 3] = [&golden.first, &golden.second, &golden.first];
        let sequences = Sequences::new(parts.map(<[u32]>::len));
        let input = ids(&[&parts.concat()], &device).flatten::<1>(0, 1);
        let packed = model.decoder.forward_packed(input, &sequences);
        for ((start, length), tokens) in sequences.spans().zip(parts) {
            let alone = model.decoder.forward(ids(&[tokens], &device), None);
            assert_close(
                &host(packed.clone().narrow(0, start, length)),
                &host(alone),
                1e-5,
                variant,
            );
        }
    }
}

#[test]
fn saved_and_loaded_is_the_same_model() {
    let device = Device::flex();
    for variant in VARIANTS {
        let (model, golden) = golden(variant, &device);
        let dir = tempfile::tempdir().unwrap();
        save_dir(&model.config, &model.decoder, dir.path()).unwrap();
        let again = load_dir(dir.path(), &device).unwrap();
        let run =
            |model: &aligner_model::Loaded| host(model.decoder.forward(ids(&[&golden.first], &device), None));
        assert_eq!(run(&again), run(&model), "{variant}");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
            "no temporary file is left"
        );
    }
}

#[test]
fn transformers_loads_what_was_saved() {
    let device = Device::flex();
    // transformers does not hold Baichuan.
    for variant in VARIANTS.into_iter().filter(|&variant| variant != "baichuan") {
        let (model, golden) = golden(variant, &device);
        let dir = tempfile::tempdir().unwrap();
        save_dir(&model.config, &model.decoder, dir.path()).unwrap();
        let Some(got) = saved_logits(dir.path(), &golden.first, None) else {
            return;
        };
        let want: Vec<f32> = golden
            .last_two_logits
            .concat()
            .iter()
            .map(|&logit| logit as f32)
            .collect();
        assert_close(&got, &want, 1e-5, variant);
    }
}
