//! Control vectors: that they change what they say, and rows that show nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod lab;

use aligner_data::synthetic::CorrectionTask;
use aligner_data::{Encoder, PromptTemplate, Record, Tokenizer};
use aligner_model::{CausalDecoder, load_dir};
use aligner_train::{SteeringModel, SteeringOptions, TrainError, fit_steering};
use burn::tensor::Device;
use lab::Lab;

fn rows(count: usize) -> Vec<Record> {
    CorrectionTask::new(11).train(count)
}

fn open(lab: &Lab) -> (CausalDecoder, Encoder) {
    let dir = lab.path("base");
    let decoder = load_dir(&dir, &Device::flex().autodiff()).unwrap().decoder;
    let encoder = Encoder::new(Tokenizer::from_dir(&dir).unwrap(), PromptTemplate::default(), 256);
    (decoder.without_gradients(), encoder)
}

fn fitted(
    decoder: &CausalDecoder,
    encoder: &Encoder,
    rows: &[Record],
    shift: f64,
) -> aligner_train::SteeringFit {
    let model = SteeringModel {
        decoder,
        encoder: encoder.clone(),
    };
    let options = SteeringOptions {
        layer: Some(1),
        shift,
    };
    fit_steering(&model, rows, options).unwrap()
}

#[test]
fn a_vector_shifts_corrections_against_copies_by_what_was_asked_for() {
    let (decoder, encoder) = open(&Lab::new());
    let rows = rows(40);
    let differ = rows
        .iter()
        .filter(|row| row.correction.as_deref() != Some(&row.answer));
    // So little that the gradient tells all of it.
    let shift = 0.05;
    let fit = fitted(&decoder, &encoder, &rows, shift);
    assert_eq!((fit.rows, fit.layer), (differ.count(), 1));
    assert_eq!(fit.vector.layers.keys().collect::<Vec<_>>(), [&1]);
    for change in [-1.0, 1.0] {
        let steered = decoder.with_steering(&fit.vector, change).unwrap();
        let moved = fitted(&steered, &encoder, &rows, shift).preference - fit.preference;
        assert!(
            (moved - change * shift).abs() < 0.1 * shift,
            "{moved} instead of {}",
            change * shift
        );
    }
    // Twice the shift is twice the vector.
    let twice = fitted(&decoder, &encoder, &rows, 2.0 * shift);
    for (twice, once) in twice.vector.layers[&1].iter().zip(&fit.vector.layers[&1]) {
        assert!((twice - 2.0 * once).abs() <= 1e-4 * once.abs().max(1e-3));
    }
}

#[test]
fn rows_that_show_nothing_and_layers_that_are_not_there_are_refused() {
    let (decoder, encoder) = open(&Lab::new());
    let model = SteeringModel {
        decoder: &decoder,
        encoder,
    };
    let refused = |rows: &[Record], options: SteeringOptions| match fit_steering(&model, rows, options) {
        Err(TrainError::Config { .. }) => {}
        other => panic!("{other:?}"),
    };
    let any = SteeringOptions::default();
    let copies: Vec<Record> = rows(40)
        .into_iter()
        .filter(|row| row.correction.as_deref() == Some(&row.answer))
        .collect();
    assert!(!copies.is_empty());
    refused(&[], any);
    refused(&copies, any);
    let mut long = rows(3);
    for row in &mut long {
        row.answer = "a".repeat(1000);
    }
    refused(&long, any);
    refused(
        &rows(6),
        SteeringOptions {
            layer: Some(99),
            ..any
        },
    );
    for shift in [0.0, -1.0, f64::NAN] {
        refused(&rows(6), SteeringOptions { shift, ..any });
    }
}
