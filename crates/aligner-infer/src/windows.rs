//! Long answers in windows: an answer that does not fit the context is cut at sentence ends and corrected piece by piece.
//!
//! Cutting is pure: it asks a closure whether a piece fits. What stands between two pieces is kept, so that copying every
//! piece gives the answer byte for byte.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::causal_lm::CausalLm;
use crate::corrector::{CorrectOptions, Correction, Corrector, Input, Usage};
use crate::engine::{FinishReason, Timings};
use crate::error::{InferError, Result};
use crate::sampler::part_seed;
use crate::sentences::last_cut;

/// What is done with an answer that is too long to be corrected in one piece.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongAnswers {
    /// It is refused with [`InferError::PromptTooLong`]; one whose correction does not fit is cut at the end of the context.
    #[default]
    Refuse,
    /// It is corrected in windows that end where a paragraph, a line or a sentence ends.
    ///
    /// A window is corrected with the question and the earlier turns, without what stands before and behind it in the answer.
    /// It is so long that a correction a quarter longer than itself fits the context and
    /// [`max_new_tokens`](CorrectOptions::max_new_tokens), which holds for each window. White space between windows is not
    /// shown to the model and stays as it is.
    Windows,
}

impl std::str::FromStr for LongAnswers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "windows" => Ok(Self::Windows),
            _ => Err("it is refuse or windows".into()),
        }
    }
}

/// A piece of an answer, and the white space before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window<'a, T> {
    pub gap: &'a str,
    pub text: &'a str,
    /// What measuring it gave.
    pub measured: T,
}

/// An answer in pieces: gaps and texts, and then `rest`, are the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Windows<'a, T> {
    pub windows: Vec<Window<'a, T>>,
    /// White space behind the last piece.
    pub rest: &'a str,
}

/// How an answer is corrected, with the tokens of the prompts: who measured them need not make them again.
pub(crate) enum Cut<'a> {
    /// In one piece.
    Whole(Vec<u32>),
    /// In windows.
    Windows(Windows<'a, Vec<u32>>),
}

/// Tokens of a piece, and what else measuring it gives.
type Measure<'a, T, E> = dyn FnMut(&str) -> Result<(usize, T), E> + 'a;

/// Tokens of a piece, and how many there may be.
struct Meter<'a, T, E> {
    tokens: &'a mut Measure<'a, T, E>,
    limit: usize,
    /// Bytes a token has, by the piece measured last.
    bytes_per_token: f64,
    /// Whether the next piece begins inside a block of code.
    in_code: bool,
}

/// Cuts a text, which has about `bytes_per_token`, into pieces of at most `limit` tokens each.
///
/// A piece is measured a few times whatever the text, so the time is linear in its length. `None`: a single character has
/// more tokens than `limit`.
pub(crate) fn split<'a, T, E>(
    text: &'a str,
    limit: usize,
    bytes_per_token: f64,
    tokens: &mut Measure<'_, T, E>,
) -> Result<Option<Windows<'a, T>>, E> {
    let mut meter = Meter {
        tokens,
        limit,
        bytes_per_token,
        in_code: false,
    };
    let (mut left, rest) = text.split_at(text.trim_end().len());
    let mut windows = Vec::new();
    while !left.is_empty() {
        let (gap, behind) = left.split_at(left.len() - left.trim_start().len());
        let Some((end, measured)) = meter.window_end(behind)? else {
            return Ok(None);
        };
        let (text, behind) = behind.split_at(end);
        windows.push(Window { gap, text, measured });
        left = behind;
    }
    Ok(Some(Windows { windows, rest }))
}

impl<T, E> Meter<'_, T, E> {
    /// Where the first piece of a text ends, and its measure; neither the text nor the piece begins or ends with white space.
    fn window_end(&mut self, text: &str) -> Result<Option<(usize, T)>, E> {
        let first = text.chars().next().map_or(0, char::len_utf8);
        // About as long as a piece may be, at first by the measure of the last piece.
        let mut reach = floor(text, self.reach(1.0)).max(first);
        loop {
            let cut = last_cut(text, reach, self.in_code);
            let piece = &text[..cut.end];
            let (tokens, measured) = (self.tokens)(piece)?;
            if tokens > 0 {
                self.bytes_per_token = piece.len() as f64 / tokens as f64;
            }
            if tokens <= self.limit {
                self.in_code = cut.in_code;
                return Ok(Some((cut.end, measured)));
            }
            if cut.end <= first {
                return Ok(None);
            }
            // What would be right by this measure, and in any case a good deal less.
            let shorter = self.reach(0.95).min(cut.end - cut.end.div_ceil(8));
            reach = floor(text, shorter).max(first);
        }
    }

    /// Bytes that have about `share` of the limit.
    fn reach(&self, share: f64) -> usize {
        (self.limit as f64 * self.bytes_per_token * share) as usize
    }
}

/// The last place up to `at` between two characters.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Room for the correction of a piece of `tokens`: a quarter more than a copy, and the end of sequence.
fn room(tokens: usize) -> usize {
    tokens + tokens / 4 + 16
}

/// Windows smaller than this would correct single words.
const MIN_WINDOW_TOKENS: usize = 16;

/// The longest window, in tokens, behind a prompt that has `prompt_tokens` without one.
fn window_tokens(prompt_tokens: usize, max_positions: usize, max_new_tokens: usize) -> Option<usize> {
    let left = max_positions.checked_sub(prompt_tokens)?;
    // window + window + window / 4 + 16 <= left
    let by_context = left.checked_sub(16)? * 4 / 9;
    let by_limit = max_new_tokens.checked_sub(16)? * 4 / 5;
    let tokens = by_context.min(by_limit);
    (tokens >= MIN_WINDOW_TOKENS).then_some(tokens)
}

/// Whether an answer is corrected in one piece: the prompt and the correction of an answer fit.
fn fits_whole(prompt_tokens: usize, own_tokens: usize, max_positions: usize, max_new_tokens: usize) -> bool {
    let room = room(own_tokens);
    prompt_tokens + room <= max_positions && room <= max_new_tokens
}

/// Options of one window of an answer.
pub(crate) fn of_window(options: &CorrectOptions, index: usize) -> CorrectOptions {
    let mut sampling = options.sampling;
    // Else every window would be drawn with the same numbers.
    sampling.seed = part_seed(sampling.seed, index as u64);
    CorrectOptions {
        long_answers: LongAnswers::Refuse,
        sampling,
        // A prediction is one of the whole: it would mislead the drafts of every window but the first.
        prediction: None,
        ..options.clone()
    }
}

impl<L: CausalLm> Corrector<L> {
    /// [`correct_with`](Self::correct_with) of an answer of any length, under [`LongAnswers::Windows`].
    pub(crate) fn correct_windows(
        &self,
        input: Input<'_>,
        options: &CorrectOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Correction> {
        let cut = match self.cut(input, options.max_new_tokens)? {
            Cut::Whole(prompt) => return self.correct_prompt(prompt, input.answer, options, on_text),
            Cut::Windows(cut) => cut,
        };
        let mut joined = Joined::new();
        for (index, window) in cut.windows.into_iter().enumerate() {
            if joined.separator(window.gap, on_text).is_break() {
                return Ok(joined.done);
            }
            let (prompt, options) = (window.measured, of_window(options, index));
            joined.push(self.correct_prompt(prompt, window.text, &options, &mut *on_text)?);
            if joined.done.finish_reason == FinishReason::Cancelled {
                return Ok(joined.done);
            }
        }
        let _ = joined.separator(cut.rest, on_text);
        Ok(joined.done)
    }

    /// Cuts an answer that is too long to be corrected in one piece.
    pub(crate) fn cut<'a>(&self, input: Input<'a>, max_new_tokens: usize) -> Result<Cut<'a>> {
        let prompt = |answer: &str| self.voice().prompt(Input { answer, ..input });
        let max_positions = self.model().max_positions();
        let all = prompt(input.answer)?;
        // Were all of it the answer's, it would fit still: as it is with most, and the rest need not be measured.
        if fits_whole(all.len(), all.len(), max_positions, max_new_tokens) {
            return Ok(Cut::Whole(all));
        }
        let alone = prompt("")?.len();
        let own = all.len().saturating_sub(alone);
        if fits_whole(all.len(), own, max_positions, max_new_tokens) {
            return Ok(Cut::Whole(all));
        }
        let no_room = || InferError::NoRoomForWindows {
            question_tokens: alone,
            max_positions,
            max_new_tokens,
        };
        let limit = window_tokens(alone, max_positions, max_new_tokens).ok_or_else(no_room)?;
        let mut tokens = |piece: &str| prompt(piece).map(|ids| (ids.len().saturating_sub(alone), ids));
        let bytes_per_token = input.answer.len() as f64 / own.max(1) as f64;
        let cut = split(input.answer, limit, bytes_per_token, &mut tokens)?.ok_or_else(no_room)?;
        // Of white space alone there is nothing to cut.
        Ok(match cut.windows.is_empty() {
            true => Cut::Whole(all),
            false => Cut::Windows(cut),
        })
    }
}

/// The corrections of windows as they become one.
pub(crate) struct Joined {
    pub done: Correction,
}

impl Joined {
    pub fn new() -> Self {
        Self {
            done: Correction {
                text: String::new(),
                ids: Vec::new(),
                finish_reason: FinishReason::Stop,
                usage: Usage::default(),
                timings: Timings::default(),
            },
        }
    }

    /// White space of the answer.
    pub fn separator(
        &mut self,
        gap: &str,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if gap.is_empty() {
            return ControlFlow::Continue(());
        }
        self.done.text.push_str(gap);
        let flow = on_text(gap);
        if flow.is_break() {
            self.done.finish_reason = FinishReason::Cancelled;
        }
        flow
    }

    pub fn push(&mut self, part: Correction) {
        // Taken apart whole, so that a count that is added there is not forgotten here.
        let Correction {
            text,
            ids,
            finish_reason,
            usage:
                Usage {
                    prompt_tokens,
                    completion_tokens,
                    draft_proposed,
                    draft_accepted,
                },
            timings: Timings {
                prefill_seconds,
                decode_seconds,
            },
        } = part;
        let done = &mut self.done;
        done.text.push_str(&text);
        done.ids.extend(ids);
        done.usage.prompt_tokens += prompt_tokens;
        done.usage.completion_tokens += completion_tokens;
        done.usage.draft_proposed += draft_proposed;
        done.usage.draft_accepted += draft_accepted;
        done.timings.prefill_seconds += prefill_seconds;
        done.timings.decode_seconds += decode_seconds;
        // One that was cut is more worth knowing than all that were not.
        if finish_reason != FinishReason::Stop {
            done.finish_reason = finish_reason;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Cuts by a measure that has no errors.
    fn cut(text: &str, limit: usize, mut tokens: impl FnMut(&str) -> usize) -> Option<Windows<'_, ()>> {
        let mut measure = |piece: &str| Ok::<_, ()>((tokens(piece), ()));
        split(text, limit, 4.0, &mut measure).unwrap()
    }

    fn joined(windows: &Windows<'_, ()>) -> String {
        let parts = windows
            .windows
            .iter()
            .map(|window| window.gap.to_string() + window.text);
        parts.collect::<String>() + windows.rest
    }

    /// Texts of words, marks, blank lines, code, and characters of all lengths.
    fn texts() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-zA-Z]{1,12}",
            "[ \n\t]{1,4}",
            "[.!?。」)*\"'`#-]{1,4}",
            Just("\n```\n".to_string()),
            Just("\n\n1. ".to_string()),
            "\\PC{0,6}",
            Just(" ".repeat(300)),
            Just("a".repeat(300)),
        ];
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn pieces_are_the_text_and_each_fits(text in texts(), limit in 4usize..60, bytes in 1usize..5) {
            let tokens = |piece: &str| piece.len().div_ceil(bytes);
            let windows = cut(&text, limit, tokens).unwrap();
            prop_assert_eq!(joined(&windows), text.clone());
            for window in &windows.windows {
                prop_assert!(!window.text.is_empty() && window.text.trim() == window.text);
                prop_assert!(tokens(window.text) <= limit);
                prop_assert!(window.gap.trim().is_empty());
            }
            // None is much smaller than it might be: two neighbours fill a quarter of a window, short gaps aside.
            prop_assert!(windows.windows.len() <= 2 + 8 * text.len().div_ceil(limit * bytes / 4 + 1));
        }
    }

    #[test]
    fn windows_end_with_sentences() {
        let text = "This is one sentence. ".repeat(50);
        let windows = cut(&text, 30, |piece| piece.split_whitespace().count()).unwrap();
        assert!(windows.windows.len() >= 7);
        assert!(
            windows
                .windows
                .iter()
                .all(|window| window.text.ends_with("sentence."))
        );
        assert_eq!(joined(&windows), text);
    }

    #[test]
    fn a_character_that_does_not_fit_is_told() {
        assert_eq!(cut("🦀🦀", 3, str::len), None);
        assert_eq!(cut("🦀🦀", 4, str::len).unwrap().windows.len(), 2);
        assert_eq!(cut("   ", 4, str::len).unwrap().windows, []);
    }

    #[test]
    fn the_measure_sees_a_long_text_a_few_times_at_most() {
        for unit in ["a", " ", "! ", "。", "a\n", "```\n", "' ", "e\u{301}", "1. "] {
            let text = unit.repeat((1 << 20) / unit.len());
            let mut seen = 0;
            let windows = cut(&text, 100, |piece| {
                seen += piece.len();
                piece.len().div_ceil(3)
            });
            assert_eq!(joined(&windows.unwrap()), text);
            assert!(seen <= 4 * text.len(), "{unit:?}: {seen} of {} bytes", text.len());
        }
    }

    #[test]
    fn a_window_and_its_correction_fit_the_context() {
        for (prompt, positions, new) in [
            (20, 256, 1024),
            (100, 8192, 1024),
            (7, 2048, 100),
            (1000, 1100, 1024),
        ] {
            let tokens = window_tokens(prompt, positions, new).unwrap();
            assert!(prompt + tokens + room(tokens) <= positions && room(tokens) <= new);
            // The next larger one does not.
            let more = tokens + 2;
            assert!(prompt + more + room(more) > positions || room(more) > new);
        }
        assert_eq!(window_tokens(300, 256, 1024), None);
        assert_eq!(window_tokens(20, 256, 8), None);
    }
}
