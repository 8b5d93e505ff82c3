//! Rows → token ids.

use crate::chat_format::ChatFormat;
use crate::error::{DataError, Result};
use crate::format::Safety;
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
    /// A conversation is written on: the answer, or the correction where there is one, behind the chat's prompt.
    Completion,
    /// Two conversations, one behind the other ([`PairRow`](crate::PairRow)): with the correction, and with the answer.
    Preference,
    /// The same two, each a prompt and an answer that is written behind it: the tokens of the prompt are those of
    /// [`Completion`](Self::Completion), whatever the answers begin with.
    CompletionPair,
    /// Those of [`Preference`](Self::Preference), with whether each answer is safe behind both ([`Batch::labelled_pairs`](crate::Batch::labelled_pairs)).
    LabelledPreference,
}

impl Target {
    /// Whether rows are chats instead of corrections in a prompt template.
    fn is_chat(self) -> bool {
        self == Self::Completion || self.is_pair()
    }

    /// Whether a row is two conversations.
    pub(crate) fn is_pair(self) -> bool {
        matches!(
            self,
            Self::Preference | Self::CompletionPair | Self::LabelledPreference
        )
    }
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
    chat: Option<ChatFormat>,
}

impl Encoder {
    /// An encoder for rows of up to `max_length` tokens.
    pub fn new(tokenizer: Tokenizer, template: PromptTemplate, max_length: usize) -> Self {
        Self {
            tokenizer,
            template,
            max_length,
            target: Target::Correction,
            chat: None,
        }
    }

    /// The same encoder for rows that are chats of this form.
    #[must_use]
    pub fn with_chat(self, target: Target, format: ChatFormat) -> Self {
        Self {
            target,
            chat: Some(format),
            ..self
        }
    }

    /// The form of chats, where rows are chats.
    pub fn chat(&self) -> Option<&ChatFormat> {
        self.chat.as_ref().filter(|_| self.target.is_chat())
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
        if let Some(format) = self.chat() {
            return self.encode_chat(format, record);
        }
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

    fn encode_chat(&self, format: &ChatFormat, record: &Record) -> Result<(Vec<u32>, usize)> {
        let (question, history) = (record.question.as_str(), record.chat_history.as_slice());
        let correction = record.correction.as_deref();
        let written = |answer| -> Result<(Vec<u32>, usize)> {
            let mut ids = self.tokenizer.encode_chat_prompt(format, question, history)?;
            let prompt_len = ids.len();
            ids.extend(self.tokenizer.encode_chat_answer(format, answer)?);
            Ok((ids, prompt_len))
        };
        if self.target == Target::Completion {
            return written(correction.unwrap_or(&record.answer));
        }
        let Some(chosen) = correction else {
            return Err(DataError::BadRow(record.origin.error("has no second answer")));
        };
        let encode = |answer| match self.target {
            Target::CompletionPair => written(answer).map(|(ids, _)| ids),
            _ => self
                .tokenizer
                .encode_conversation(format, question, answer, history),
        };
        let (mut ids, rejected) = (encode(chosen)?, encode(&record.answer)?);
        let split = ids.len();
        ids.extend(rejected);
        if self.target == Target::LabelledPreference {
            let labels = Safety::of_pair(&record.raw)
                .map_err(|reason| DataError::BadRow(record.origin.error(reason)))?;
            ids.extend(labels.map(|safety| safety as u32));
        }
        Ok((ids, split))
    }

    /// The text that stands in the prompt as the answer, and the one that is written.
    fn texts<'a>(&self, record: &'a Record) -> Result<(&'a str, &'a str)> {
        let answer = record.answer.as_str();
        match (self.target, record.correction.as_deref()) {
            (Target::Correction, Some(correction)) => Ok((answer, correction)),
            (Target::AnswerUnchanged, _) => Ok((answer, answer)),
            (Target::CorrectionUnchanged, Some(correction)) => Ok((correction, correction)),
            (Target::Correction | Target::CorrectionUnchanged, None) => {
                Err(DataError::BadRow(record.origin.error("has no correction")))
            }
            _ => Err(DataError::BadRow(
                record.origin.error("is a chat without a chat format"),
            )),
        }
    }

    /// As [`encode_any_length`](Self::encode_any_length), for rows of up to `max_length` tokens.
    ///
    /// # Errors
    /// Also [`DataError::TooLong`]: a row is never cut, because a correction without its end teaches a model not to stop,
    /// and one without its beginning carries no loss at all.
    pub fn encode(&self, record: &Record) -> Result<(Vec<u32>, usize)> {
        let (ids, prompt_len) = self.encode_any_length(record)?;
        // Each conversation of a pair goes through a model by itself.
        let longest = match self.target.is_pair() {
            true => prompt_len.max(ids.len() - prompt_len),
            false => ids.len(),
        };
        if longest > self.max_length {
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

    #[test]
    fn a_pair_that_is_written_has_the_prompt_and_the_answers_of_a_completion() {
        let dir = tempfile::tempdir().unwrap();
        let template = PromptTemplate::default();
        let mut records = CorrectionTask::new(3).train(200);
        // The tokenizer learns a word of three colons, of which a prompt ends with one.
        for record in &mut records {
            record.question = "a:::".repeat(20);
        }
        let tokenizer = train_tokenizer(&records, &template, 400, dir.path()).unwrap();
        let mut record = records.swap_remove(0);
        (record.answer, record.correction) = ("::".into(), Some(" No.".into()));
        let encoder = Encoder::new(tokenizer.clone(), template, 512);
        let chat = ChatFormat::SAFE_RLHF;
        let encode = |target| {
            encoder
                .clone()
                .with_chat(target, chat.clone())
                .encode(&record)
                .unwrap()
        };
        let (ids, split) = encode(Target::CompletionPair);
        let (chosen, rejected) = ids.split_at(split);
        let prompt = tokenizer
            .encode_chat_prompt(&chat, &record.question, &[])
            .unwrap();
        for (ids, answer) in [(chosen, " No."), (rejected, "::")] {
            let answer = tokenizer.encode_chat_answer(&chat, answer).unwrap();
            assert_eq!(ids, [prompt.as_slice(), &answer].concat());
        }
        assert_eq!(chosen, encode(Target::Completion).0);
        // As one text, prompt and answer are other tokens, or this test says nothing.
        assert_ne!(encode(Target::Preference).0, ids);
    }
}
