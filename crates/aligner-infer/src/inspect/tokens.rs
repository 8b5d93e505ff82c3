//! A correction token by token.

use std::ops::{ControlFlow, Range};

use aligner_data::{EditOp, Tokenizer, diff};
use serde::Serialize;

use crate::causal_lm::CausalLm;
use crate::corrector::{CorrectOptions, Corrector, Input};
use crate::engine::{TokenScore, each_score, score_at};
use crate::error::Result;

/// A correction token by token, with the probabilities that the model gives it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The correction.
    pub correction: String,
    /// Sum of its log-probabilities, in nats.
    pub logprob: f64,
    /// Its tokens, the end of sequence included.
    pub token_count: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Its tokens; those that make one character between them are one.
    pub tokens: Vec<InspectedToken>,
}

/// A token of a correction, or several that make one character.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InspectedToken {
    /// The ids.
    pub ids: Vec<u32>,
    /// What they add to the text.
    pub text: String,
    /// Log-probability, in nats; of several together.
    pub logprob: f64,
    /// How many of them are not what the model holds most probable in their places.
    pub not_first: usize,
    /// Whether the answer has the word there too.
    pub kept: bool,
    /// Whether it ends the correction.
    pub is_end: bool,
    /// What the model holds most probable in its place, the first first; it may be among them. Of several, in the place of the
    /// first.
    pub alternatives: Vec<Alternative>,
}

/// A token that could be in the place of another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternative {
    /// Its id.
    pub id: u32,
    /// Its text by itself.
    pub text: String,
    /// Its log-probability, in nats.
    pub logprob: f64,
}

impl<L: CausalLm> Corrector<L> {
    /// How probable each token of a correction is: of the one given, or of the model's own with `options`. `alternatives` is how many
    /// tokens are named for each place.
    ///
    /// # Errors
    /// As [`correct`](Self::correct) and [`score`](Self::score).
    pub fn inspect(
        &self,
        input: Input<'_>,
        correction: Option<&str>,
        options: &CorrectOptions,
        alternatives: usize,
    ) -> Result<Inspection> {
        let target = match correction {
            Some(text) => self.correction_ids(text)?,
            None => {
                self.correct_with(input, options, |_| ControlFlow::Continue(()))?
                    .ids
            }
        };
        let prompt = self.voice().prompt(input)?;
        let scores = each_score(self.model(), &prompt, &target, |logits, id| {
            Some((score_at(logits, id)?, most_probable(logits, alternatives)))
        })?;
        let tokenizer = self.tokenizer();
        let mut tokens = Vec::new();
        let mut pieces = Pieces::new(tokenizer);
        for (&id, (score, places)) in target.iter().zip(scores) {
            let alternatives = places.into_iter().map(|(id, logprob)| Alternative {
                id,
                text: alone(tokenizer, id),
                logprob,
            });
            pieces.push(id, score, alternatives.collect(), &mut tokens)?;
        }
        pieces.finish(&mut tokens)?;
        let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
        mark_kept(input.answer, &text, &mut tokens);
        Ok(Inspection {
            correction: text,
            logprob: tokens.iter().map(|token| token.logprob).sum(),
            token_count: target.len(),
            prompt_tokens: prompt.len(),
            tokens,
        })
    }
}

/// The highest logits as log-probabilities, the highest first; of equal ones the first id.
fn most_probable(logits: &[f32], count: usize) -> Vec<(u32, f64)> {
    // There are no more than there are.
    let count = count.min(logits.len());
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (id, &logit) in logits.iter().enumerate() {
        if best.len() == count && best.last().is_none_or(|&(_, last)| logit <= last) {
            continue;
        }
        let place = best.partition_point(|&(_, other)| other >= logit);
        best.insert(place, (id as u32, logit));
        best.truncate(count);
    }
    let scored = best.into_iter();
    scored
        .filter_map(|(id, _)| Some((id, score_at(logits, id)?.logprob)))
        .collect()
}

/// A token's text by itself, or its name where it has none.
fn alone(tokenizer: &Tokenizer, id: u32) -> String {
    match tokenizer.decode(&[id]) {
        Ok(text) if !text.is_empty() && !text.contains('\u{fffd}') => text,
        _ => tokenizer.token_text(id),
    }
}

/// Puts tokens together until they make whole characters.
struct Pieces<'a> {
    tokenizer: &'a Tokenizer,
    stream: aligner_data::TokenStream,
    held: Option<InspectedToken>,
}

impl<'a> Pieces<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            stream: tokenizer.stream(),
            held: None,
        }
    }

    fn push(
        &mut self,
        id: u32,
        score: TokenScore,
        alternatives: Vec<Alternative>,
        out: &mut Vec<InspectedToken>,
    ) -> Result<()> {
        let not_first = usize::from(score.most_probable != id);
        if self.tokenizer.stop_ids().contains(&id) {
            self.finish(out)?;
            out.push(InspectedToken {
                ids: vec![id],
                text: String::new(),
                logprob: score.logprob,
                not_first,
                kept: false,
                is_end: true,
                alternatives,
            });
            return Ok(());
        }
        let held = self.held.get_or_insert(InspectedToken {
            ids: Vec::new(),
            text: String::new(),
            logprob: 0.0,
            not_first: 0,
            kept: false,
            is_end: false,
            alternatives,
        });
        held.ids.push(id);
        held.logprob += score.logprob;
        held.not_first += not_first;
        if let Some(text) = self.stream.push(id)? {
            held.text = text;
            out.extend(self.held.take());
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<InspectedToken>) -> Result<()> {
        let rest = self.stream.finish()?.unwrap_or_default();
        if let Some(mut held) = self.held.take() {
            held.text = rest;
            out.push(held);
        }
        Ok(())
    }
}

/// Marks tokens of words that the answer has too; a token with a letter of another word is none.
fn mark_kept(answer: &str, correction: &str, tokens: &mut [InspectedToken]) {
    let mut inserted: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for edit in diff(answer, correction) {
        let end = at + edit.text.len();
        match edit.op {
            EditOp::Keep => at = end,
            EditOp::Insert => {
                inserted.push(at..end);
                at = end;
            }
            EditOp::Delete => {}
        }
    }
    let mut start = 0;
    for token in tokens.iter_mut().filter(|token| !token.is_end) {
        let text = token.text.as_str();
        // White space belongs to the word behind it, where there is one.
        let blank = match text.trim_start() {
            "" => 0,
            word => text.len() - word.len(),
        };
        let (from, to) = (start + blank, start + text.trim_end().len().max(blank + 1));
        token.kept = !inserted.iter().any(|range| range.start < to && from < range.end);
        start += text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> InspectedToken {
        InspectedToken {
            ids: vec![0],
            text: text.into(),
            logprob: 0.0,
            not_first: 0,
            kept: false,
            is_end: false,
            alternatives: Vec::new(),
        }
    }

    #[test]
    fn a_token_is_kept_where_the_answer_has_its_word() {
        let marks = |answer: &str, parts: &[&str]| -> Vec<bool> {
            let mut tokens: Vec<InspectedToken> = parts.iter().map(|part| token(part)).collect();
            mark_kept(answer, &parts.concat(), &mut tokens);
            tokens.iter().map(|token| token.kept).collect()
        };
        let sun = ["The", " sun", " is", " wh", "ite", ".", "\n", "Really"];
        assert_eq!(
            marks("The sun is yellow", &sun),
            [true, true, true, false, false, false, false, false]
        );
        assert_eq!(marks("The sun is white.\nReally", &sun), [true; 8]);
        assert_eq!(marks("", &["a", "", " b"]), [false; 3]);
    }

    #[test]
    fn the_most_probable_come_first_and_ties_by_id() {
        let found = most_probable(&[1.0, 3.0, 2.0, 3.0, -1.0], 3);
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2]);
        let sum: f64 = [1.0f64, 3.0, 2.0, 3.0, -1.0].iter().map(|x| x.exp()).sum();
        assert!((found[2].1 - (2.0 - sum.ln())).abs() < 1e-12);
        assert!(most_probable(&[1.0, 2.0], 0).is_empty());
        assert_eq!(most_probable(&[1.0, 2.0], 5).len(), 2);
        assert_eq!(most_probable(&[1.0, 2.0], usize::MAX).len(), 2);
    }
}
