//! Fine-tunes a model from code and watches the loss.
//!
//! ```sh
//! cargo run --release -p aligner-examples --bin fine_tune -- runs/demo/base runs/demo/data/train.jsonl runs/from-code
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)]

use aligner_train::{Event, RunOptions, TrainConfig, TrainError, fine_tune};

fn main() -> Result<(), TrainError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(data), Some(out)) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: fine_tune MODEL_DIR ROWS OUT_DIR");
        std::process::exit(2);
    };
    let config = TrainConfig {
        model: model.into(),
        data: vec![data.into()],
        out: out.into(),
        steps: Some(20),
        micro_batch: 16,
        accumulate: 1,
        lr: 1e-3,
        max_length: 256,
        ..TrainConfig::default()
    };
    let observer = |event: &Event<'_>| {
        if let Event::Recorded(record) = event {
            println!("step {:>3}  loss {:.4}", record.step, record.loss);
        }
    };
    let outcome = fine_tune(
        &config,
        RunOptions {
            observer: Some(Box::new(observer)),
            ..RunOptions::default()
        },
    )?;
    println!("the model is in {}", outcome.model_dir.display());
    Ok(())
}
