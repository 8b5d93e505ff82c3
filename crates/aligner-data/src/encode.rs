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

/// Encodes rows for one tokenizer and template.
///
/// Prompt and correction are encoded apart and joined, so that the prompt's tokens in training are the very tokens that
/// inference sends; then comes the end-of-sequence token, which carries loss like the correction.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: PromptTemplate,
    max_length: usize,
}

impl Encoder {
    /// An encoder for rows of up to `max_length` tokens.
    pub fn new(tokenizer: Tokenizer, template: PromptTemplate, max_length: usize) -> Self {
        Self {
            tokenizer,
            template,
            max_length,
        }
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
    /// When the row has no correction, or the tokenizer fails on a text.
    pub fn encode_any_length(&self, record: &Record) -> Result<(Vec<u32>, usize)> {
        let correction = record.correction.as_deref();
        let correction =
            correction.ok_or_else(|| DataError::BadRow(record.origin.error("has no correction")))?;
        let mut ids = self.encode_prompt(&record.question, &record.answer, &record.chat_history)?;
        let prompt_len = ids.len();
        if prompt_len == 0 {
            // The first target token needs a token before it to be predicted from.
            return Err(DataError::BadRow(record.origin.error("gives an empty prompt")));
        }
        ids.extend(self.tokenizer.encode_target(correction)?);
        ids.push(self.tokenizer.eos_id());
        Ok((ids, prompt_len))
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
