//! What a strength does to answers.

use std::ops::ControlFlow;

use aligner_data::Record;
use serde::{Deserialize, Serialize};

use crate::corrector::{CorrectOptions, Corrector, Input};
use crate::decoder::DecoderLm;
use crate::diff::{diff, edit_ratio, is_copy};
use crate::error::Result;

/// What an Aligner does to answers at one strength.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StrengthEffect {
    /// The strength; 1 is the model as it was trained.
    pub strength: f64,
    /// Mean share of words changed: [`edit_ratio`].
    pub edit_ratio: f64,
    /// Share of the answers that were left as they were.
    pub copy_rate: f64,
}

impl StrengthEffect {
    /// Corrects rows greedily with a corrector of that strength, and compares answers and corrections.
    ///
    /// A correction may have `2 × answer + 16` tokens.
    ///
    /// # Errors
    /// As [`Corrector::correct`].
    pub fn measure(corrector: &Corrector<DecoderLm>, strength: f64, rows: &[Record]) -> Result<Self> {
        let (mut ratios, mut copies) = (0.0, 0);
        for row in rows {
            let answer = corrector.tokenizer().encode_target(&row.answer)?.len();
            let options = CorrectOptions {
                max_new_tokens: 2 * answer + 16,
                ..CorrectOptions::default()
            };
            let input = Input {
                question: &row.question,
                answer: &row.answer,
                chat_history: &row.chat_history,
            };
            let text = corrector
                .correct_with(input, &options, |_| ControlFlow::Continue(()))?
                .text;
            ratios += edit_ratio(&diff(&row.answer, &text));
            copies += usize::from(is_copy(&row.answer, &text));
        }
        let count = rows.len().max(1) as f64;
        Ok(Self {
            strength,
            edit_ratio: ratios / count,
            copy_rate: copies as f64 / count,
        })
    }
}
