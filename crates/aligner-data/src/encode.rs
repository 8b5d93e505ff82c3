//! Rows → token ids.

use crate::error::{DataError, Result};
use crate::record::{Record, Turn};
use crate::template::PromptTemplate;
use crate::tokenizer::Tokenizer;

/// One encoded row: prompt, correction, end of sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Example<'a> {
    /// All tokens.
    pub ids: &'a [u32],
    /// Tokens of the prompt; those behind them carry loss.
    pub prompt_len: usize,
}

/// What a row teaches: which text stands in the prompt as the answer, and which is to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Target {
    /// The answer stands in the prompt, the correction is written.
    #[default]
    Correction,
    /// The answer is written as it stands in the prompt; the correction is not looked at and may be absent.
    AnswerUnchanged,
    /// The correction stands in the prompt in place of the answer, and is written as it stands there.
    CorrectionUnchanged,
}

/// Encodes rows for one tokenizer and template.
///
/// Prompt and correction are encoded apart and joined, so that the prompt's tokens in training are the very tokens that
/// inference sends; then comes the end-of-sequence token, which carries loss like the correction.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: PromptTemplate,
    max_length: usize,
    target: Target,
}

impl Encoder {
    /// An encoder for rows of up to `max_length` tokens.
    pub fn new(tokenizer: Tokenizer, template: PromptTemplate, max_length: usize) -> Self {
        Self {
            tokenizer,
            template,
            max_length,
            target: Target::Correction,
        }
    }

    /// The same encoder with another text to write.
    #[must_use]
    pub fn with_target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// Which text is written.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The template.
    pub fn template(&self) -> &PromptTemplate {
        &self.template
    }

    /// The longest row, in tokens.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The prompt's tokens.
    ///
    /// # Errors
    /// When the tokenizer fails on the text.
    pub fn encode_prompt(&self, question: &str, answer: &str, history: &[Turn]) -> Result<Vec<u32>> {
        self.tokenizer
            .encode_prompt(&self.template, question, answer, history)
    }

    /// A row's tokens and the length of its prompt, however long.
    ///
    /// # Errors
    /// When the row lacks a text that is needed, or the tokenizer fails on one.
    pub fn encode_any_length(&self, record: &Record) -> Result<(Vec<u32>, usize)> {
        let (answer, written) = self.texts(record)?;
        let mut ids = self.encode_prompt(&record.question, answer, &record.chat_history)?;
        let prompt_len = ids.len();
        if prompt_len == 0 {
            // The first target token needs a token before it to be predicted from.
            return Err(DataError::BadRow(record.origin.error("gives an empty prompt")));
        }
        ids.extend(self.tokenizer.encode_target(written)?);
        ids.push(self.tokenizer.eos_id());
        Ok((ids, prompt_len))
    }

    /// The text that stands in the prompt as the answer, and the one that is written.
    fn texts<'a>(&self, record: &'a Record) -> Result<(&'a str, &'a str)> {
        let answer = record.answer.as_str();
        match (self.target, record.correction.as_deref()) {
            (Target::Correction, Some(correction)) => Ok((answer, correction)),
            (Target::AnswerUnchanged, _) => Ok((answer, answer)),
            (Target::CorrectionUnchanged, Some(correction)) => Ok((correction, correction)),
            (_, None) => Err(DataError::BadRow(record.origin.error("has no correction"))),
        }
    }

    /// As [`encode_any_length`](Self::encode_any_length), for rows of up to `max_length` tokens.
    ///
    /// # Errors
    /// Also [`DataError::TooLong`]: a row is never cut, because a correction without its end teaches a model not to stop,
    /// and one without its beginning carries no loss at all.
    pub fn encode(&self, record: &Record) -> Result<(Vec<u32>, usize)> {
        let (ids, prompt_len) = self.encode_any_length(record)?;
        if ids.len() > self.max_length {
            return Err(DataError::TooLong {
                row: record.origin.to_string(),
                prompt_tokens: prompt_len,
                target_tokens: ids.len() - prompt_len,
                max_length: self.max_length,
            });
        }
        Ok((ids, prompt_len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{CorrectionTask, train_tokenizer};

    #[test]
    fn an_unchanged_text_stands_in_the_prompt_and_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let records = CorrectionTask::new(3).train(200);
        let template = PromptTemplate::default();
        let tokenizer = train_tokenizer(&records, &template, 400, dir.path()).unwrap();
        let encoder = |target| Encoder::new(tokenizer.clone(), template.clone(), 512).with_target(target);
        let record = records
            .iter()
            .find(|row| row.correction.as_ref() != Some(&row.answer))
            .unwrap();
        let correction = record.correction.clone().unwrap();
        for (target, answer, written) in [
            (Target::Correction, &record.answer, &correction),
            (Target::AnswerUnchanged, &record.answer, &record.answer),
            (Target::CorrectionUnchanged, &correction, &correction),
        ] {
            let (ids, prompt_len) = encoder(target).encode(record).unwrap();
            let prompt = encoder(target)
                .encode_prompt(&record.question, answer, &[])
                .unwrap();
            assert_eq!(&ids[..prompt_len], prompt, "{target:?}");
            let text = tokenizer.decode(&ids[prompt_len..]).unwrap();
            assert_eq!(&text, written, "{target:?}");
            assert_eq!(ids.last(), Some(&tokenizer.eos_id()));
        }
        let pair = Record {
            correction: None,
            ..record.clone()
        };
        encoder(Target::AnswerUnchanged).encode(&pair).unwrap();
        for target in [Target::Correction, Target::CorrectionUnchanged] {
            let error = encoder(target).encode(&pair).unwrap_err().to_string();
            assert!(error.contains("has no correction"), "{error}");
        }
    }
}
