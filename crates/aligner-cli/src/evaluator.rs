//! What training asks of decoding: its validation hook, filled with `aligner-infer`.

use std::error::Error;
use std::ops::ControlFlow;

use aligner_infer::{CorrectOptions, Corrector, DecoderLm, InferError, Input, diff, edit_ratio, is_copy};
use aligner_train::{Evaluator, ModelInMemory, SampleRow, Verdict};

/// The longest correction of a validation row, in tokens: a model that does not know yet how to stop takes no longer.
const MAX_NEW_TOKENS: usize = 256;

/// Corrects the sample greedily, one row after the other.
#[derive(Debug, Clone, Copy)]
pub struct GreedyEvaluator;

impl Evaluator for GreedyEvaluator {
    fn evaluate(
        &mut self,
        model: ModelInMemory,
        rows: &[SampleRow],
    ) -> Result<Vec<Verdict>, Box<dyn Error + Send + Sync>> {
        let lm = DecoderLm::new(model.loaded, model.device);
        let corrector = Corrector::from_parts(lm, model.tokenizer, model.template)?;
        let verdicts = rows.iter().map(|row| verdict(&corrector, row));
        Ok(verdicts.collect::<Result<_, InferError>>()?)
    }
}

/// Corrects a row greedily, and its reference in place of the answer.
pub fn verdict(corrector: &Corrector, row: &SampleRow) -> Result<Verdict, InferError> {
    let SampleRow {
        answer, reference, ..
    } = row;
    let correction = corrected(corrector, row, answer)?;
    // An answer that is right already asks both questions at once.
    let is_retained = if answer == reference {
        is_copy(reference, &correction)
    } else {
        is_copy(reference, &corrected(corrector, row, reference)?)
    };
    Ok(Verdict {
        edit_ratio: edit_ratio(&diff(answer, &correction)),
        is_copy: is_copy(answer, &correction),
        is_exact: is_copy(reference, &correction),
        is_retained,
        correction,
    })
}

fn corrected(corrector: &Corrector, row: &SampleRow, answer: &str) -> Result<String, InferError> {
    let tokens = |text: &str| corrector.tokenizer().encode_target(text).map(|ids| ids.len());
    let longest = tokens(&row.answer)?.max(tokens(&row.reference)?);
    let options = CorrectOptions {
        max_new_tokens: (2 * longest + 16).min(MAX_NEW_TOKENS),
        ..CorrectOptions::default()
    };
    let input = Input {
        question: &row.question,
        answer,
        chat_history: &row.chat_history,
    };
    Ok(corrector
        .correct_with(input, &options, |_| ControlFlow::Continue(()))?
        .text)
}
