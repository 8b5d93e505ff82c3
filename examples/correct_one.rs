//! Corrects one answer: all that a program needs which depends on `aligner-infer`.
//!
//! ```sh
//! cargo run --release -p aligner-examples --bin correct_one -- runs/demo/final \
//!     "Ada has 9 pens and gives 4 away. How many pens are left?" "You fool, Ada has 6 pens left."
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)]

use aligner_infer::{CorrectOptions, Corrector, InferError, diff, edit_ratio};

fn main() -> Result<(), InferError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(model), Some(question), Some(answer)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("usage: correct_one MODEL_DIR QUESTION ANSWER");
        std::process::exit(2);
    };
    let corrector = Corrector::open(model)?;
    let correction = corrector.correct(&question, &answer, &CorrectOptions::default())?;
    println!("{}", correction.text);
    eprintln!(
        "edit ratio {:.2}, {} tokens in {:.3} s",
        edit_ratio(&diff(&answer, &correction.text)),
        correction.usage.completion_tokens,
        correction.timings.prefill_seconds + correction.timings.decode_seconds,
    );
    Ok(())
}
